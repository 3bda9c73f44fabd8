"""The moments of a task: exact where they are known, simulated where they are not."""

import warnings
from typing import Any

import numpy as np

from mesalens.checks import InputError
from mesalens.tasks import RegressionTask
from mesalens.theory.exact_moments import exact_moments, has_exact_moments
from mesalens.theory.moments import ContextMoments
from mesalens.theory.simulated_moments import simulated_moments

ILL_CONDITIONED = 1e8


class ConditionWarning(UserWarning):
    """A covariance of covariates is nearly singular; the message has its condition number."""


def task_moments(task: RegressionTask, **simulation: Any) -> ContextMoments:
    """`exact_moments` where the functions are linear and the covariates know their moments, else `simulated_moments`.

    `simulation` holds options of `simulated_moments`, which exact moments have no use for.

    Raises `ValueError` where inputs or labels have no finite fourth moments, or the task is of another kind. Warns
    (`ConditionWarning`) where the covariance of the inputs is so near to singular that a preconditioner has few correct digits.
    """
    if not isinstance(task, RegressionTask):
        raise InputError(
            f"{type(task).__name__} is not a RegressionTask; the theory needs one, with query and context drawn independently."
        )
    if task.covariates.finite_moments <= 4:
        raise InputError(
            f"{type(task.covariates).__name__} covariates have finite moments only below order {task.covariates.finite_moments:g}; the risk of "
            "a layer of linear self-attention is finite only with fourth moments, so choose lighter tails."
        )
    moments = exact_moments(task) if has_exact_moments(task) else simulated_moments(task, **simulation)
    d = task.dim
    spread = np.linalg.eigvalsh(moments.inputs @ moments.query @ moments.inputs.T)
    spread = spread[spread > d * np.finfo(float).eps * spread[-1]]
    rank, condition = len(spread), spread[-1] / spread[0]
    if rank < d or condition > ILL_CONDITIONED:
        warnings.warn(
            f"the covariance of the covariates is nearly singular: rank {rank} of {d}, condition number {condition:.2g} on its range; the "
            "preconditioner is 0 outside, and risks are not affected.",
            ConditionWarning,
            stacklevel=2,
        )
    return moments
