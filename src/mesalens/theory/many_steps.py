"""The best rates of several steps of gradient descent, and of GD++."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float, Key

from mesalens import random
from mesalens.checks import InputError, count, matrix
from mesalens.learners import GradientDescent
from mesalens.learners.base import predict
from mesalens.program_cache import compiled_once
from mesalens.simulation import Estimate, expectation
from mesalens.tasks import Task


class DescentSteps(NamedTuple):
    """The best rates of k steps of gradient descent on the mean loss, and their risk.

    There is one rate for all steps, or one for each.

    Attributes:
        step_size: η, of shape () or (steps,).
        standard_error: The standard error of η.
        risk: The risk on fresh prompts.
        steps: Number of steps k.
        data_correction: γ of GD++, of shape () or (steps,), or None for plain gradient descent. The
            last of several has no effect and is 0.
        correction_error: The standard error of γ, or None.
        initial_weights: W_0, of shape (m, d), or None for zero.
    """

    step_size: Float[np.ndarray, ""] | Float[np.ndarray, " steps"]
    standard_error: Float[np.ndarray, ""] | Float[np.ndarray, " steps"]
    risk: Estimate
    steps: int
    data_correction: Float[np.ndarray, ""] | Float[np.ndarray, " steps"] | None = None
    correction_error: Float[np.ndarray, ""] | Float[np.ndarray, " steps"] | None = None
    initial_weights: Float[np.ndarray, "m d"] | None = None

    @property
    def learner(self) -> GradientDescent:
        """Gradient descent with these rates."""
        fields = ("step_size", "steps", "data_correction", "initial_weights")
        return GradientDescent(**{name: getattr(self, name) for name in fields})


_PROPORTIONS = ((1.1, 1.4), (0.7, 0.4), (1.6, 0.4), (1.1, 0.3))
"""Starts of GD++ with rates for each step: η and γ in units of 1 / λ_max before the step."""


class _Spectra(NamedTuple):
    """What descent sees of N prompts, in the eigenbasis of `X^T X / n`.

    `eigenvalues` are those of that matrix, `signals` `Y^T X / n` times the query along each axis.
    Labels and targets are residuals, `y - W_0 x`.
    """

    eigenvalues: Float[np.ndarray | Array, "N d"]
    signals: Float[np.ndarray | Array, "N m d"]
    targets: Float[np.ndarray | Array, "N m"]


def best_step_sizes(
    task: Task,
    steps: int,
    initial_weights: Float[np.ndarray, "m d"] | None = None,
    *,
    shared: bool = True,
    data_correction: bool = False,
    key: Key[Array, ""] | None = None,
    prompts: int = 20_000,
) -> DescentSteps:
    r"""The rates with which k steps of gradient descent from W_0 have the smallest risk.

    $$\min_{\eta, \gamma} \frac{1}{N} \sum \|\hat y - y_q\|^2$$

    over the same N prompts, in float64: a polynomial in the rates, minimised by BFGS with its
    gradient. With gradients g_i of the terms of the prompts and the Hessian H at the minimum, the
    covariance of the minimiser is `H^-1 Cov(g_i) H^-1 / N` (infinite if H is singular). The risk is
    measured on as many fresh prompts. Descent from W_0 is `W_0 x` and descent from zero on the
    residuals `y - W_0 x`. For one step of linear functions
    [`best_step_size`][mesalens.theory.best_step_size] is exact.

    The search for shared rates starts from plain descent. GD++ with rates for each step has several
    minima, and the deepest on N prompts diverge on contexts with larger eigenvalues than any of the
    N has. That search starts from the shared rates, and from rates in proportion to what the
    previous steps leave of the spectrum; of the minima it takes the one of least risk on 4 N other
    prompts. Rarer contexts can still diverge: the standard error of the risk is then as large as
    the risk. Five such steps take about a minute on two cores, as do twelve shared ones; twelve
    with separate rates take more than four.

    Args:
        task: Any task.
        steps: Number of steps k.
        initial_weights: W_0, of shape (m, d). Zero by default.
        shared: Whether all steps have the same rates.
        data_correction: Whether to fit GD++, its corrections γ together with η.
        key: A random key for the prompts. By default `mesalens.random.key(0)`.
        prompts: The number of prompts N.

    Returns:
        The rates, with standard errors, and their risk.

    Raises:
        ValueError: If `steps` is below 1 or `prompts` below 2, W_0 is not m × d, no minimum is
            found, or the risk on fresh prompts is not finite.
    """
    count("steps", steps)
    count("prompts", prompts, at_least=2)
    fit_key, fresh_key = jax.random.split(random.unroll(random.key(0) if key is None else key))
    if initial_weights is not None:
        initial_weights = matrix("initial_weights", initial_weights, (task.outputs, task.dim))
    spectra = _spectra(task, fit_key, prompts, initial_weights)
    # The step for the spectrum of all contexts; that for the steepest direction of one is too small
    unit = float(spectra.eigenvalues.sum() / (spectra.eigenvalues**2).sum())
    free = _free_rates(steps, shared, data_correction)
    with jax.enable_x64(True):
        if data_correction and not shared and steps > 1:
            held_out_key = jax.random.fold_in(fit_key, 0)
            held_out = _spectra(task, held_out_key, 4 * prompts, initial_weights)
            minimum = _best_of_starts(free, spectra, held_out, unit)
        else:
            sizes = np.ones(1) if shared else np.linspace(0.5, 1.5, steps)
            start = np.append(sizes, np.zeros(free.shape[2] - len(sizes)))
            minimum = _minimise(free, spectra, unit * start, np.full(len(start), unit))
        if not np.isfinite(minimum).all():
            raise InputError(
                f"no minimum was found for steps={steps}; give fewer steps, or more prompts."
            )
        error = _standard_error(free, spectra, minimum)
    if shared:
        free = free[:, 0]  # the rates are those of the first step
    (sizes, corrections), errors = free @ minimum, free @ error
    fitted = (corrections, errors[1]) if data_correction else (None, None)
    unknown = Estimate(np.nan, np.nan)
    best = DescentSteps(sizes, errors[0], unknown, steps, *fitted, initial_weights)
    best = best._replace(risk=_risk(best.learner, task, fresh_key, prompts))
    if not np.isfinite(best.risk.value):
        raise InputError(
            f"the rates that are best for steps={steps} on prompts={prompts} diverge on fresh "
            "prompts; give fewer steps, or more prompts."
        )
    return best


@compiled_once
def _risk(learner: GradientDescent, task: Task, key: Key[Array, ""], prompts: int) -> Estimate:
    def squared_error(prompt, target):
        return jnp.sum((predict(learner, prompt) - target) ** 2)

    return expectation(squared_error, task, key, prompts=prompts)


def _spectra(task: Task, key: Key[Array, ""], prompts: int, start) -> _Spectra:
    drawn = compiled_once(task.sample)(key, (prompts,))
    parts = (*drawn[0].rows, drawn[0].query, drawn[1])
    xs, ys, queries, targets = (np.asarray(part, np.float64) for part in parts)
    if start is not None:
        ys, targets = ys - xs @ start.T, targets - queries @ start.T
    eigenvalues, axes = np.linalg.eigh(xs.mT @ xs / task.context_length)
    signals = (ys.mT @ xs / task.context_length) @ axes * (queries[:, None] @ axes)
    return _Spectra(eigenvalues, signals, targets)


def _free_rates(steps: int, shared: bool, data_correction: bool) -> Float[np.ndarray, "2 k free"]:
    """η and γ of every step as linear functions of the free numbers; the last γ is 0."""
    sizes = np.ones((steps, 1)) if shared else np.eye(steps)
    corrections = data_correction * sizes
    corrections[-1] = 0
    corrections = corrections[:, corrections.any(axis=0)]
    return scipy.linalg.block_diag(sizes, corrections).reshape(2, steps, -1)


def _term(rates: Float[Array, "2 steps"], spectrum: _Spectra) -> Float[Array, ""]:
    """‖ŷ - y_q‖² of one prompt.

    Along an eigenvector of `X^T X / n` the weights are `Y^T X / n` times a polynomial of the
    eigenvalue.
    """
    learned, transform = jnp.zeros_like(spectrum.eigenvalues), jnp.ones_like(spectrum.eigenvalues)
    for step in range(rates.shape[1]):  # written out, it is one loop over the prompts
        size, correction = rates[0, step], rates[1, step]
        learned = learned + size * transform**2 * (1 - spectrum.eigenvalues * learned)
        transform = transform * (1 - correction * transform**2 * spectrum.eigenvalues)
    return jnp.sum((spectrum.signals @ learned - spectrum.targets) ** 2)


def _mean(rates: Float[Array, "2 steps"], spectra: _Spectra) -> Float[Array, ""]:
    return jnp.mean(jax.vmap(_term, (None, 0))(rates, spectra))


@jax.jit
def _log_risk(numbers, free, spectra):
    # The logarithm grows slowly where descent diverges; the small term keeps it finite at risk 0
    risk = _mean(free @ numbers, spectra)
    return jnp.log(risk / jnp.mean(jnp.sum(spectra.targets**2, axis=1)) + 1e-12)


_value_and_slope = jax.jit(jax.value_and_grad(_log_risk))


def _minimise(free, spectra: _Spectra, start, units) -> Float[np.ndarray, " free"]:
    """The free numbers at which BFGS, in the given units, ends; NaN if that is not a minimum."""

    def value_and_slope(scaled):
        value, slope = map(np.asarray, _value_and_slope(scaled, free * units, spectra))
        finite = np.isfinite(value) and np.isfinite(slope).all()
        # Elsewhere a value above the logarithm of every float64
        return (float(value), slope) if finite else (1e3, np.zeros_like(slope))

    spectra = jax.tree.map(jnp.asarray, spectra)
    minimum = scipy.optimize.minimize(value_and_slope, start / units, jac=True, method="BFGS")
    stationary = minimum.fun < 1e3 and np.abs(minimum.jac).max() < 1e-3
    return units * minimum.x if stationary else np.full(len(start), np.nan)


def _best_of_starts(free, spectra: _Spectra, held_out: _Spectra, unit) -> Float[np.ndarray, " f"]:
    """The free numbers of GD++ with rates for each step, from several starts.

    Of the minima that they lead to it is the one of least risk on held-out prompts.
    """
    steps = free.shape[1]
    free_shared = _free_rates(steps, True, True)
    rates = free_shared @ _minimise(free_shared, spectra, np.array([unit, 0]), np.full(2, unit))
    starts = [rates, *(_proportionate(spectra.eigenvalues, steps, *pair) for pair in _PROPORTIONS)]
    # A rate is a free number or 0, so the transpose gives the free numbers back
    starts = [np.tensordot(start, free, 2) for start in starts]
    ends = [_minimise(free, spectra, start, start) for start in starts]
    risks = [float(_log_risk(end, free, held_out)) for end in ends]
    return ends[int(np.argmin(np.nan_to_num(risks, nan=np.inf)))]  # NaN if all of them are


def _proportionate(eigenvalues, steps: int, *proportions: float) -> Float[np.ndarray, "2 steps"]:
    """Rates in proportion to 1 / λ_max of the data that each step finds."""
    transform, rates = np.ones_like(eigenvalues), np.zeros((2, steps))
    for step in range(steps):
        left = transform**2 * eigenvalues
        rates[:, step] = proportions / left.max()
        transform = transform * (1 - rates[1, step] * left)
    return rates


def _standard_error(free, spectra: _Spectra, minimum) -> Float[np.ndarray, " free"]:
    slope = jax.grad(lambda numbers: _mean(free @ numbers, spectra))
    slope_of_term = jax.grad(lambda numbers, spectrum: _term(free @ numbers, spectrum))
    gradients = np.asarray(jax.vmap(slope_of_term, (None, 0))(minimum, spectra))
    rows = jnp.eye(len(minimum))  # of the Hessian, one after the other for memory
    curvature = np.asarray(jax.lax.map(lambda row: jax.jvp(slope, (minimum,), (row,))[1], rows))
    # Rates differ by powers of ten: in units of themselves the Hessian can be inverted
    try:
        inverse = np.linalg.inv(curvature * np.outer(minimum, minimum))
    except np.linalg.LinAlgError:  # a flat minimum, as for n so large that all contexts are alike
        return np.full(len(minimum), np.inf)
    scatter = np.atleast_2d(np.cov((gradients * minimum).T))
    covariance = inverse @ scatter @ inverse / len(gradients)
    return np.abs(minimum) * np.sqrt(np.diag(covariance))
