"""Stopping near a risk that is known."""

import numpy as np
import scipy.stats
from jaxtyping import Bool

from mesalens.checks import count, positive
from mesalens.training.stopping.base import Metrics, StoppingRule


class NearRisk(StoppingRule):
    """A run whose loss is within a tolerance of a given risk, for learners of any kind.

    The mean of the loss over the last `window` chunks of steps has a 95% interval (Student's t over
    the chunks) that lies below (1 + tolerance) · risk. A loss that still falls widens it.

    Raises:
        ValueError: if risk or tolerance are not positive, or the window is below 2.
    """

    def __init__(self, risk: float, tolerance: float = 0.01, window: int = 5):
        self.risk = positive("risk", risk)
        self.tolerance = positive("tolerance", tolerance)
        self.window = count("window", window, at_least=2)

    def reached(self, metrics: Metrics) -> Bool[np.ndarray, " runs"]:
        losses = metrics["loss"][:, 1:]
        if losses.shape[1] < self.window:
            return np.zeros(len(losses), bool)
        last = losses[:, -self.window :]
        error = last.std(axis=1, ddof=1) / np.sqrt(self.window)
        high = last.mean(axis=1) + scipy.stats.t.ppf(0.975, self.window - 1) * error
        return high <= (1 + self.tolerance) * self.risk

    def words(self) -> str:
        return f"loss within {self.tolerance:g} of {self.risk:.8g} over {self.window} chunks"
