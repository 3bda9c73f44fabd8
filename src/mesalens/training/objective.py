"""What training makes small: the risk on fresh prompts, or the risk itself."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.checks import InputError, count
from mesalens.learners import Learner
from mesalens.models import LinearTransformer
from mesalens.tasks import RegressionTask, Task
from mesalens.theory import population_risk, task_moments

Objective = Literal["sampled", "population"]
Loss = Callable[[Learner, Key[Array, ""]], Float[Array, ""]]


def batch_loss(learner: Learner, task: Task, key: Key[Array, ""], batch_size: int) -> Float[Array, ""]:
    """Mean over a fresh batch of ‖ŷ - y_query‖²: the sampled objective."""
    prompts, targets = task.sample(key, (batch_size,))
    return jnp.mean(jnp.sum((learner.batch(prompts) - targets) ** 2, axis=-1))


def sampled(task: Task, batch_size: int) -> Loss:
    """`batch_loss` with the task and the size of a batch given."""
    count("batch_size", batch_size)
    return lambda learner, key: batch_loss(learner, task, key, batch_size)


def population(task: Task) -> Loss:
    """E‖ŷ - y_query‖² itself, for one layer of linear self-attention: the limit of infinite batches, without noise.

    It is a polynomial in the weights whose coefficients are moments of the task (`population_risk`), exact where `task_moments` is.
    Raises `ValueError` for other learners and other tasks than it is known for.
    """
    if not isinstance(task, RegressionTask):
        raise InputError(
            f"the population objective is known for a RegressionTask, not for {type(task).__name__}; use sampled."
        )
    moments = task_moments(task)

    def loss(learner: Learner, _: Key[Array, ""]) -> Float[Array, ""]:
        if not isinstance(learner, LinearTransformer):
            raise InputError(
                f"the population objective is known for a LinearTransformer, not for {type(learner).__name__}; use sampled."
            )
        return population_risk(learner, moments)

    return loss
