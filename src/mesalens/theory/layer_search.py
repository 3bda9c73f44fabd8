"""The best layer with one head, searched for where no formula gives it."""

from typing import NamedTuple

import numpy as np
import scipy  # its parts are imported at first use, as they take time and a search is rare
from jaxtyping import Float

from mesalens.theory.linear_prediction import best_linear
from mesalens.theory.moments import ContextMoments
from mesalens.theory.symmetric import smat


class SearchedLayer(NamedTuple):
    """A layer in the coordinates z, with its risk.

    `rows` are those of B that write to the outputs, `columns` those of A that read the query.
    """

    rows: Float[np.ndarray, "m D"]
    columns: Float[np.ndarray, "D r"]
    risk: float

    def weights(
        self, moments: ContextMoments
    ) -> tuple[Float[np.ndarray, "D D"], Float[np.ndarray, "D D"]]:
        """Effective matrices A and B of the layer for inputs x = R z."""
        d, m = moments.inputs.shape[0], moments.outputs
        to_x = np.linalg.pinv(
            scipy.linalg.block_diag(moments.inputs, np.eye(m))
        )  # (x, y) to (z, y)
        A, B = np.zeros((2, d + m, d + m))
        A[:, :d] = to_x.T @ self.columns @ to_x[: moments.rank, :d]
        B[d:] = self.rows @ to_x
        return A, B


def descent_rows(moments: ContextMoments) -> Float[np.ndarray, "m D"]:
    """The rows of B in a layer that is gradient descent from zero: minus the labels."""
    return -np.eye(moments.rank + moments.outputs)[moments.rank :]


def best_columns(moments: ContextMoments, rows: Float[np.ndarray, "m D"]) -> SearchedLayer:
    """The best layer for given rows b_k, by least squares.

    `ŷ_k = -b_k^T S A z_q` is linear in A, with the features `S b_k`.
    """
    second = np.einsum("abcd,kb,kd->ac", moments.second_tensor(), rows, rows, optimize=True)
    cross = np.einsum("abrk,kb->ar", moments.cross_tensor(), rows)
    weights, explained = best_linear(second, cross[:, :, None], moments.query)
    return SearchedLayer(rows, -weights[:, :, 0], moments.null_risk - explained)


def search(moments: ContextMoments, start: Float[np.ndarray, "m D"]) -> SearchedLayer:
    """The layer at a local minimum of the risk of `best_columns` over the rows, by L-BFGS.

    At the best A the risk changes with b_k as if A were fixed (the envelope theorem): that gradient
    is a quadratic form in the moments. The scale of the rows does not matter.
    """
    size = moments.rank + moments.outputs
    second = moments.second_tensor().transpose(0, 2, 1, 3).reshape(size**2, size**2)
    cross = moments.cross_tensor()

    def risk(flat):
        rows = flat.reshape(start.shape) / np.linalg.norm(flat)
        outer = (rows.T @ rows).ravel()
        weights, explained = best_linear(
            (second @ outer).reshape(size, size),
            np.einsum("abrk,kb->ar", cross, rows)[:, :, None],
            moments.query,
        )
        A = weights[:, :, 0]
        quadratic = ((A @ moments.query @ A.T).ravel() @ second).reshape(size, size)
        slope = 2 * (rows @ quadratic - np.einsum("abrk,ar->kb", cross, A))
        return moments.null_risk - explained, slope.ravel() / np.linalg.norm(flat)

    options = {"maxiter": 500, "ftol": 1e-15, "gtol": 1e-9 * moments.null_risk}
    minimum = scipy.optimize.minimize(
        risk, start.ravel(), jac=True, method="L-BFGS-B", options=options
    )
    return best_columns(moments, (minimum.x / np.linalg.norm(minimum.x)).reshape(start.shape))


def best_layer(moments: ContextMoments, starts: int) -> SearchedLayer:
    """The best layer of several searches.

    They start from gradient descent, from the rank-one part of the unconstrained optimum, and from
    `starts` random rows.
    """
    size, m = moments.rank + moments.outputs, moments.outputs
    unconstrained, _ = best_linear(moments.second, moments.cross, moments.query)
    tensor = smat(np.moveaxis(unconstrained, 0, -1), size)  # r, m, D, D
    leading = np.stack(
        [np.linalg.svd(tensor[:, k].reshape(-1, size), full_matrices=False)[2][0] for k in range(m)]
    )
    rng = np.random.default_rng(0)
    first = [descent_rows(moments), leading, *rng.normal(size=(starts, m, size))]
    return min((search(moments, start) for start in first), key=lambda layer: layer.risk)
