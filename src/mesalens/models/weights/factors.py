"""Separate factors: queries, keys, values and projection."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.checks import count
from mesalens.models.initial_weights import truncated_normal
from mesalens.models.weights.base import Effective, LinearWeights, Sizes


class Factors(LinearWeights):
    """`A = W_K^T W_Q` and `B = P W_V`, all four factors free: the weights of a transformer.

    A and B have at most rank K, the key size.

    Source: von Oswald et al. (2023), Section 2.
    """

    W_Q: Float[Array, "stored H K D"]
    W_K: Float[Array, "stored H K D"]
    W_V: Float[Array, "stored H K D"]
    P: Float[Array, "stored H D K"]

    @classmethod
    def initialise(
        cls,
        sizes: Sizes,
        *,
        key_size: int | None = None,
        scale: float | Float[Array, ""],
        key: Key[Array, ""],
    ) -> "Factors":
        """Truncated normals; K = `key_size`, the width D by default."""
        width, heads = sizes.dim + sizes.outputs, sizes.heads
        key_size = width if key_size is None else count("key_size", key_size)
        keys = jax.random.split(key, 4)
        shape = (sizes.stored, heads, key_size, width)
        projection = (sizes.stored, heads, width, key_size)
        W_Q, W_K, W_V = (truncated_normal(k, shape, width, scale) for k in keys[:3])
        P = truncated_normal(keys[3], projection, heads * key_size, scale)
        return cls(W_Q, W_K, W_V, P)

    def effective(self) -> Effective:
        return jnp.swapaxes(self.W_K, -1, -2) @ self.W_Q, self.P @ self.W_V
