"""The best layer with one head, searched for where no formula gives it."""

from typing import NamedTuple

import numpy as np
import scipy  # its parts are imported at first use, as they take time and a search is rare
from jaxtyping import Float

from mesalens.theory.linear_prediction import best_linear
from mesalens.theory.moments import ContextMoments
from mesalens.theory.symmetric import bilinear, smat


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
        # From (x, y) to (z, y)
        to_z = np.linalg.pinv(scipy.linalg.block_diag(moments.inputs, np.eye(m)))
        A = to_z.T @ self.columns @ to_z[: moments.rank, :d]
        return np.pad(A, ((0, 0), (0, m))), np.pad(self.rows @ to_z, ((d, 0), (0, 0)))


def search(moments: ContextMoments, start: Float[np.ndarray, "m D"]) -> SearchedLayer:
    """The layer at a local minimum of the risk over the rows b_k of B, by L-BFGS.

    `ŷ_k = -b_k^T S A z_q` is linear in A, with the features `S b_k`: given the rows, the best A is
    least squares. At the best A the risk changes with b_k as if A were fixed (the envelope
    theorem): that gradient is a quadratic form in the moments. The scale of the rows does not
    matter.
    """
    r, size = moments.rank, moments.rank + moments.outputs
    cross, eye = moments.cross_tensor(), np.eye(moments.rank + moments.outputs)
    if moments.joint is None:
        second = moments.second_tensor().transpose(0, 2, 1, 3).reshape(size**2, size**2)
    else:
        entries = bilinear(eye[:, None], eye)  # S_ab = entries_ab · s
        second = np.einsum("abp,prqs->abrqs", entries, moments.joint.second)
        second = np.einsum("abrqs,cdq->acbrds", second, entries).reshape(size**2, -1)

    def best(rows: Float[np.ndarray, "m D"]) -> SearchedLayer:
        square = (rows.T @ rows).ravel()  # of b in b^T S A z, summed over outputs
        of_rows = (square @ second).reshape((size, r, size, r) if moments.joint else (size, size))
        weights, explained = best_linear(
            np.einsum("arbr->ab", of_rows) if moments.joint else of_rows,
            np.einsum("abrk,kb->ar", cross, rows)[:, :, None],
            moments.query,
            of_rows if moments.joint else None,
        )
        return SearchedLayer(rows, -weights[:, :, 0], moments.null_risk - explained)

    def risk(flat):
        length = np.linalg.norm(flat)
        rows, A, value = best(flat.reshape(start.shape) / length)
        of_columns = np.multiply.outer(A, A) if moments.joint else A @ moments.query @ A.T
        quadratic = (second @ of_columns.ravel()).reshape(size, size)
        slope = 2 * (rows @ quadratic + np.einsum("abrk,ar->kb", cross, A))
        return value, slope.ravel() / length

    options = {"maxiter": 500, "ftol": 1e-15, "gtol": 1e-9 * moments.null_risk}
    minimum = scipy.optimize.minimize(
        risk, start.ravel(), jac=True, method="L-BFGS-B", options=options
    ).x
    return best((minimum / np.linalg.norm(minimum)).reshape(start.shape))


def best_layer(moments: ContextMoments, starts: int) -> SearchedLayer:
    """The best layer of several searches.

    They start from gradient descent, from the rank-one part of the unconstrained optimum, and from
    `starts` random rows.
    """
    m, size = moments.outputs, moments.rank + moments.outputs
    descent = -np.eye(m, size, moments.rank)  # the rows that write minus the labels
    joint = None if moments.joint is None else moments.joint.second
    unconstrained, _ = best_linear(moments.second, moments.cross, moments.query, joint)
    stacked = smat(unconstrained.T, size).reshape(m, -1, size)
    leading = np.linalg.svd(stacked, full_matrices=False)[2][:, 0]
    rng = np.random.default_rng(0)
    first = [descent, leading, *rng.normal(size=(starts, m, size))]
    return min((search(moments, start) for start in first), key=lambda layer: layer.risk)
