"""Separate keys and queries of low rank that read covariates alone."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.checks import count
from mesalens.models.initial_weights import Scale, truncated_normal
from mesalens.models.weights.base import Effective, LinearWeights, Sizes
from mesalens.models.weights.sparse import Sparse


class LowRank(LinearWeights):
    """`A = diag(W_K^T W_Q, 0)` and `B = diag(0, B_yy)`: [`Sparse`][mesalens.models.Sparse] of low
    rank.

    A layer is a step of gradient descent from zero whose preconditioner has at most rank H R.

    Attributes:
        W_Q: Queries that read covariates, of shape (stored layers, H, R, d).
        W_K: Keys that read covariates, of shape (stored layers, H, R, d).
        B_yy: Output for labels, of shape (stored layers, H, m, m).

    Source: Zhang, Singh, Latham and Saxe (2025), arXiv 2501.16265, whose layers with separate keys
    and queries keep this form from their initial weights.
    """

    W_Q: Float[Array, "stored H R d"]
    W_K: Float[Array, "stored H R d"]
    B_yy: Float[Array, "stored H m m"]

    @classmethod
    def initialise(
        cls, sizes: Sizes, *, rank: int = 1, scale: Scale, key: Key[Array, ""]
    ) -> "LowRank":
        """Truncated normals of fan-in d or m.

        Args:
            sizes: Stored layers, heads, d and m.
            rank: R, from 1 to d.
            scale: The variance of a weight times its fan-in.
            key: A random key.
        """
        *stack, d, m = sizes
        shape = (*stack, count("rank", rank, at_most=d), d)
        read, write, meet = jax.random.split(key, 3)
        W_Q, W_K = (truncated_normal(each, shape, d, scale) for each in (read, meet))
        return cls(W_Q, W_K, truncated_normal(write, (*stack, m, m), m, scale))

    def effective(self) -> Effective:
        return Sparse(jnp.swapaxes(self.W_K, -1, -2) @ self.W_Q, self.B_yy).effective()
