"""Risk: mean squared error of a learner on a task."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.learners import AnyLearner
from mesalens.learners.base import predict
from mesalens.prompt import AnyPrompt
from mesalens.simulation import Estimate, expectation
from mesalens.tasks import Task


def squared_error(
    learner: AnyLearner, prompt: AnyPrompt, target: Float[Array, " m"]
) -> Float[Array, ""]:
    """`‖ŷ - y_query‖²` at one prompt."""
    return jnp.sum((predict(learner, prompt) - target) ** 2)


def risk(
    learner: AnyLearner, task: Task, key: Key[Array, ""], *, prompts: int = 10_000
) -> Estimate:
    """`E‖ŷ - y_query‖²`, summed over the m outputs, by simulation.

    Args:
        learner: a `Learner`, or any function from a prompt to a prediction of shape (m,).
        task: the distribution of prompts.
        key: a random key.
        prompts: how many prompts are drawn.

    Raises:
        ValueError: if a prediction has another shape, or the learner needs examples and the
            task's prompts are condensed.
    """
    return risks([learner], task, key, prompts=prompts)[0]


@eqx.filter_jit
def risks(
    learners: Sequence[AnyLearner], task: Task, key: Key[Array, ""], *, prompts: int = 10_000
) -> tuple[Estimate, ...]:
    """The `risk` of several learners on the same prompts, so that differences have little noise."""

    def squared_errors(prompt, target):
        return [squared_error(learner, prompt, target) for learner in learners]

    return tuple(expectation(squared_errors, task, key, prompts=prompts))
