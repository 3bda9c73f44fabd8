"""Attention with a kernel given by a function."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.models.attention.base import AttentionKind, Scores, Seen


class KernelAttention(AttentionKind):
    """Attention with a kernel: `a_ji = k(q_j, k_i)`, if `normalised` divided by its sum over seen
    rows.

    Normalised weights of a non-negative kernel are those of the Nadaraya-Watson estimator. `exp(q ·
    k / √K)` gives softmax attention. If the kernel is 0 on all rows that are seen, normalised
    weights are 0.

    Attributes:
        kernel: A function of a query and a key, each of shape (K,), that returns a number.
        normalised: Whether the weights of a row sum to 1.

    Source: Tsai et al. (EMNLP 2019), arXiv 1908.11775.
    """

    kernel: Callable[..., Float[Array, ""]] = eqx.field(static=True)
    normalised: bool = eqx.field(static=True, default=True, kw_only=True)

    def scores(self, queries: Float[Array, "q K"], keys: Float[Array, "k K"]) -> Scores:
        return jax.vmap(jax.vmap(self.kernel, (None, 0)), (0, None))(queries, keys)

    def weights(self, scores: Scores, seen: Seen | None, key_size: int) -> Scores:
        visible = scores if seen is None else jnp.where(seen, scores, 0)
        if not self.normalised:
            return visible
        total = visible.sum(axis=-1, keepdims=True)
        # The divisor is replaced before dividing, so that gradients are finite too
        return jnp.where(total == 0, 0, visible / jnp.where(total == 0, 1, total))
