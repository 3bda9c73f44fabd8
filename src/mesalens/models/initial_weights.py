"""Weights before training."""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Part = TypeVar("Part", eqx.nn.Linear, eqx.nn.MLP)

TRUNCATED_DEVIATION = 0.87962566103423978
"""The standard deviation of a standard normal that is truncated at ±2."""


def truncated_normal(
    key: Key[Array, ""], shape: tuple[int, ...], fan_in: int, scale: float | Float[Array, ""]
) -> Float[Array, "*shape"]:
    """Normals truncated at two standard deviations, of variance `scale / fan_in`.

    Source: the released code of von Oswald et al. (2023).
    """
    draws = jax.nn.initializers.truncated_normal(1.0)(key, shape)
    return jnp.sqrt(scale / fan_in) / TRUNCATED_DEVIATION * draws


def with_truncated_normals(
    part: Part, scale: float | Float[Array, ""], *, key: Key[Array, ""]
) -> Part:
    """An `eqx.nn.Linear` or `eqx.nn.MLP` with `truncated_normal` weights and biases 0."""

    def linears(part):
        leaves = jax.tree.leaves(part, is_leaf=lambda node: isinstance(node, eqx.nn.Linear))
        return [leaf for leaf in leaves if isinstance(leaf, eqx.nn.Linear)]

    def arrays(part):
        found = linears(part)
        biases = [layer.bias for layer in found if layer.bias is not None]
        return [layer.weight for layer in found] + biases  # flat, as tree_at asks

    count = len(linears(part))
    weights, biases = arrays(part)[:count], arrays(part)[count:]
    drawn = [
        truncated_normal(k, weight.shape, weight.shape[1], scale)
        for k, weight in zip(jax.random.split(key, count), weights, strict=True)
    ]
    return eqx.tree_at(arrays, part, drawn + [jnp.zeros_like(bias) for bias in biases])
