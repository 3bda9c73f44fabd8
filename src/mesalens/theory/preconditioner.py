"""The best step of preconditioned gradient descent."""

import numpy as np
from jaxtyping import Float

from mesalens.theory.linear_prediction import best_linear
from mesalens.theory.moments import ContextMoments


def best_preconditioner(
    moments: ContextMoments, *, isotropic: bool = False
) -> tuple[Float[np.ndarray, "d d"], float]:
    r"""The best preconditioned step of gradient descent from zero, `ŷ = x_q^T P* Σ_i y_i x_i`.

    It is a step on `1/2 Σ_i ‖W x_i - y_i‖²`. With `s_k = Σ_i y_ik x_i`,

    $$P^* = E[x x^T]^{-1} \Big(\sum_k E[x_q y_{qk} s_k^T]\Big) \Big(\sum_k E[s_k s_k^T]\Big)^{-1}$$

    $$R = E\|y_q\|^2 - \operatorname{tr}\Big(P^* \sum_k E[s_k y_{qk} x_q^T]\Big)$$

    if context and query share only f; otherwise P* solves the normal equations of least squares on
    the joint moments. If inputs never point in some direction, P* is 0 on it.

    Args:
        moments: The moments of the task.
        isotropic: Whether the task is the same in every rotated frame. The expectations are then
            multiples of the identity, which replace simulated ones.

    Returns:
        P*, of shape (d, d), and the risk R.

    Source: shared by the proofs of Mahankali et al. (2024), Theorems 1 to 3.
    """
    r, joint = moments.rank, moments.mean_square(moments.labels())[1]
    expectations = [*moments.of_labels(), moments.query]
    if isotropic:
        expectations = [np.eye(r) * np.trace(matrix) / r for matrix in expectations]
    squares, labels, query = expectations
    weights, explained = best_linear(squares, labels[:, :, None], query, joint)
    back = np.linalg.pinv(moments.inputs)
    return back.T @ weights[:, :, 0].T @ back, moments.null_risk - explained
