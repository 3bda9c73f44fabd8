"""The best step of preconditioned gradient descent."""

import numpy as np
from jaxtyping import Float

from mesalens.theory.linear_prediction import best_linear
from mesalens.theory.moments import ContextMoments


def best_descent(
    moments: ContextMoments, *, isotropic: bool = False
) -> tuple[Float[np.ndarray, "d d"], float]:
    """P* and the risk of `ŷ = x_q^T P* Σ_i y_i x_i`, the best preconditioned step from zero.

    It is a step of descent on `1/2 Σ_i ‖W x_i - y_i‖²`. With `s_k = Σ_i y_ik x_i`,

        P* = E[x x^T]^-1 (Σ_k E[x_q y_qk s_k^T]) (Σ_k E[s_k s_k^T])^-1,
        R  = E‖y_q‖² - tr(P* Σ_k E[s_k y_qk x_q^T]).

    where context and query share only f; else P* solves the normal equations of `best_linear`. If
    inputs never point in some direction, P* is 0 on it.

    Args:
        moments: of the task.
        isotropic: whether the task is the same in every rotated frame; the expectations are then
            multiples of the identity, which replace simulated ones.

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
