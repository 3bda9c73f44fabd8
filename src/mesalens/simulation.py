"""Expectations over the prompts of a task, estimated by simulation with a standard error."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import wadler_lindig
from jaxtyping import Array, Float, Key, PyTree

from mesalens.checks import count
from mesalens.memory import prompts_size
from mesalens.random import unroll
from mesalens.tasks import Task

MOST_PROMPTS = 10**9

CHUNK_BYTES = 2**28
"""The largest size of the prompts that are drawn at once."""


class Estimate(eqx.Module):
    """A mean over independent draws with its standard error.

    Attributes:
        value: The mean, a number or an array.
        standard_error: Its standard error, of the same shape.
    """

    value: float | Float[np.ndarray | Array, "..."]
    standard_error: float | Float[np.ndarray | Array, "..."]

    def __pdoc__(self, **_) -> wadler_lindig.AbstractDoc | None:
        """The numbers, also within the `repr` of what holds the estimate."""
        try:
            values, errors = np.broadcast_arrays(self.value, self.standard_error)
            text = ", ".join(map(plus_minus, values.flat[:3], errors.flat[:3]))
        except (TypeError, ValueError):  # leaves that JAX traces, or that are not numbers
            return None
        shape = f"shape {values.shape}: " if values.shape else ""
        return wadler_lindig.TextDoc(f"Estimate({shape}{text}{', …' * (values.size > 3)})")


def expectation(
    statistic: Callable[[Any, Any], PyTree],
    task: Task,
    key: Key[Array, ""],
    *,
    prompts: int = 10_000,
    chunk: int = 2048,
) -> PyTree[Estimate]:
    """Estimates of `E[statistic(prompt, target)]` for every leaf of what the statistic returns.

    Prompts are independent and drawn in chunks, so that memory does not grow with their number,
    which is rounded up to whole chunks.

    Args:
        statistic: A function of one prompt and its target that JAX can trace. It calls learners
            through `mesalens.learners.base.predict`.
        task: The distribution of prompts.
        key: A random key.
        prompts: The number of prompts, from 2 to 10⁹.
        chunk: The number of prompts drawn at once; fewer if they would need more than 256 MB.

    Returns:
        A pytree of the structure of what the statistic returns, with an `Estimate` for each leaf.

    Raises:
        ValueError: If the number of prompts is out of range, or one prompt does not fit in memory.
    """
    count("prompts", prompts, at_least=2, at_most=MOST_PROMPTS)
    key = unroll(key)
    chunk = max(1, min(chunk, prompts, int(CHUNK_BYTES // prompts_size(task, key))))
    keys = jax.random.split(key, -(-prompts // chunk))

    def moments(key):
        values = jax.vmap(statistic)(*task.sample(key, (chunk,)))
        means = jax.tree.map(lambda leaf: leaf.mean(0), values)
        return means, jax.tree.map(lambda leaf: leaf.var(0), values)

    def pooled(means: Array, variances: Array) -> Estimate:
        total = len(keys) * chunk
        variance = (variances.mean(0) + means.var(0)) * total / (total - 1)
        return Estimate(means.mean(0), jnp.sqrt(variance / total))

    return jax.tree.map(pooled, *jax.lax.map(moments, keys))


def plus_minus(value: float | np.floating, error: float | np.floating) -> str:
    """`value ± error`, with the digits of the value that its standard error justifies.

    The error has one significant digit: `0.355 ± 0.004`, `2.75e-05 ± 1e-07`, `5440 ± 20`. At most
    nine significant digits of a value are given. A value that is not finite stands alone: `inf`.
    """
    value, error = float(value), float(error)
    if not math.isfinite(value):
        return f"{value:g}"
    if not (math.isfinite(error) and error > 0):
        return f"{value:.4g} ± {error:g}"
    place, size = _exponent(error), max(_exponent(value), _exponent(error))
    if size - place >= 9:
        return f"{value:.9g} ± {error:.0e}"
    if not -4 <= size < 7:
        return f"{value:.{max(0, _exponent(value) - place)}e} ± {error:.0e}"
    decimals = max(0, -place)
    value, error = round(value, -place) + 0.0, round(error, -place)  # never -0.0
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def _exponent(number: float) -> int:
    """The power of ten of the first digit, after rounding to that digit; below all others for 0."""
    return int(f"{number:.0e}".split("e")[1]) if number else -400
