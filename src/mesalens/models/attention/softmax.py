"""Softmax attention."""

import jax
import jax.numpy as jnp

from mesalens.models.attention.base import AttentionKind, Scores, Seen


class SoftmaxAttention(AttentionKind):
    """Softmax attention, `a_ji = softmax_i(q_j · k_i / √K)`: the weights over seen rows sum to 1.

    Source: Vaswani et al. (2017), equation 1.
    """

    def weights(self, scores: Scores, seen: Seen | None, key_size: int) -> Scores:
        logits = scores / key_size**0.5
        return jax.nn.softmax(logits if seen is None else jnp.where(seen, logits, -jnp.inf))
