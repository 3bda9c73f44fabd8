"""Distribution shift: the risk of learners on tasks they were not trained on."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, Shaped

from mesalens.analysis.risk import AnyLearner, risks
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
    """The risk of each learner on the task `shift(value)`, for each value: one estimate of shape (values,) a learner.

    All values and learners see the same random numbers, so that curves are smooth and differences carry little noise.
    """
    return jax.lax.map(lambda value: risks(learners, shift(value), key, prompts=prompts), jnp.asarray(values))


def scaled_inputs(task: RegressionTask) -> Callable[[Array], RegressionTask]:
    """α to the task with covariates α x: inputs, and with them the labels of a linear function, grow."""
    return lambda alpha: eqx.tree_at(lambda t: t.covariates.scale, task, task.covariates.scale * alpha)


def scaled_functions(task: RegressionTask) -> Callable[[Array], RegressionTask]:
    """α to the task with functions α f."""
    return lambda alpha: eqx.tree_at(lambda t: t.functions.scale, task, task.functions.scale * alpha)


def distracted(task: RegressionTask, variance: float = 1.0) -> Callable[[Array], RegressionTask]:
    """K to the task with k context labels replaced by N(0, variance)."""
    return lambda k: eqx.tree_at(lambda t: t.distractors, task, Distractors(k.astype(int), variance))
