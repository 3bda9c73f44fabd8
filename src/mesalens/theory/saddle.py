"""The saddle at which some layers stop: the best step of rank one."""

import numpy as np
from jaxtyping import Float

from mesalens.theory.linear_prediction import whitening
from mesalens.theory.moments import ContextMoments


def best_rank_one_step(moments: ContextMoments) -> tuple[Float[np.ndarray, "d d"], float]:
    """P of rank one and the risk of the best `ŷ = x_q^T P Σ_i y_i x_i` with such a P, for m = 1.

    Labels meet inputs in one block of S. A layer with one head can read it with x in the keys and y
    in the values, which gives any P; or with y in the keys and x in the values, which gives
    `P = v u^T`. The best of the second kind is a saddle of the population loss: to add a direction
    three factors have to grow that are all 0 there, so that it has neither slope nor negative
    curvature (docs/plateau.md). With `L = E[z_q y_q s^T]`, `K = E[s s^T]`, `M = E[z z^T]` and the
    singular values σ_1 ≥ σ_2 ≥ … of `M^-1/2 L K^-1/2`,

        R = E y_q² - σ_1²,    while the best step of any rank has    R = E y_q² - Σ_i σ_i².

    Args:
        moments: of a task with one output.
    """
    squares, labels = moments.of_labels()
    of_query, of_context = whitening(moments.query), whitening(squares)
    left, singular, right = np.linalg.svd(of_query @ labels.T @ of_context.T)
    P = singular[0] * np.outer(left[:, 0] @ of_query, right[0] @ of_context)
    back = np.linalg.pinv(moments.inputs)
    return back.T @ P @ back, moments.null_risk - float(singular[0]) ** 2
