"""`NearRisk`: stop near a given risk."""

import numpy as np
import scipy.stats
from jaxtyping import Bool

from mesalens.checks import count, positive
from mesalens.training.stopping.base import Metrics, StoppingRule


class NearRisk(StoppingRule):
    """Stops a run when its loss is near a given risk; for learners of any kind.

    The run stops if the 95% interval (Student's t) of the mean of the last `window` measurements of
    the loss lies below (1 + tolerance) times the risk. The interval is wide while the loss falls.

    Args:
        risk: Risk to reach, positive.
        tolerance: Largest excess over the risk, relative to the risk; positive.
        window: Number of measurements, at least 2.

    Raises:
        ValueError: if an argument is out of range.
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
