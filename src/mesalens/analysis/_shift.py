"""Distribution shift: the risk of learners on tasks they were not trained on."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, Shaped

from mesalens.analysis._risk import risks
from mesalens.learners import AnyLearner
from mesalens.simulation import Estimate
from mesalens.tasks import Distractors, RegressionTask, Task


@eqx.filter_jit
def risks_under_shift(
    learners: Sequence[AnyLearner],
    shift: Callable[[Array], Task],
    values: Shaped[Array | np.ndarray, " values"],
    key: Key[Array, ""],
    *,
    prompts: int = 10_000,
) -> tuple[Estimate, ...]:
    """The risk of each learner on the task `shift(value)`, for each value.

    All values and learners see the same random numbers, so that curves are smooth and differences
    have little noise.

    Args:
        learners: The learners.
        shift: Maps a value to a task, such as the result of
            [`scaled_inputs`][mesalens.analysis.scaled_inputs].
        values: The values, of shape (values,).
        key: A random key.
        prompts: The number of prompts for each value.

    Returns:
        For each learner an estimate of shape (values,).

    Examples:
        >>> import jax.numpy as jnp
        >>> from mesalens import GradientDescent, LeastSquares, analysis, random, tasks
        >>> task = tasks.RegressionTask(
        ...     tasks.Gaussian(3), tasks.LinearFunctions(3), context_length=10
        ... )
        >>> descent, exact = analysis.risks_under_shift(
        ...     [GradientDescent(0.7), LeastSquares()],
        ...     analysis.scaled_inputs(task),
        ...     jnp.array([0.5, 1.0, 2.0]),
        ...     random.key(0),
        ... )
        >>> descent.value.shape
        (3,)
    """

    def at(value):
        return risks(learners, shift(value), key, prompts=prompts)

    return jax.lax.map(at, jnp.asarray(values))


def scaled_inputs(task: RegressionTask) -> Callable[[Array], RegressionTask]:
    """The map from α to the task with covariates α x; labels of linear functions scale, too.

    Args:
        task: The regression task at α = 1.

    Returns:
        A `shift` for [`risks_under_shift`][mesalens.analysis.risks_under_shift].
    """
    scale = task.covariates.scale
    return lambda alpha: eqx.tree_at(lambda t: t.covariates.scale, task, scale * alpha)


def scaled_functions(task: RegressionTask) -> Callable[[Array], RegressionTask]:
    """The map from α to the task with functions α f.

    Args:
        task: The regression task at α = 1.

    Returns:
        A `shift` for [`risks_under_shift`][mesalens.analysis.risks_under_shift].
    """
    scale = task.functions.scale
    return lambda alpha: eqx.tree_at(lambda t: t.functions.scale, task, scale * alpha)


def distracted(task: RegressionTask, variance: float = 1.0) -> Callable[[Array], RegressionTask]:
    """The map from k to the task with k labels of the context replaced by N(0, variance).

    Args:
        task: The regression task.
        variance: The variance of the labels that replace others.

    Returns:
        A `shift` for [`risks_under_shift`][mesalens.analysis.risks_under_shift].
    """
    return lambda k: eqx.tree_at(
        lambda t: t.distractors, task, Distractors(k.astype(int), variance)
    )
