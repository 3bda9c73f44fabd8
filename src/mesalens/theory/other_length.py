"""A step on contexts of another length than that for which it is best."""

import dataclasses

import numpy as np
from jaxtyping import Float

from mesalens.checks import count
from mesalens.tasks import RegressionTask
from mesalens.theory._preconditioned_risk import preconditioned_risk
from mesalens.theory._requirements import regression
from mesalens.theory._task_moments import task_moments
from mesalens.theory.preconditioner import best_preconditioner


def risk_at_length(
    task: RegressionTask, context_length: int, P: Float[np.ndarray, "d d"] | None = None
) -> float:
    r"""The risk on contexts of M examples of a step that is best for N, the length of the task.

    The layer averages over the context: `ŷ = x_q^T Γ 1/M Σ_i y_i x_i` with `Γ = N P`. For
    x ~ N(0, H), w ~ N(0, ψ² I) and noise variance σ²

    $$R = \psi^2 \operatorname{tr} H + \sigma^2 - 2 \psi^2 \operatorname{tr}(H \Gamma H)
    + \operatorname{tr}(\Gamma^T H \Gamma K_M),$$

    $$K_M = \psi^2 \left(\frac{M+1}{M} H^2
    + \frac{\operatorname{tr} H + \sigma^2/\psi^2}{M} H\right).$$

    Args:
        task: A regression task with contexts of N examples.
        context_length: M, the number of examples.
        P: The preconditioner of the step, of shape (d, d), with its step size on the sum over N
            examples. By default that of `best_preconditioner` for the task.

    Returns:
        The risk R.

    Source: Wu et al. (2024), arXiv 2310.08391; derived here.
    """
    N, M = regression(task).context_length, count("context_length", context_length)
    P = best_preconditioner(task_moments(task))[0] if P is None else P
    other = dataclasses.replace(task, context_length=M)
    return preconditioned_risk(P * N / M, task_moments(other))
