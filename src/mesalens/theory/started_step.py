"""The best step of preconditioned descent whose start is free."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mesalens.checks import InputError
from mesalens.tasks import FinitePool, LinearFunctions, Mixture, Task
from mesalens.theory._requirements import independent
from mesalens.theory._task_moments import task_moments
from mesalens.theory.preconditioner import best_preconditioner


class StartedStep(NamedTuple):
    """The step `ŷ = W_0 x_q + x_q^T P Σ_i (y_i - W_0 x_i) x_i`, and its risk.

    Attributes:
        initial_weights: W_0, of shape (m, d).
        preconditioner: P, of shape (d, d), which includes the step size on `1/2 Σ_i ‖W x_i -
            y_i‖²`.
        risk: E‖ŷ - y_q‖².
    """

    initial_weights: Float[np.ndarray, "m d"]
    preconditioner: Float[np.ndarray, "d d"]
    risk: float


def best_started_step(task: Task) -> StartedStep:
    r"""The best step of preconditioned descent from any W_0: W_0 = E[W], and the best P for it.

    With `w = E[w] + v` the error of a step from W_0 is that of a step from 0 for the weights v,
    plus a linear function of `E[w] - W_0` that v does not enter; as E[v] = 0 their product has mean
    0. So W_0 = E[W] is best for every P, and P is that of `best_preconditioner` for the weights
    less their mean. For x ~ N(0, H), w ~ N(β, Ψ) and noise variance σ², on the mean loss,

    $$P n = \Psi \left(\frac{n+1}{n} H \Psi
    + \frac{\operatorname{tr}(H \Psi) + \sigma^2}{n} I\right)^{-1}, \qquad
    R = \sigma^2 + \operatorname{tr}(H \Psi) - \operatorname{tr}(P n H \Psi H).$$

    Args:
        task: Regression with functions that are linear or from a pool, on independent inputs, or a
            mixture of such tasks with the same law of inputs.

    Returns:
        W_0, P and the risk.

    Raises:
        ValueError: For other functions, distractors, or a mixture whose inputs have several laws.

    Source: Zhang, Wu and Bartlett (2024), arXiv 2402.14951, where it is the optimal "GD-β"; derived
    here.
    """
    mean = mean_weights(task)
    moments = task_moments(without_mean(task, mean))
    if moments.joint is not None:
        raise InputError(
            "components must have the same law of inputs, or W_0 = E[W] is not the best start."
        )
    return StartedStep(mean, *best_preconditioner(moments))


def mean_weights(task: Task) -> Float[np.ndarray, "m d"]:
    """The mean E[W] of a task's weights.

    Args:
        task: Regression with functions that are linear or from a pool, or a mixture of such tasks.

    Returns:
        E[W], of shape (m, d).

    Raises:
        ValueError: For other functions, or if there are distractors.
    """
    if isinstance(task, Mixture):
        pairs = zip(task.probabilities, task.components, strict=True)
        return sum(share * mean_weights(each) for share, each in pairs)  # pyright: ignore
    functions = independent(task).functions
    if int(independent(task).distractors.count):
        raise InputError("distractors must be 0, as their labels do not depend on W.")
    if isinstance(functions, LinearFunctions):
        return functions.weight_mean()
    if isinstance(functions, FinitePool):
        return functions.matrices().mean(axis=0)
    raise InputError(
        f"functions must be linear, or a pool, for a mean of W; got {type(functions).__name__}."
    )


def without_mean(task: Task, mean: Float[np.ndarray, "m d"]) -> Task:
    """The task of the labels `y - mean x`: `mean` is subtracted from its weights."""
    if isinstance(task, Mixture):
        components = tuple(without_mean(each, mean) for each in task.components)
        return dataclasses.replace(task, components=components)
    task = independent(task)
    functions = task.functions
    if isinstance(functions, LinearFunctions):
        shifted = functions.weight_mean() - mean
        moved = dataclasses.replace(functions, mean=shifted / float(functions.scale))
    else:
        moved = FinitePool.of(functions.matrices() - mean)  # pyright: ignore
    return dataclasses.replace(task, functions=moved)
