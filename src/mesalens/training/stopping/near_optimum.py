"""Stopping near the exact optimum."""

from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float

from mesalens.checks import InputError, positive
from mesalens.learners.base import require
from mesalens.models import LinearTransformer
from mesalens.theory import has_exact_moments, optimal_lsa, population_risk, task_moments
from mesalens.training.stopping.base import Metrics, StoppingRule


class NearOptimum(StoppingRule):
    """A layer of linear self-attention whose risk is near the optimum: R ≤ (1 + tolerance) R*.

    R is `population_risk` and R* that of `optimal_lsa`: both exact, so that no noise decides.
    `excess_risk`, R / R* - 1, is measured in the precision of the weights.

    Args:
        task: The task; a condensed one stands for the task that it condenses.
        tolerance: How near, as a share of R*.

    Raises:
        ValueError: if the tolerance is not positive, the moments of the task are not known exactly,
            the optimum leaves no risk, or (when measured) the learner is not such a layer.
    """

    def __init__(self, task: Any, tolerance: float = 0.01):
        self.tolerance = positive("tolerance", tolerance)
        task = getattr(task, "task", task)
        if not has_exact_moments(task):
            raise InputError("near-optimum needs exact moments of the task; stop where it is flat.")
        self._moments = task_moments(task)
        self.optimum = optimal_lsa(task, self._moments).risk
        if not self.optimum > 1e-9 * self._moments.null_risk:
            raise InputError("near-optimum needs an optimal risk above 0; stop where it is flat.")

    def measures(self, learner: Any) -> dict[str, Float[Array, ""]]:
        layer = require(learner, LinearTransformer, "stop near-optimum")
        return {"excess_risk": population_risk(layer, self._moments) / self.optimum - 1}

    def reached(self, metrics: Metrics) -> Bool[np.ndarray, " runs"]:
        return metrics["excess_risk"][:, -1] <= self.tolerance

    def words(self) -> str:
        return f"risk within {self.tolerance:g} of the optimum {self.optimum:.8g}"
