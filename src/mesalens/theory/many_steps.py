"""The best rates of several steps of gradient descent, and of GD++."""

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
from mesalens.simulation import Estimate, expectation
from mesalens.tasks import Task


class DescentSteps(NamedTuple):
    """The best rates of k steps on the mean loss, one or k of each, with standard errors, and the risk on fresh prompts.

    The corrections are None for plain gradient descent. The last of k acts on nothing and is 0.
    """

    step_size: Float[np.ndarray, ""] | Float[np.ndarray, " steps"]
    standard_error: Float[np.ndarray, ""] | Float[np.ndarray, " steps"]
    risk: Estimate
    steps: int
    data_correction: Float[np.ndarray, ""] | Float[np.ndarray, " steps"] | None = None
    correction_error: Float[np.ndarray, ""] | Float[np.ndarray, " steps"] | None = None

    @property
    def learner(self) -> GradientDescent:
        """Gradient descent with these rates."""
        correction = None if self.data_correction is None else jnp.asarray(self.data_correction, jnp.float32)
        return GradientDescent(jnp.asarray(self.step_size, jnp.float32), self.steps, data_correction=correction)


# Starts of GD++ with rates of its own for each step: η and γ in units of 1 / λ_max of the data before the step
_PROPORTIONS = ((1.1, 1.4), (0.7, 0.4), (1.6, 0.4), (1.1, 0.3))


class _Spectra(NamedTuple):
    """What descent from zero sees of N prompts: the eigenvalues of `X^T X / n`, and `Y^T X / n` times the query along each."""

    eigenvalues: Float[np.ndarray | Array, "N d"]
    signals: Float[np.ndarray | Array, "N m d"]
    targets: Float[np.ndarray | Array, "N m"]


def best_steps(
    task: Task,
    steps: int,
    *,
    shared: bool = True,
    data_correction: bool = False,
    key: Key[Array, ""] | None = None,
    prompts: int = 20_000,
) -> DescentSteps:
    """The rates with which k steps of gradient descent from zero have the least risk, by smooth minimisation.

        min_{η, γ} 1/N Σ ‖ŷ - y_q‖²

    over the same N prompts, in float64: a polynomial in the rates, minimised by BFGS with its gradient. `shared` asks for one step
    size for all steps, `data_correction` for GD++, whose corrections γ are found together with η. With gradients g_i of the prompts'
    terms and the Hessian H at the minimum the covariance of the minimiser is `H^-1 Cov(g_i) H^-1 / N` (infinite where H is singular). The risk is measured on as many
    fresh prompts. For one step of linear functions `best_step_size` is exact.

    Shared rates are reached from plain descent. GD++ with rates for each step has several minima, and the deepest on N prompts
    diverge on contexts with larger eigenvalues than any of the N has. It starts from the shared rates, and from rates in proportion to
    what the steps before have left of the spectrum; of the minima it takes the one with the least risk on 4 N other prompts.
    Rarer contexts can still diverge: the standard error of the risk is then as large as the risk. Five such steps take about a minute
    on two cores, as do twelve shared ones; twelve with rates of their own more than four.

    Raises `ValueError` where a size is below 1 (prompts: 2), no minimum is found, or the risk on fresh prompts is not finite.
    """
    count("steps", steps)
    count("prompts", prompts, at_least=2)
    fit_key, fresh_key = jax.random.split(random.unroll(random.key(0) if key is None else key))
    spectra = _spectra(task, fit_key, prompts)
    # One typical step, in the spectrum of all contexts; one context's steepest direction alone would be too careful
    unit = float(spectra.eigenvalues.sum() / (spectra.eigenvalues**2).sum())
    free = _free_rates(steps, shared, data_correction)
    with jax.enable_x64(True):
        if data_correction and not shared and steps > 1:
            held_out = _spectra(task, jax.random.fold_in(fit_key, 0), 4 * prompts)
            found = _best_of_starts(free, spectra, held_out, unit)
        else:
            sizes = np.ones(1) if shared else np.linspace(0.5, 1.5, steps)
            start = np.append(sizes, np.zeros(free.shape[2] - len(sizes)))
            found = _minimise(free, spectra, unit * start, np.full(len(start), unit))
        if not np.isfinite(found).all():
            raise InputError(f"no best rates were found for {steps} steps; ask for fewer steps, or for more prompts.")
        error = _standard_error(free, spectra, found)
    # Shared rates are the same at every step
    rates, errors = ((free @ of)[:, 0] if shared else free @ of for of in (found, error))
    best = DescentSteps(rates[0], errors[0], Estimate(np.nan, np.nan), steps)
    if data_correction:
        best = best._replace(data_correction=rates[1], correction_error=errors[1])
    risk = eqx.filter_jit(
        lambda learner, task, key: expectation(
            lambda prompt, target: jnp.sum((learner(prompt) - target) ** 2), task, key, prompts=prompts
        )
    )(best.learner, task, fresh_key)
    if not np.isfinite(risk.value):
        raise InputError(
            f"the {steps} steps that are best on {prompts} prompts diverge on fresh ones; ask for fewer steps, or for more prompts."
        )
    return best._replace(risk=risk)


def _spectra(task: Task, key: Key[Array, ""], prompts: int) -> _Spectra:
    drawn, targets = jax.device_get(eqx.filter_jit(lambda t, k: t.sample(k, (prompts,)))(task, key))
    xs, ys, queries = (np.asarray(part, np.float64) for part in (drawn.xs, drawn.ys, drawn.query))
    eigenvalues, axes = np.linalg.eigh(xs.mT @ xs / drawn.context_length)
    signals = (ys.mT @ xs / drawn.context_length) @ axes * (queries[:, None] @ axes)
    return _Spectra(eigenvalues, signals, np.asarray(targets, np.float64))


