"""Expectations over the prompts of a task, estimated by simulation with a standard error."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from mesalens.checks import count
from mesalens.prompt import Prompt
from mesalens.random import unroll
from mesalens.tasks import Task


class Estimate(eqx.Module):
    """A mean over independent draws with its standard error."""

    value: float | Float[np.ndarray | Array, "..."]
    standard_error: float | Float[np.ndarray | Array, "..."]


class _Moments(NamedTuple):
    mean: Array
    variance: Array


def expectation(
    statistic: Callable[[Prompt, Float[Array, " m"]], PyTree[Float[Array, "..."]]],
    task: Task,
    key: Key[Array, ""],
    *,
    prompts: int = 10_000,
    chunk: int = 2048,
) -> PyTree[Estimate]:
    """`E[statistic(prompt, target)]` for every leaf of what the statistic returns, from independent prompts.

    The prompts are drawn in chunks, so that memory does not grow with their number, which is rounded up to whole chunks.
    Raises `ValueError` where `prompts` is below 2.
    """
    count("prompts", prompts, at_least=2)
    chunk = min(chunk, prompts)
    keys = jax.random.split(unroll(key), -(-prompts // chunk))

    def moments(key):
        values = jax.vmap(statistic)(*task.sample(key, (chunk,)))
        return jax.tree.map(lambda v: _Moments(v.mean(0), v.var(0)), values)

    def pooled(of_chunks: _Moments) -> Estimate:
        means, variances = of_chunks
        total = len(keys) * chunk
        variance = (variances.mean(0) + means.var(0)) * total / (total - 1)
        return Estimate(means.mean(0), jnp.sqrt(variance / total))

    return jax.tree.map(pooled, jax.lax.map(moments, keys), is_leaf=lambda node: isinstance(node, _Moments))
