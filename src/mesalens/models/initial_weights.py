"""Weights before training."""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Part = TypeVar("Part", eqx.nn.Linear, eqx.nn.MLP)

CUT_NORMAL = 0.87962566103423978
"""The standard deviation of a standard normal that is cut at ±2."""


def truncated_normal(
    key: Key[Array, ""], shape: tuple[int, ...], fan_in: int, scale: float | Float[Array, ""]
) -> Float[Array, "*shape"]:
    """Normals cut at two standard deviations, of variance `scale / fan_in`.

    Source: the released code of von Oswald et al. (2023).
    """
    return jnp.sqrt(scale / fan_in) / CUT_NORMAL * jax.nn.initializers.truncated_normal(1.0)(key, shape)


def with_truncated_normals(part: Part, scale: float | Float[Array, ""], *, key: Key[Array, ""]) -> Part:
    """The `eqx.nn.Linear` or `eqx.nn.MLP` with weights drawn so, of fan-in the number of their inputs, and biases 0."""

    def linears(part):
        leaves = jax.tree.leaves(part, is_leaf=lambda node: isinstance(node, eqx.nn.Linear))
        return [leaf for leaf in leaves if isinstance(leaf, eqx.nn.Linear)]

    found = linears(part)
    weights = [
        truncated_normal(k, linear.weight.shape, linear.weight.shape[1], scale)
        for k, linear in zip(jax.random.split(key, len(found)), found, strict=True)
    ]
    biases = [jnp.zeros_like(linear.bias) for linear in found if linear.bias is not None]
    return eqx.tree_at(
        lambda p: (
            [linear.weight for linear in linears(p)] + [linear.bias for linear in linears(p) if linear.bias is not None]
        ),
        part,
        weights + biases,
    )
