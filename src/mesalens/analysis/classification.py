"""How well a learner tells classes apart: cross-entropy and accuracy."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.analysis.risk import AnyLearner
from mesalens.checks import InputError
from mesalens.prompt import Prompt
from mesalens.simulation import Estimate, expectation
from mesalens.tasks import Task


@eqx.filter_jit
def cross_entropy(learner: AnyLearner, task: Task, key: Key[Array, ""], *, prompts: int = 10_000) -> Estimate:
    """`E[-Σ_c y_c log softmax(ŷ)_c]` by simulation, in nats: predictions are logits, targets distributions over m ≥ 2 classes.

    Logits that are 0 have log m. No learner is below the mean entropy of the class given the context and the query.

    Raises `ValueError` where targets have one entry.
    """

    def surprise(prompt, target):
        _require_classes(target)
        return -jnp.sum(target * jax.nn.log_softmax(learner(prompt)))

    return expectation(surprise, task, key, prompts=prompts)


@eqx.filter_jit
def accuracy(learner: AnyLearner, task: Task, key: Key[Array, ""], *, prompts: int = 10_000) -> Estimate:
    """`P(argmax_c ŷ_c is the class)` by simulation; the first of equal predictions counts.

    For targets that are distributions over classes, the probability that they give to that class. Raises `ValueError` where targets
    have one entry.
    """

    def correct(prompt: Prompt, target: Float[Array, " m"]) -> Float[Array, ""]:
        _require_classes(target)
        return target[jnp.argmax(learner(prompt))]

    return expectation(correct, task, key, prompts=prompts)


def _require_classes(target: Float[Array, " m"]) -> None:
    if len(target) < 2:
        raise InputError(
            "the targets of the task have one entry, which tells no classes apart; give a task with two outputs or more."
        )