def _free_rates(steps: int, shared: bool, data_correction: bool) -> Float[np.ndarray, "2 steps free"]:
    """η and γ of every step as linear functions of the numbers that are free; the last γ acts on nothing."""
    sizes = np.ones((steps, 1)) if shared else np.eye(steps)
    corrections = sizes.copy() if data_correction else sizes[:, :0]
    corrections[-1] = 0
    corrections = corrections[:, corrections.any(axis=0)]
    return np.stack(
        [np.pad(sizes, ((0, 0), (0, corrections.shape[1]))), np.pad(corrections, ((0, 0), (sizes.shape[1], 0)))]
    )


def _term(rates: Float[Array, "2 steps"], spectrum: _Spectra) -> Float[Array, ""]:
    """‖ŷ - y_q‖² of one prompt: along an eigenvector of `X^T X / n` the weights are `Y^T X / n` times a polynomial of its eigenvalue."""
    learned, transform = jnp.zeros_like(spectrum.eigenvalues), jnp.ones_like(spectrum.eigenvalues)
    for step in range(rates.shape[1]):  # written out, it is one loop over the prompts
        size, correction = rates[0, step], rates[1, step]
        learned = learned + size * transform**2 * (1 - spectrum.eigenvalues * learned)
        transform = transform * (1 - correction * transform**2 * spectrum.eigenvalues)
    return jnp.sum((spectrum.signals @ learned - spectrum.targets) ** 2)


@jax.jit
def _log_risk(free, scaled, units, spectra):
    """The logarithm is tame where descent diverges; the small term keeps it finite where the risk is 0."""
    risk = jnp.mean(jax.vmap(_term, (None, 0))(free @ (units * scaled), spectra))
    return jnp.log(risk / jnp.mean(jnp.sum(spectra.targets**2, axis=1)) + 1e-12)


_value_and_slope = jax.jit(jax.value_and_grad(_log_risk, argnums=1))


def _minimise(free, spectra: _Spectra, start, units) -> Float[np.ndarray, " free"]:
    """The numbers where BFGS, in the given units, ends; NaN where that is no minimum."""

    def value_and_slope(scaled):
        value, slope = (np.asarray(out) for out in _value_and_slope(free, scaled, units, spectra))
        if np.isfinite(value) and np.isfinite(slope).all():
            return float(value), slope
        return 1e3, np.zeros_like(slope)  # beyond every float64

    spectra = jax.tree.map(jnp.asarray, spectra)
    found = scipy.optimize.minimize(value_and_slope, start / units, jac=True, method="BFGS")
    stationary = found.fun < 1e3 and np.abs(found.jac).max() < 1e-3
    return units * found.x if stationary else np.full(len(start), np.nan)


def _best_of_starts(free, spectra: _Spectra, held_out: _Spectra, unit: float) -> Float[np.ndarray, " free"]:
    """GD++ with rates for each step: of the minima that several starts lead to, the one with the least risk on other prompts."""
    steps = free.shape[1]
    of_both = _free_rates(steps, True, True)
    both = of_both @ _minimise(of_both, spectra, np.array([unit, 0]), np.full(2, unit))
    starts = [both, *(_proportionate(spectra.eigenvalues, steps, *of) for of in _PROPORTIONS)]
    # Free rates are 0 or 1 times a number of their own, so that the transpose gives the numbers back
    flat = [np.tensordot(start, free, 2) for start in starts]
    ends = [_minimise(free, spectra, start, start) for start in flat if np.isfinite(start).all()]
    ends = [end for end in ends if np.isfinite(end).all()]
    if not ends:
        return np.full(free.shape[2], np.nan)
    return min(
        ends, key=lambda end: np.nan_to_num(float(_log_risk(free, end, np.ones(len(end)), held_out)), nan=np.inf)
    )


def _proportionate(eigenvalues, steps: int, size: float, correction: float) -> Float[np.ndarray, "2 steps"]:
    """Rates in proportion to 1 / λ_max of the data that each step finds."""
    transform, rates = np.ones_like(eigenvalues), np.zeros((2, steps))
    for step in range(steps):
        left = transform**2 * eigenvalues
        rates[:, step] = np.array([size, correction]) / left.max()
        transform = transform * (1 - rates[1, step] * left)
    return rates


def _standard_error(free, spectra: _Spectra, found) -> Float[np.ndarray, " free"]:
    def mean(flat):
        return jnp.mean(jax.vmap(_term, (None, 0))(free @ flat, spectra))

    def rows(flat):  # one by one, for memory
        return jax.lax.map(lambda v: jax.jvp(jax.grad(mean), (flat,), (v,))[1], jnp.eye(len(flat)))

    hessian = np.asarray(jax.jit(rows)(found))
    slopes = np.asarray(
        jax.jit(jax.vmap(jax.grad(lambda flat, one: _term(free @ flat, one)), (None, 0)))(found, spectra)
    )
    # Rates differ by powers of ten: in units of themselves the Hessian can be inverted
    try:
        inverse = np.linalg.inv(hessian * np.outer(found, found))
    except np.linalg.LinAlgError:  # a flat minimum, as where n is so large that all contexts are alike
        return np.full(len(found), np.inf)
    covariance = inverse @ np.atleast_2d(np.cov((slopes * found).T)) @ inverse / len(slopes)
    return np.abs(found) * np.sqrt(np.diag(covariance))
