"""`Never`: every run takes all its steps."""

import numpy as np
from jaxtyping import Bool

from mesalens.training.stopping.base import Metrics, StoppingRule


class Never(StoppingRule):
    """Never stops a run before its last step."""

    def reached(self, metrics: Metrics) -> Bool[np.ndarray, " runs"]:
        return np.zeros(len(metrics["loss"]), bool)

    def words(self) -> str:
        return "never"
