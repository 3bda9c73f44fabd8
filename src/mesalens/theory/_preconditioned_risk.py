"""The exact risk of any preconditioned step of gradient descent from zero."""

import numpy as np
from jaxtyping import Float

from mesalens.theory.moments import ContextMoments


def preconditioned_risk(P: Float[np.ndarray, "d d"], moments: ContextMoments) -> float:
    r"""The exact risk E‖ŷ - y_q‖² of the step `ŷ = x_q^T P Σ_i y_i x_i`, in float64.

    $$R = E\|y_q\|^2 - 2 \operatorname{tr}\Big(P \sum_k E[s_k y_{qk} x_q^T]\Big)
    + \operatorname{tr}\Big(P \sum_k E[s_k s_k^T] P^T E[x x^T]\Big), \qquad
    s_k = \sum_i y_{ik} x_i$$

    The last term is `Σ_k E[(x_q^T P s_k)²]` if context and query share more than f.
    [`best_preconditioner`][mesalens.theory.best_preconditioner] gives the P for which the risk is
    smallest.

    Args:
        P: The preconditioner, which includes the step size on `1/2 Σ_i ‖W x_i - y_i‖²`.
        moments: The moments of the task.

    Returns:
        The risk.
    """
    step = moments.inputs.T @ P @ moments.inputs  # in the coordinates z of the moments
    gain = np.trace(step @ moments.of_labels()[1])
    return float(moments.null_risk - 2 * gain + step_mean_square(step, moments))


def step_mean_square(step: Float[np.ndarray, "r r"], moments: ContextMoments) -> float:
    """E‖ŷ‖² of `ŷ_k = z_q^T P s_k` in the coordinates z of the moments."""
    squares, joint = moments.mean_square(moments.labels())
    if joint is None:
        return float(np.trace(step @ squares @ step.T @ moments.query))
    return float(np.einsum("ra,arbs,sb->", step, joint, step))
