"""`Flat`: stop when the loss no longer changes."""

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float

from mesalens.checks import InputError, count, positive
from mesalens.training.stopping.base import Metrics, StoppingRule


class Flat(StoppingRule):
    """Stops a run when its loss has fallen and no longer changes.

    A line is fitted to the last `window` measurements of the loss. The run stops if the 95%
    interval of the line's change over the window, relative to its mean, lies within ± tolerance,
    and each of these losses is below (1 - 10 tolerance) times the first one.

    A plateau during training is flat too. The second condition keeps a run from stopping on a
    plateau at the beginning, but not on a later one. `NearOptimum` does not have this problem.

    Args:
        tolerance: Largest relative change of the loss over the window, between 0 and 0.1.
        window: Number of measurements, at least 3.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, tolerance: float = 0.01, window: int = 10):
        self.tolerance = positive("tolerance", tolerance)
        self.window = count("window", window, at_least=3)
        if tolerance >= 0.1:
            raise InputError(
                f"tolerance must be below 0.1, because the loss has to fall by 10 times the "
                f"tolerance first; got {tolerance}."
            )

    def reached(self, metrics: Metrics) -> Bool[np.ndarray, " runs"]:
        losses = metrics["loss"][:, 1:]
        if losses.shape[1] <= self.window:
            return np.zeros(len(losses), bool)
        last = losses[:, -self.window :]
        change, error = _relative_change(last)
        fallen = (last < (1 - 10 * self.tolerance) * losses[:, :1]).all(axis=1)
        return (np.abs(change) + error <= self.tolerance) & fallen

    def words(self) -> str:
        return f"loss flat within {self.tolerance:g} over {self.window} chunks"


def _relative_change(
    losses: Float[np.ndarray, "runs window"],
) -> tuple[Float[np.ndarray, " runs"], Float[np.ndarray, " runs"]]:
    """The relative change of the least-squares line through each row, and half of its interval.

    The interval is Student's t with `window` - 2 degrees of freedom.
    """
    window = losses.shape[1]
    times = np.arange(window) - (window - 1) / 2
    means = losses.mean(axis=1)
    slopes = losses @ times / (times @ times)
    residuals = losses - means[:, None] - slopes[:, None] * times
    errors = np.sqrt((residuals**2).sum(axis=1) / (window - 2) / (times @ times))
    with np.errstate(divide="ignore", invalid="ignore"):  # a loss of 0 has no relative change
        span = (window - 1) / means
        return slopes * span, scipy.stats.t.ppf(0.975, window - 2) * errors * np.abs(span)
