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
    """What training minimises: makes the loss of a learner on a task.

    Subclasses implement `loss`; `SampledObjective` is the base of losses on batches.

    Attributes:
        exact: Whether the loss is exact, so that no batches are drawn.
        fixed_prompts: Whether all steps use the same batch.
    """

    exact: ClassVar[bool] = False
    fixed_prompts: ClassVar[bool] = False

    @abc.abstractmethod
    def loss(self, task: Task, batch_size: int) -> Loss:
        """The loss on a task, as a function `loss(learner, key)`.

        Args:
            task: The distribution of prompts.
            batch_size: The number of prompts that a sampled loss draws with the key.

        Raises:
            ValueError: if the objective is not defined for the task.
        """


class SampledObjective(Objective):
    """The mean of `terms(predictions, targets)` over a batch of fresh prompts.

    Subclasses implement `terms`.
    """

    @abc.abstractmethod
    def terms(
        self, predictions: Float[Array, "batch m"], targets: Float[Array, "batch m"]
    ) -> Float[Array, " batch"]:
        """The loss of each prompt, of shape (batch,).

        Args:
            predictions: The predictions ŷ, of shape (batch, m).
            targets: The labels y_query, of shape (batch, m).
        """

    def loss(self, task: Task, batch_size: int) -> Loss:
        def mean(learner: Learner, key: Key[Array, ""]) -> Float[Array, ""]:
            prompts, targets = task.sample(key, (batch_size,))
            return self.terms(predict_batch(learner, prompts), targets).mean()

        return mean
