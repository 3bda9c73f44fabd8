"""The least risk without a look at the context."""

import numpy as np

from mesalens.checks import InputError, is_zero, non_negative
from mesalens.tasks import RegressionTask, SineWaves, Uniform


def context_blind_risk(task: RegressionTask, null_risk: float) -> float:
    r"""The risk of the best prediction from the query alone.

    That prediction is `E[y | x]`. A learner with a lower risk uses the context.

    If the task is sign-symmetric, E[y | x] = 0 and the risk is that of predicting 0. For
    `f(x) = scale · a sin(x + φ)` with a ~ U(l, h), φ ~ U(0, π) and x ~ U(-r, r), without noise,

    $$E[y \mid x] = \text{scale} \cdot \frac{2}{\pi} E[a] \cos x$$

    $$\text{risk} = \text{scale}^2 \left(\frac{E[a^2]}{2}
    - \left(\frac{2}{\pi} E[a]\right)^2 \left(\frac{1}{2} + \frac{\sin 2r}{4r}\right)\right)$$

    since E[sin²(x + φ)] = 1/2 over half a turn of φ, and E[cos² x] is the last factor.

    Args:
        task: A regression task.
        null_risk: The risk of predicting 0 on it.

    Returns:
        E[(y - E[y | x])²], summed over outputs.

    Raises:
        ValueError: If the task is neither sign-symmetric nor of such sine waves, or `null_risk` is
            not a finite number of at least 0.

    Source: derived here.
    """
    non_negative("null_risk", null_risk)
    waves, noise = task.functions, getattr(task.noise, "variance", None)
    if task.sign_symmetric:
        return float(null_risk)
    if not (
        isinstance(waves, SineWaves)
        and waves.phase == (0.0, np.pi)
        and isinstance(task.covariates, Uniform)
        and is_zero(noise)
    ):
        raise InputError(
            "functions must be sign-symmetric, or noiseless sine waves with phases from 0 to π and "
            f"uniform inputs; E[y | x] of {type(waves).__name__} is not known."
        )
    low, high = waves.amplitude
    reach = float(task.covariates.scale)
    square, mean = (low**2 + low * high + high**2) / 3, (low + high) / 2
    cosine = 0.5 + np.sin(2 * reach) / (4 * reach)
    risk = square / 2 - (2 / np.pi * mean) ** 2 * cosine
    return float(task.outputs * waves.scale**2 * risk)
