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
        cls,
        sizes: Sizes,
        *,
        key_size: int | None = None,
        aligned: bool = False,
        scale: Scale,
        key: Key[Array, ""],
    ) -> "Factors":
        """Truncated normals; K = `key_size`, the width D by default.

        With `aligned` the columns of W_K that read labels and those of W_V that read covariates are
        0. If the labels of a task have a symmetric law given the inputs, training on the risk of
        one layer leaves them 0: then A_yx = 0 and B_yx = 0, ŷ is odd in the labels, and the slopes
        of both blocks are means of `y_q - ŷ` times sums that are even in the labels.
        """
        width = sizes.dim + sizes.outputs
        stack = sizes.stored, sizes.heads
        W_Q, W_K, W_V, P = draw_factors(key, stack, width, key_size, scale)
        if aligned:
            W_K, W_V = W_K.at[..., sizes.dim :].set(0), W_V.at[..., : sizes.dim].set(0)
        return cls(W_Q, W_K, W_V, P)

    def effective(self) -> Effective:
        return jnp.swapaxes(self.W_K, -1, -2) @ self.W_Q, self.P @ self.W_V
