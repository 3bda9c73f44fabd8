"""Damping: a looped layer applied more often than it was trained for, in smaller steps."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from mesalens.checks import InputError, positive
from mesalens.models import LinearTransformer
from mesalens.models.tokens import Joint
from mesalens.simulation import Estimate, expectation
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
    """The risk after each of 0 to `times` applications of a looped layer, over (damping, times), with `standard_error`.

    Each application is `e <- e + λ Σ_h B_h S A_h e`, as in `LinearTransformer.repeated`, and all dampings λ see the same prompts. Both are
    infinite where the numbers overflow. Gradient descent and GD++ with one step size take part as their constructed transformers.

    Raises `ValueError` for layers with weights of their own, less than one time, no damping, or one that is not above 0.

    Source: von Oswald et al. (2023), Section 4 (a layer repeated, with damping).
    """
    if not len(dampings):
        raise InputError("there is no damping; give at least one number above 0.")
    for damping in dampings:
        positive("the damping", damping)
    risk = _risks(model.repeated(times), jnp.asarray(dampings), task, key, prompts)
    dims = ("damping", "times")
    return xr.Dataset(
        {"risk": (dims, np.asarray(risk.value)), "standard_error": (dims, np.asarray(risk.standard_error))},
        {"damping": np.asarray(dampings), "times": np.arange(times + 1)},
    )


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
    """The largest λ with which a looped layer that is applied `times` times does not diverge on these prompts.

    It diverges where its risk ends above the risk before the first application, that of predicting 0 if W_0 is zero. As divergence is
    exponential in `times`, other thresholds give nearly the same λ. For gradient descent with one step size η the prediction after t
    steps has the factor 1 - λ η μ to the power t along each eigenvalue μ of X^T X / n: λ is a little above 2 / (η μ_max), μ_max the
    largest of all prompts, and falls as these are more.

    Bisection in log λ, from the interval `between`, until λ is known to the relative `precision`; it returns the stable end. Where dampings
    above an unstable one are stable again, it finds one of the ends.

    Raises `ValueError` where the layer diverges at the low end of the interval, or is stable at the high one; see also `risk_by_depth`.
    """
    low, high = (positive("an end of the interval", end) for end in between)
    positive("the precision", precision)
    if low >= high:
        raise InputError(f"the interval is from {low:g} to {high:g}; give the smaller damping first.")
    looped = model.repeated(times)

    def stable(damping: float) -> bool:
        risk = np.asarray(_risks(looped, jnp.asarray([damping]), task, key, prompts).value)[0]
        return bool(risk[-1] <= risk[0])

    if not stable(low):
        raise InputError(
            f"the layer diverges over {times} applications even with the damping {low:g}; give an interval that starts lower, or a trained layer."
        )
    if stable(high):
        raise InputError(
            f"the layer is stable over {times} applications with the damping {high:g}; give an interval that ends higher, or more applications."
        )
    while high > low * (1 + precision):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if stable(middle) else (low, middle)
    return low


@eqx.filter_jit
def _risks(
    looped: LinearTransformer, dampings: Float[Array, " dampings"], task: Task, key: Key[Array, ""], prompts: int
) -> Estimate:
    """The risk before the first and after every application, of shape (dampings, layers + 1)."""
    A, B = (matrices[0] for matrices in looped.effective())

    def squared_errors(prompt, target):
        eqx.filter_eval_shape(looped, prompt)  # says what is wrong where sizes do not match
        tokens = Joint(looped.initial_weights)
        context, query = tokens.context(prompt), tokens.query(prompt)

        def of_damping(damping):
            def apply(carry, _):
                token, S = carry
                update = damping * jnp.einsum("hij,jk,hkl->il", B, S, A)
                S = S + update @ S
                token = token + update @ token
                return (token, S + S @ update.T), token

            _, tokens = jax.lax.scan(apply, (query, context.T @ context), length=looped.layers)
            predictions = -jnp.concatenate([query[None], tokens])[:, prompt.dim :]
            return jnp.sum((predictions - target) ** 2, axis=-1)

        return jax.vmap(of_damping)(dampings)

    risk = expectation(squared_errors, task, key, prompts=prompts)
    finite = jnp.isfinite(risk.value)
    return Estimate(jnp.where(finite, risk.value, jnp.inf), jnp.where(finite, risk.standard_error, jnp.inf))
