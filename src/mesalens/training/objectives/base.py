"""`Objective`: what training minimises."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
from jaxtyping import Array, Float, Key

from mesalens.learners import Learner
from mesalens.learners.base import predict_batch
from mesalens.tasks import Task

Loss = Callable[[Any, Key[Array, ""]], Float[Array, ""]]
"""`loss(learner, key)`, differentiable in the learner."""


class Objective(eqx.Module):
    """Makes the loss of a learner on a task.

    `exact` says that batches play no part in it, `fixed_prompts` that all steps have the same.
    """

    exact: ClassVar[bool] = False
    fixed_prompts: ClassVar[bool] = False

    @abc.abstractmethod
    def loss(self, task: Task, batch_size: int) -> Loss:
        """The loss on the task; a sampled one draws `batch_size` fresh prompts with the key.

        Raises:
            ValueError: if the objective is not defined on the task.
        """


class SampledObjective(Objective):
    """The mean of `terms(predictions, targets)` over a batch of fresh prompts."""

    @abc.abstractmethod
    def terms(
        self, predictions: Float[Array, "batch m"], targets: Float[Array, "batch m"]
    ) -> Float[Array, " batch"]:
        """The loss of each prompt."""

    def loss(self, task: Task, batch_size: int) -> Loss:
        def mean(learner: Learner, key: Key[Array, ""]) -> Float[Array, ""]:
            prompts, targets = task.sample(key, (batch_size,))
            return self.terms(predict_batch(learner, prompts), targets).mean()

        return mean
