"""Weights before training."""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.checks import count

Scale = float | Float[Array, ""]
"""The variance of a weight times its fan-in; JAX may be tracing it."""

Part = TypeVar("Part", eqx.nn.Linear, eqx.nn.MLP)

TRUNCATED_DEVIATION = 0.87962566103423978
"""The standard deviation of a standard normal that is truncated at ±2."""


def truncated_normal(
    key: Key[Array, ""], shape: tuple[int, ...], fan_in: int, scale: Scale
) -> Float[Array, "*shape"]:
    """Normals truncated at two standard deviations, of variance `scale / fan_in`.

    Source: the released code of von Oswald et al. (2023).
    """
    draws = jax.nn.initializers.truncated_normal(1.0)(key, shape)
    return jnp.sqrt(scale / fan_in) / TRUNCATED_DEVIATION * draws


def with_truncated_normals(part: Part, scale: Scale, *, key: Key[Array, ""]) -> Part:
    """An `eqx.nn.Linear` or `eqx.nn.MLP` with `truncated_normal` weights and biases 0."""
    arrays, rest = eqx.partition(part, eqx.is_array)
    keys = iter(jax.random.split(key, sum(array.ndim == 2 for array in jax.tree.leaves(arrays))))

    def before_training(array: Array) -> Array:
        if array.ndim == 1:
            return jnp.zeros_like(array)
        return truncated_normal(next(keys), array.shape, array.shape[1], scale)

    return eqx.combine(jax.tree.map(before_training, arrays), rest)


def draw_factors(
    key: Key[Array, ""], stack: tuple[int, ...], width: int, key_size: int | None, scale: Scale
) -> tuple[Array, Array, Array, Array]:
    """Truncated normals W_Q, W_K and W_V, each K × D with fan-in D, and P, D × K with fan-in H K.

    K = `key_size`, the width D by default; H heads are the last of the leading axes.
    """
    key_size = width if key_size is None else count("key_size", key_size)
    keys = jax.random.split(key, 4)
    shape = (*stack, key_size, width)
    W_Q, W_K, W_V = (truncated_normal(k, shape, width, scale) for k in keys[:3])
    P = truncated_normal(keys[3], (*stack, width, key_size), stack[-1] * key_size, scale)
    return W_Q, W_K, W_V, P
