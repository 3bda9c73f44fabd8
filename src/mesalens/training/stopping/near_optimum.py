"""`NearOptimum`: stop near the exact optimum."""

from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float

from mesalens.checks import InputError, positive
from mesalens.learners.base import require
from mesalens.models import LinearTransformer
from mesalens.theory import has_exact_moments, optimal_layer, population_risk, task_moments
from mesalens.training.stopping.base import Metrics, StoppingRule


class NearOptimum(StoppingRule):
    """Stops a layer of linear self-attention when its risk is near the optimum.

    The condition is `R ≤ (1 + tolerance) R*`, where R is the exact risk of the layer (see
    `mesalens.theory.population_risk`) and R* that of the best layer (see
    `mesalens.theory.optimal_layer`). The metric `excess_risk` is R / R* - 1, in the precision of
    the weights.

    Args:
        task: The task of the training; it may be condensed.
        tolerance: Largest excess of the risk over the optimum, relative to the optimum; positive.

    Attributes:
        optimum: The risk R* of the best layer.

    Raises:
        ValueError: if the tolerance is not positive, the exact moments of the task are unknown, R*
            is 0, or (during training) the learner is not such a layer.
    """

    def __init__(self, task: Any, tolerance: float = 0.01):
        self.tolerance = positive("tolerance", tolerance)
        task = getattr(task, "task", task)
        if not has_exact_moments(task):
            raise InputError(
                "near-optimum needs the exact moments of the task, which are unknown; use the stop "
                "flat (--stop flat), or never, and as many steps as you want (--steps)."
            )
        self._moments = task_moments(task)
        self.optimum = optimal_layer(task, self._moments).risk
        if not self.optimum > 1e-9 * self._moments.null_risk:
            raise InputError("near-optimum needs an optimal risk above 0; use the stop flat.")

    def measures(self, learner: Any) -> dict[str, Float[Array, ""]]:
        layer = require(learner, LinearTransformer, "stop near-optimum")
        return {"excess_risk": population_risk(layer, self._moments) / self.optimum - 1}

    def reached(self, metrics: Metrics) -> Bool[np.ndarray, " runs"]:
        return metrics["excess_risk"][:, -1] <= self.tolerance

    def words(self) -> str:
        return f"risk within {self.tolerance:g} of the optimum {self.optimum:.8g}"
