"""How well a learner tells classes apart: cross-entropy and accuracy."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.analysis.risk import AnyLearner
from mesalens.simulation import Estimate, expectation
from mesalens.tasks import Task
from mesalens.training.objective import require_classes


def cross_entropy(learner: AnyLearner, task: Task, key: Key[Array, ""], *, prompts: int = 10_000) -> Estimate:
    """`E[-Σ_c y_c log softmax(ŷ)_c]` by simulation, in nats: predictions are logits, targets distributions over m ≥ 2 classes.

    Logits that are 0 have log m. No learner is below the mean entropy of the class given the context and the query.

    Raises `ValueError` where targets are not distributions over two classes or more.
    """
    return _mean(_surprise, learner, task, key, prompts)


def accuracy(learner: AnyLearner, task: Task, key: Key[Array, ""], *, prompts: int = 10_000) -> Estimate:
    """`P(argmax_c ŷ_c is the class)` by simulation; the first of equal predictions counts.

    For targets that are distributions over classes, the probability that they give to that class. Raises `ValueError` where targets
    are not distributions over two classes or more.
    """
    return _mean(_mass_of_choice, learner, task, key, prompts)


def _surprise(prediction: Float[Array, " m"], target: Float[Array, " m"]) -> Float[Array, ""]:
    return -jnp.sum(target * jax.nn.log_softmax(prediction))


def _mass_of_choice(prediction: Float[Array, " m"], target: Float[Array, " m"]) -> Float[Array, ""]:
    return target[jnp.argmax(prediction)]


def _mean(of_prediction: Callable, learner: AnyLearner, task: Task, key: Key[Array, ""], prompts: int) -> Estimate:
    require_classes(task)  # before the task is traced, which has no numbers then
    return _simulated(of_prediction, learner, task, key, prompts)


@eqx.filter_jit
def _simulated(of_prediction: Callable, learner: AnyLearner, task: Task, key: Key[Array, ""], prompts: int) -> Estimate:
    return expectation(lambda prompt, target: of_prediction(learner(prompt), target), task, key, prompts=prompts)
