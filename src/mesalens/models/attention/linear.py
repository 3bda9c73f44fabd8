"""Linear attention."""

import jax.numpy as jnp

from mesalens.models.attention.base import AttentionKind, Scores, Seen


class LinearAttention(AttentionKind):
    """Linear attention, `a_ji = q_j · k_i`: the weights need not sum to 1.

    Source: von Oswald et al. (2023), Section 2.
    """

    def weights(self, scores: Scores, seen: Seen | None, key_size: int) -> Scores:
        return scores if seen is None else jnp.where(seen, scores, 0)
