"""What training makes small: the risk or the cross-entropy on fresh prompts, or the risk itself."""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from mesalens import random
from mesalens.checks import InputError, count, one_of
from mesalens.learners import Learner
from mesalens.models import LinearTransformer
from mesalens.tasks import RegressionTask, Task
from mesalens.theory import population_risk, task_moments

Objective = Literal["sampled", "population", "cross-entropy"]
Loss = Callable[[Learner, Key[Array, ""]], Float[Array, ""]]


def batch_loss(learner: Learner, task: Task, key: Key[Array, ""], batch_size: int) -> Float[Array, ""]:
    """Mean over a fresh batch of ‖ŷ - y_query‖²: the sampled objective."""
    prompts, targets = task.sample(key, (batch_size,))
    return jnp.mean(jnp.sum((learner.batch(prompts) - targets) ** 2, axis=-1))


def sampled(task: Task, batch_size: int) -> Loss:
    """`batch_loss` with the task and the size of a batch given."""
    count("batch_size", batch_size)
    return lambda learner, key: batch_loss(learner, task, key, batch_size)


def batch_cross_entropy(learner: Learner, task: Task, key: Key[Array, ""], batch_size: int) -> Float[Array, ""]:
    """Mean over a fresh batch of -Σ_c y_c log softmax(ŷ)_c: predictions are logits, targets distributions over classes."""
    prompts, targets = task.sample(key, (batch_size,))
    return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(learner.batch(prompts)), axis=-1))


def cross_entropy(task: Task, batch_size: int) -> Loss:
    """`batch_cross_entropy` with the task and the size of a batch given.

    Raises `ValueError` where the targets of the task are not distributions over two classes or more.
    """
    count("batch_size", batch_size)
    require_classes(task)
    return lambda learner, key: batch_cross_entropy(learner, task, key, batch_size)


def require_classes(task: Task) -> None:
    """Raises `ValueError` where the targets of the task, of which it draws a few, are not distributions over two classes or more."""
    with jax.ensure_compile_time_eval():  # a measure in a training is traced, and its task is not
        _, targets = task.sample(random.key(0), (2,))
    if targets.shape[-1] < 2:
        raise InputError(
            f"the targets of the task have {targets.shape[-1]} output, which tells no classes apart; give a task with two or more."
        )
    if isinstance(targets, jax.core.Tracer):
        return
    targets = np.asarray(targets)
    if not np.allclose(targets.sum(axis=-1), 1, atol=1e-4) or targets.min() < 0:
        raise InputError(
            f"targets have to be distributions over classes, and those of {type(task).__name__} are not; give a ClassificationTask, "
            "or take squared errors."
        )


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


def loss_of(objective: Objective, task: Task, batch_size: int) -> Loss:
    """The loss of an objective by its name; raises `ValueError` where there is none of that name, or not for that task."""
    one_of("objective", objective, get_args(Objective))
    if objective == "population":
        return population(task)
    return cross_entropy(task, batch_size) if objective == "cross-entropy" else sampled(task, batch_size)
