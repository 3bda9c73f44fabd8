"""The risk itself."""

from typing import Any, ClassVar

from jaxtyping import Array, Float, Key

from mesalens.learners.base import require
from mesalens.models import LinearTransformer
from mesalens.tasks import Task
from mesalens.theory import population_risk, task_moments
from mesalens.training.objectives.base import Loss, Objective


class Population(Objective):
    """The risk `E‖ŷ - y_query‖²` of one layer of linear self-attention: infinite batches.

    It is a polynomial in the weights whose coefficients are moments of the task
    (`mesalens.theory.population_risk`), and exact if these moments are; where they are not known,
    they are simulated (`mesalens.theory.task_moments`). Weights are float64.

    Raises:
        ValueError: from `loss`, if the moments can be neither computed nor simulated; from the
            function that it returns, if the learner is not a `LinearTransformer` with one layer.
    """

    exact: ClassVar[bool] = True

    def loss(self, task: Task, batch_size: int) -> Loss:
        moments = task_moments(task)

        def risk(learner: Any, _: Key[Array, ""]) -> Float[Array, ""]:
            return population_risk(require(learner, LinearTransformer, "objective"), moments)

        return risk
