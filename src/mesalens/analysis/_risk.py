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
    """The squared error `‖ŷ - y_query‖²` at one prompt.

    Args:
        learner: The learner.
        prompt: One prompt.
        target: y_query, of shape (m,).

    Returns:
        The error, of shape ().
    """
    return jnp.sum((predict(learner, prompt) - target) ** 2)


def risk(
    learner: AnyLearner, task: Task, key: Key[Array, ""], *, prompts: int = 10_000
) -> Estimate:
    """The risk `E‖ŷ - y_query‖²` of a learner on a task, summed over the m outputs, by simulation.

    Args:
        learner: A `Learner`, or any function from a prompt to a prediction of shape (m,).
        task: The distribution of prompts.
        key: A random key.
        prompts: The number of prompts.

    Returns:
        The risk with its standard error.

    Raises:
        ValueError: If a prediction has another shape, or the learner needs examples and the
            task's prompts are condensed.

    Examples:
        >>> from mesalens import LeastSquares, analysis, random, tasks
        >>> task = tasks.RegressionTask(
        ...     tasks.Gaussian(5), tasks.LinearFunctions(5), context_length=3
        ... )
        >>> risk = analysis.risk(LeastSquares(), task, random.key(0))
        >>> print(f"{risk.value:.1f}")  # two of five directions are not seen
        2.0
    """
    return risks([learner], task, key, prompts=prompts)[0]


@eqx.filter_jit
def risks(
    learners: Sequence[AnyLearner], task: Task, key: Key[Array, ""], *, prompts: int = 10_000
) -> tuple[Estimate, ...]:
    """The `risk` of several learners on the same prompts, so that differences have little noise.

    Args:
        learners: The learners.
        task: The distribution of prompts.
        key: A random key.
        prompts: The number of prompts.

    Returns:
        The risk of each learner with its standard error.
    """

    def squared_errors(prompt, target):
        return [squared_error(learner, prompt, target) for learner in learners]

    return tuple(expectation(squared_errors, task, key, prompts=prompts))
