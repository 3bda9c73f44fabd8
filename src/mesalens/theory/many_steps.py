"""The best step sizes of several steps of gradient descent."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float, Key

from mesalens import random
from mesalens.checks import InputError, count
from mesalens.learners import GradientDescent
from mesalens.prompt import Prompt
from mesalens.simulation import Estimate, expectation
from mesalens.tasks import RegressionTask


class DescentSteps(NamedTuple):
    """The best step sizes of k steps on the mean loss, one or k of them, with standard errors, and the risk on fresh prompts."""

    step_size: Float[np.ndarray, ""] | Float[np.ndarray, " steps"]
    standard_error: Float[np.ndarray, ""] | Float[np.ndarray, " steps"]
    risk: Estimate


def best_steps(
    task: RegressionTask,
    steps: int,
    *,
    shared: bool = True,
    key: Key[Array, ""] | None = None,
    prompts: int = 20_000,
) -> DescentSteps:
    """The step sizes with which k steps of gradient descent from zero have the least risk, by smooth minimisation.

        min_η 1/N Σ ‖ŷ_η - y_q‖²

    over the same N prompts, in float64: a polynomial in the step sizes, minimised by BFGS with its gradient. `shared` asks for one size
    for all steps. With gradients g_i of the prompts' terms and the Hessian H at the minimum the covariance of the minimiser is
    `H^-1 Cov(g_i) H^-1 / N`. The risk is measured on as many fresh prompts. For one step of linear functions `best_step_size` is exact.

    Raises `ValueError` where a size is below 1 (prompts: 2), or the minimum is not found.
    """
    count("steps", steps)
    count("prompts", prompts, at_least=2)
    fit_key, fresh_key = jax.random.split(random.unroll(random.key(0) if key is None else key))
    drawn = eqx.filter_jit(lambda t, k: t.sample(k, (prompts,)))(task, fit_key)
    with jax.enable_x64(True):
        fixed: tuple[Prompt, Array] = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), drawn)

        def term(step_size, prompt, target):
            return jnp.sum((GradientDescent(step_size, steps)(prompt) - target) ** 2)

        def risk(step_size):
            return jnp.mean(jax.vmap(term, (None, 0, 0))(step_size, *fixed))

        # A step along the steepest direction of one typical context is stable; many steps go on from there
        scale = task.context_length / float(jnp.mean(jnp.sum(fixed[0].xs ** 2, axis=(1, 2))))
        start = scale * (np.ones(1) if shared else np.linspace(0.5, 1.5, steps))

        def shape(flat):
            return flat[0] if shared else flat

        value_and_slope = jax.jit(jax.value_and_grad(lambda flat: risk(shape(flat))))
        found = scipy.optimize.minimize(
            lambda flat: tuple(np.asarray(out, np.float64) for out in value_and_slope(flat)),
            start,
            jac=True,
            method="BFGS",
        )
        if not np.isfinite(found.x).all() or np.abs(found.jac).max() > 1e-3 * found.fun / scale:
            raise InputError(f"no best step sizes were found for {steps} steps ({found.message}); ask for fewer steps.")
        hessian = np.asarray(jax.jit(jax.hessian(lambda flat: risk(shape(flat))))(found.x))
        slopes = np.asarray(
            jax.jit(jax.vmap(jax.grad(lambda flat, *of: term(shape(flat), *of)), (None, 0, 0)))(found.x, *fixed)
        )
    inverse = np.linalg.inv(hessian)
    error = np.sqrt(np.diag(inverse @ np.atleast_2d(np.cov(slopes.T)) @ inverse) / prompts)
    learner = GradientDescent(jnp.asarray(shape(found.x), jnp.float32), steps)
    fresh = eqx.filter_jit(
        lambda learner, task, key: expectation(
            lambda prompt, target: jnp.sum((learner(prompt) - target) ** 2), task, key, prompts=prompts
        )
    )(learner, task, fresh_key)
    return DescentSteps(np.asarray(shape(found.x)), np.asarray(shape(error)), fresh)
