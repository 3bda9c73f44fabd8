"""Separate factors: queries, keys, values and projection."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.models.initial_weights import Scale, draw_factors
from mesalens.models.weights.base import Effective, LinearWeights, Sizes


class Factors(LinearWeights):
    """The four factors of a transformer's attention: `A = W_K^T W_Q` and `B = P W_V`.

    A and B have at most rank K, the key size.

    Attributes:
        W_Q: Queries, of shape (stored layers, H, K, D).
        W_K: Keys, of shape (stored layers, H, K, D).
        W_V: Values, of shape (stored layers, H, K, D).
        P: Output projection, of shape (stored layers, H, D, K).

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
        aligned: bool = False,
        scale: Scale,
        key: Key[Array, ""],
    ) -> "Factors":
        """Truncated normals.

        If the labels of a task have a symmetric law given the inputs, training on the risk of one
        layer leaves an `aligned` start aligned: then A_yx = 0 and B_yx = 0, ŷ is odd in the labels,
        and the gradients of both blocks are means of `y_q - ŷ` times sums that are even in the
        labels.

        Args:
            sizes: Stored layers, heads, d and m.
            key_size: K. By default the width D.
            aligned: Whether the columns of W_K that read labels and those of W_V that read
                covariates are 0.
            scale: The variance of a weight times its fan-in.
            key: A random key.
        """
        width = sizes.dim + sizes.outputs
        stack = sizes.stored, sizes.heads
        W_Q, W_K, W_V, P = draw_factors(key, stack, width, key_size, scale)
        if aligned:
            W_K, W_V = W_K.at[..., sizes.dim :].set(0), W_V.at[..., : sizes.dim].set(0)
        return cls(W_Q, W_K, W_V, P)

    def effective(self) -> Effective:
        return jnp.swapaxes(self.W_K, -1, -2) @ self.W_Q, self.P @ self.W_V
