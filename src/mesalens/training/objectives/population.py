"""The risk itself."""

from typing import Any, ClassVar

from jaxtyping import Array, Float, Key

from mesalens.learners.base import require
from mesalens.models import LinearTransformer
from mesalens.tasks import Task
from mesalens.theory import population_risk, task_moments
from mesalens.training.objectives.base import Loss, Objective


class Population(Objective):
    """`E‖ŷ - y_query‖²` of one layer of linear self-attention: the limit of infinite batches.

    It is a polynomial in the weights whose coefficients are moments of the task
    (`mesalens.theory.population_risk`), exact if `task_moments` is. Weights are carried in float64.

    Raises:
        ValueError: from `loss`, if the moments of the task are not known; from the loss, for other
            learners than one layer of `LinearTransformer`.
    """

    exact: ClassVar[bool] = True

    def loss(self, task: Task, batch_size: int) -> Loss:
        moments = task_moments(task)

        def risk(learner: Any, _: Key[Array, ""]) -> Float[Array, ""]:
            return population_risk(require(learner, LinearTransformer, "objective"), moments)

        return risk
