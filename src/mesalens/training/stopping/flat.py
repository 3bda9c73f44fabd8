"""Stopping where the loss is flat."""

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float

from mesalens.checks import InputError, count, positive
from mesalens.training.stopping.base import Metrics, StoppingRule


class Flat(StoppingRule):
    """A run whose loss has fallen and changes no more: an equivalence test.

    A line is fitted to the loss of the last `window` chunks of steps. The run is flat if the 95%
    interval of the line's change over the window, as a share of its mean, lies within ± tolerance,
    and the loss of each of these chunks is below (1 - 10 · tolerance) of the first chunk's.

    A plateau on the way is flat too. A run that begins on one is held by the second condition; one
    that comes to another later is not. `NearOptimum` does not have this problem.

    Raises:
        ValueError: if the tolerance is not between 0 and 0.1, or the window is below 3.
    """

    def __init__(self, tolerance: float = 0.01, window: int = 10):
        self.tolerance = positive("tolerance", tolerance)
        self.window = count("window", window, at_least=3)
        if tolerance >= 0.1:
            raise InputError(
                f"tolerance must be below 0.1, as 10 times it is a fall; got {tolerance}."
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
    """The change of the least-squares line through each row, over its mean, and half its interval.

    The interval is Student's t with two degrees of freedom less than points.
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
