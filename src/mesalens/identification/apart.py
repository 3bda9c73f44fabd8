"""Prompts that drive two algorithms apart, within the bulk of a task."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens.identification.members import in_arrays
from mesalens.identification.prompts import Prompts
from mesalens.identification.regimes import Regime
from mesalens.learners import Learner
from mesalens.learners.base import predict
from mesalens.program_cache import compiled_once
from mesalens.prompt import Prompt

APART = Regime("apart", "typical prompts on which the best candidates differ most", tied=True)

STEPS, SIZE = 12, 0.3
"""Steps of the ascent, and the share of its length by which the first step moves a prompt."""

QUANTILE = 0.99


class Bulk(NamedTuple):
    """The region in which most prompts of a task lie.

        (x - x̄)^T Σ^-1 (x - x̄) ≤ r²,      |y - ȳ| ≤ s,      λ(X^T X / n) ≥ l

    r and s are the 0.99 quantiles over prompts of the task, and l the 0.01 quantile. Labels that
    are classes are not moved.
    """

    mean: Float[np.ndarray, " d"]
    whiten: Float[np.ndarray, "d d"]
    colour: Float[np.ndarray, "d d"]
    radius: float
    label_mean: Float[np.ndarray, " m"]
    label_size: Float[np.ndarray, " m"]
    least: float
    moves_labels: bool

    @classmethod
    def of(cls, prompts: Prompts, classes: bool) -> "Bulk":
        """The region of a batch of prompts; `classes` says that labels are classes."""
        xs = prompts.xs.reshape(-1, prompts.xs.shape[-1]).astype(float)
        ys = prompts.ys.reshape(-1, prompts.ys.shape[-1]).astype(float)
        mean, label_mean = xs.mean(0), ys.mean(0)
        variances, axes = np.linalg.eigh(np.cov(xs.T).reshape(xs.shape[-1], -1))
        roots = np.sqrt(np.maximum(variances, 1e-12 * variances.max()))
        whiten, colour = (axes / roots) @ axes.T, (axes * roots) @ axes.T
        radius = np.quantile(np.linalg.norm((xs - mean) @ whiten, axis=1), QUANTILE)
        sizes = np.quantile(np.abs(ys - label_mean), QUANTILE, axis=0)
        singular = np.linalg.svd(prompts.xs.astype(float), compute_uv=False)[:, -1]
        least = np.quantile(singular**2 / prompts.context_length, 1 - QUANTILE)
        numbers = float(radius), label_mean, sizes, float(least)
        return cls(mean, whiten, colour, *numbers, not classes)


def drive_apart(first: Learner, second: Learner, prompts: Prompts, bulk: Bulk) -> Prompts:
    """Prompts found by gradient ascent on ‖A_1 - A_2‖² from given prompts, within the bulk.

    Only the algorithms are differentiated, never the learner. Of all prompts along the ascent that
    lie within the bulk, the one on which the algorithms differ most is kept; if there is none, the
    given one.
    """
    with jax.enable_x64(True):
        first, second = in_arrays(first), in_arrays(second)
        bulk = jax.tree.map(lambda part: jax.device_put(np.asarray(part, float)), bulk)
        found = _ascend(first, second, prompts.in_float64, bulk)
        return Prompts(*map(np.asarray, (found.xs, found.ys, found.query)))


@compiled_once
def _ascend(first: Learner, second: Learner, prompts: Prompt, bulk: Bulk) -> Prompt:
    def apart(prompt: Prompt) -> Any:
        return jnp.sum((predict(first, prompt) - predict(second, prompt)) ** 2)

    slope = jax.vmap(jax.value_and_grad(apart))

    def inside(prompt: Prompt) -> Prompt:
        def inputs(x: Array) -> Any:
            z = (x - bulk.mean) @ bulk.whiten
            length = jnp.linalg.norm(z, axis=-1, keepdims=True)
            return bulk.mean + z * jnp.minimum(1, bulk.radius / jnp.maximum(length, 1e-9)) @ (
                bulk.colour
            )

        low, high = bulk.label_mean - bulk.label_size, bulk.label_mean + bulk.label_size
        ys = jnp.where(bulk.moves_labels, jnp.clip(prompt.ys, low, high), prompt.ys)
        return Prompt(inputs(prompt.xs), ys, inputs(prompt.query))

    def step(state, size):
        prompt, best, most = state
        value, gradient = slope(prompt)
        better = jnp.isfinite(value) & (value > most) & (_least(prompt) >= bulk.least)
        best = jax.tree.map(lambda new, old: _where(better, new, old), prompt, best)
        gradient = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0), gradient)
        gradient = dataclasses.replace(gradient, ys=bulk.moves_labels * gradient.ys)
        moved = jax.tree.map(lambda x, g: x + size * _length(x) * _direction(g), prompt, gradient)
        return (inside(moved), best, jnp.where(better, value, most)), None

    start = (inside(prompts), prompts, jnp.full(len(prompts.query), -1.0))
    (_, best, _), _ = jax.lax.scan(step, start, SIZE * 0.85 ** jnp.arange(STEPS))
    return best


def _least(prompts: Prompt) -> Array:
    """The least of the min(n, d) eigenvalues of X^T X / n of each context.

    Without a lower bound on it, least squares could be driven anywhere.
    """
    return jnp.linalg.svd(prompts.xs, compute_uv=False)[..., -1] ** 2 / prompts.context_length


def _where(rows: Array, new: Array, old: Array) -> Array:
    return jnp.where(rows.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _length(x: Array) -> Array:
    """The Euclidean length of each prompt's part, with the axes of the part."""
    return jnp.sqrt(jnp.sum(x**2, axis=tuple(range(1, x.ndim)), keepdims=True))


def _direction(gradient: Array) -> Array:
    return gradient / jnp.maximum(_length(gradient), 1e-30)
