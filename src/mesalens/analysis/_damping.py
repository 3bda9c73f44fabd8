"""Damping: a looped layer applied more often than it was trained for, in smaller steps."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Key

from mesalens.analysis._compiled import compiled_expectation
from mesalens.checks import InputError, count, positive
from mesalens.learners.base import predict_iterates, require
from mesalens.models import LinearTransformer
from mesalens.tasks import Task


def risk_by_depth(
    model: LinearTransformer,
    task: Task,
    key: Key[Array, ""],
    *,
    times: int = 50,
    dampings: Sequence[float] = (1.0, 0.75, 0.5, 0.25),
    prompts: int = 2000,
) -> xr.Dataset:
    """The risk after each of 0 to `times` applications of a looped layer.

    Each application is `e <- e + λ Σ_h B_h S A_h e`, as in `LinearTransformer.repeated`. All
    dampings λ see the same prompts. To measure gradient descent and GD++ with one step size, give
    [their transformers][mesalens.theory.gradient_descent_transformer].

    Args:
        model: A looped transformer or one layer.
        task: The distribution of prompts.
        key: A random key.
        times: The number of applications.
        dampings: The dampings λ.
        prompts: The number of prompts.

    Returns:
        `risk` and `standard_error` over (damping, times), infinite if numbers overflow.

    Raises:
        ValueError: If layers have separate weights, `times` is below 1, there is no damping, or
            one is not positive.

    Source: von Oswald et al. (2023), Section 4 (a layer repeated, with damping).
    """
    require(model, LinearTransformer, "risk_by_depth")
    count("the number of dampings", len(dampings))
    for damping in dampings:
        positive("damping", damping)
    errors = eqx.Partial(_squared_errors, model, jnp.asarray(dampings), times)
    estimate = compiled_expectation(errors, task, key, prompts=prompts)
    variables = {"risk": estimate.value, "standard_error": estimate.standard_error}
    table = xr.Dataset(
        {name: (("damping", "times"), np.asarray(array)) for name, array in variables.items()},
        {"damping": np.asarray(dampings), "times": np.arange(times + 1)},
    )
    return table.where(np.isfinite(table.risk), np.inf)


def _squared_errors(model, dampings, times, prompt, target):
    """Before the first and after every application, of shape (dampings, times + 1)."""

    def damped(damping):
        iterates = predict_iterates(model.repeated(times, damping=damping), prompt)
        return jnp.sum((iterates - target) ** 2, axis=-1)

    return jax.vmap(damped)(dampings)


def largest_stable_damping(
    model: LinearTransformer,
    task: Task,
    key: Key[Array, ""],
    *,
    times: int = 50,
    between: tuple[float, float] = (1e-3, 100.0),
    precision: float = 0.01,
    prompts: int = 2000,
) -> float:
    """The largest damping λ for which a looped layer, applied `times` times, does not diverge.

    It diverges if its risk ends above the risk before the first application, which is that of
    predicting 0 if W_0 is zero. Divergence is exponential in `times`, so that other thresholds give
    nearly the same λ. For gradient descent with one step size η the prediction after t steps has
    the factor (1 - λ η μ)^t along each eigenvalue μ of X^T X / n. Hence λ is a little above
    2 / (η μ_max) with μ_max the largest of all prompts, and falls with the number of prompts.

    Args:
        model: A looped transformer or one layer.
        task: The distribution of prompts.
        key: A random key. All dampings see the same prompts.
        times: The number of applications.
        between: The interval in which log λ is bisected.
        precision: The relative precision of λ.
        prompts: The number of prompts.

    Returns:
        The stable end of the last interval. If larger dampings beyond an unstable one are stable
            again, it is one of the ends of stability.

    Raises:
        ValueError: If the layer diverges at the low end of the interval, or is stable at the high
            end; otherwise as `risk_by_depth`.
    """
    require(model, LinearTransformer, "largest_stable_damping")
    positive("precision", precision)
    low, high = (positive("between", end) for end in between)
    if not low < high:
        raise InputError(f"between must be two positive, increasing numbers; got {between}.")

    def stable(damping: float) -> bool:
        table = risk_by_depth(model, task, key, times=times, dampings=[damping], prompts=prompts)
        return bool(table.risk[0, -1] <= table.risk[0, 0])

    if not stable(low):
        raise InputError(f"between must start lower: the layer diverges at damping {low:g}.")
    if stable(high):
        raise InputError(f"between must end higher: the layer is stable at damping {high:g}.")
    while high > low * (1 + precision):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if stable(middle) else (low, middle)
    return low
