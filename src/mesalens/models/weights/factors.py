"""Separate factors: queries, keys, values and projection."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.models.initial_weights import Scale, draw_factors
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
        cls, sizes: Sizes, *, key_size: int | None = None, scale: Scale, key: Key[Array, ""]
    ) -> "Factors":
        """Truncated normals; K = `key_size`, the width D by default."""
        width = sizes.dim + sizes.outputs
        return cls(*draw_factors(key, (sizes.stored, sizes.heads), width, key_size, scale))

    def effective(self) -> Effective:
        return jnp.swapaxes(self.W_K, -1, -2) @ self.W_Q, self.P @ self.W_V
