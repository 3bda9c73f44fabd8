"""Risk: mean squared error of a learner on a task."""

import functools
from collections.abc import Callable, Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.prompt import Prompt
from mesalens.simulation import Estimate, expectation
from mesalens.tasks import Task

AnyLearner = Callable[[Prompt], Float[Array, " m"]]


def squared_error(learner: AnyLearner, prompt: Prompt, target: Float[Array, " m"]) -> Float[Array, ""]:
    """`‖ŷ - y_query‖²` at one prompt."""
    return jnp.sum((learner(prompt) - target) ** 2)


@eqx.filter_jit
def risk(learner: AnyLearner, task: Task, key: Key[Array, ""], *, prompts: int = 10_000) -> Estimate:
    """`E‖ŷ - y_query‖²`, summed over the m outputs, by simulation. Any function from a prompt to a prediction will do."""
    return expectation(functools.partial(squared_error, learner), task, key, prompts=prompts)


@eqx.filter_jit
def risks(
    learners: Sequence[AnyLearner], task: Task, key: Key[Array, ""], *, prompts: int = 10_000
) -> tuple[Estimate, ...]:
    """The risk of several learners on the same prompts, so that their differences carry little noise."""

    def squared_errors(prompt, target):
        return [squared_error(learner, prompt, target) for learner in learners]

    return tuple(expectation(squared_errors, task, key, prompts=prompts))
