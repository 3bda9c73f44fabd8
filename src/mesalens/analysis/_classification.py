"""How well a learner tells classes apart: cross-entropy and accuracy."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from mesalens.analysis._compiled import compiled_expectation
from mesalens.learners import AnyLearner
from mesalens.learners.base import predict
from mesalens.simulation import Estimate
from mesalens.tasks import Task
from mesalens.tasks._classes import require_classes


def cross_entropy(
    learner: AnyLearner, task: Task, key: Key[Array, ""], *, prompts: int = 10_000
) -> Estimate:
    """The cross-entropy `E[-Σ_c y_c log softmax(ŷ)_c]` in nats, by simulation.

    Predictions are logits, and targets distributions over m ≥ 2 classes. Logits of 0 give log m.
    The lower bound over all learners is the mean entropy of the class given the context and the
    query.

    Args:
        learner: A learner whose predictions are logits.
        task: The distribution of prompts.
        key: A random key.
        prompts: The number of prompts.

    Returns:
        The cross-entropy with its standard error.

    Raises:
        ValueError: If targets are not distributions over two classes or more.
    """
    require_classes(task)  # not in the compiled program, where targets have no values
    return compiled_expectation(eqx.Partial(_surprise, learner), task, key, prompts=prompts)


def accuracy(
    learner: AnyLearner, task: Task, key: Key[Array, ""], *, prompts: int = 10_000
) -> Estimate:
    """The accuracy `P(argmax_c ŷ_c is the class)`, by simulation.

    The first of several equal predictions counts. For targets that are distributions over classes
    it is the mean probability of the predicted class.

    Args:
        learner: A learner whose predictions are logits or probabilities.
        task: The distribution of prompts.
        key: A random key.
        prompts: The number of prompts.

    Returns:
        The accuracy with its standard error.

    Raises:
        ValueError: If targets are not distributions over two classes or more.
    """
    require_classes(task)
    return compiled_expectation(eqx.Partial(_mass_of_choice, learner), task, key, prompts=prompts)


def _surprise(learner, prompt, target):
    return -jnp.sum(target * jax.nn.log_softmax(predict(learner, prompt)))


def _mass_of_choice(learner, prompt, target):
    return target[jnp.argmax(predict(learner, prompt))]
