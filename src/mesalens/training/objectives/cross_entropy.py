"""The cross-entropy on fresh prompts."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.tasks import Task, require_classes
from mesalens.training.objectives.base import Loss, SampledObjective


class CrossEntropy(SampledObjective):
    r"""The cross-entropy on fresh prompts, in nats; predictions are logits.

    The mean of $-\sum_c y_c \log \operatorname{softmax}(\hat y)_c$ over the batch.

    Raises:
        ValueError: from `loss`, if targets are not distributions over two or more classes.
    """

    def loss(self, task: Task, batch_size: int) -> Loss:
        require_classes(task)
        return super().loss(task, batch_size)

    def terms(
        self, predictions: Float[Array, "batch m"], targets: Float[Array, "batch m"]
    ) -> Float[Array, " batch"]:
        return -jnp.sum(targets * jax.nn.log_softmax(predictions), axis=-1)
