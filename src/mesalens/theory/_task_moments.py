"""The moments of a task: exact where they are known, simulated where they are not."""

import warnings
from typing import Any

import numpy as np

from mesalens.tasks import Mixture, Task, require_moments
from mesalens.theory._exact_moments import exact_moments, has_exact_moments
from mesalens.theory._mixture_moments import mixture_moments
from mesalens.theory._requirements import regression
from mesalens.theory._simulated_moments import simulated_moments
from mesalens.theory.moments import ContextMoments

ILL_CONDITIONED = 1e8


class ConditionWarning(UserWarning):
    """The covariance of the covariates is nearly singular; the message has its condition number."""


def task_moments(task: Task, **simulation: Any) -> ContextMoments:
    """The moments of a task: exact if they are known, otherwise simulated.

    They are exact if [`has_exact_moments`][mesalens.theory.has_exact_moments] says so. Those of a
    `Mixture` are the means of its components' (`mixture_moments`).

    A `ConditionWarning` is issued if the covariance of the inputs is so close to singular that a
    preconditioner has few correct digits.

    Args:
        task: The task.
        **simulation: Arguments of [`simulated_moments`][mesalens.theory.simulated_moments], which
            exact moments ignore.

    Returns:
        The moments, in float64.

    Raises:
        ValueError: If inputs or noise have no finite fourth moments, or the task is not a
            `RegressionTask` or a `Mixture` of them.
    """
    moments = _moments(task, simulation)
    spread = np.linalg.eigvalsh(moments.inputs @ moments.query @ moments.inputs.T)
    spread = spread[spread > task.dim * np.finfo(float).eps * spread[-1]]
    rank, condition = len(spread), spread[-1] / spread[0]
    if rank < task.dim or condition > ILL_CONDITIONED:
        warnings.warn(
            f"the covariance of the covariates is nearly singular: rank {rank} of {task.dim}, "
            f"condition number {condition:.2g} on its range; the preconditioner is 0 outside, and "
            "risks are not affected.",
            ConditionWarning,
            stacklevel=2,
        )
    return moments


def _moments(task: Task, simulation: dict[str, Any]) -> ContextMoments:
    if isinstance(task, Mixture):
        parts = [_moments(component, simulation) for component in task.components]
        return mixture_moments(parts, task.probabilities)
    task = regression(task)
    for law in (task.covariates, task.noise):
        require_moments(law)
    exact = has_exact_moments(task)
    return exact_moments(task) if exact else simulated_moments(task, **simulation)
