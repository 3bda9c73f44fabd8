"""How well a learner tells classes apart: cross-entropy and accuracy."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.learners import AnyLearner
from mesalens.learners.base import predict
from mesalens.simulation import Estimate, expectation
from mesalens.tasks import Task
from mesalens.tasks._classes import require_classes


def cross_entropy(
    learner: AnyLearner, task: Task, key: Key[Array, ""], *, prompts: int = 10_000
) -> Estimate:
    """`E[-Σ_c y_c log softmax(ŷ)_c]` by simulation, in nats.

    Predictions are logits, targets distributions over m ≥ 2 classes. Logits of 0 give log m. The
    lower bound over all learners is the mean entropy of the class given the context and the query.

    Raises:
        ValueError: if targets are not distributions over two classes or more.
    """
    require_classes(task)  # not in the compiled program, where targets have no values
    return _simulated(_surprise, learner, task, key, prompts)


def accuracy(
    learner: AnyLearner, task: Task, key: Key[Array, ""], *, prompts: int = 10_000
) -> Estimate:
    """`P(argmax_c ŷ_c is the class)` by simulation; the first of equal predictions counts.

    For targets that are distributions over classes, the mean probability of the predicted class.

    Raises:
        ValueError: if targets are not distributions over two classes or more.
    """
    require_classes(task)
    return _simulated(_mass_of_choice, learner, task, key, prompts)


def _surprise(prediction: Float[Array, " m"], target: Float[Array, " m"]) -> Float[Array, ""]:
    return -jnp.sum(target * jax.nn.log_softmax(prediction))


def _mass_of_choice(prediction: Float[Array, " m"], target: Float[Array, " m"]) -> Float[Array, ""]:
    return target[jnp.argmax(prediction)]


@eqx.filter_jit
def _simulated(
    term: Callable, learner: AnyLearner, task: Task, key: Key[Array, ""], prompts: int
) -> Estimate:
    def terms(prompt, target):
        return term(predict(learner, prompt), target)

    return expectation(terms, task, key, prompts=prompts)
