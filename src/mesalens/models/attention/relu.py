"""ReLU attention."""

import jax
import jax.numpy as jnp

from mesalens.models.attention.base import AttentionKind, Scores, Seen


class ReLUAttention(AttentionKind):
    """ReLU attention, `a_ji = max(q_j · k_i / √K, 0) / n_j`, with n_j the number of seen rows.

    The weights are not negative and need not sum to 1.

    Source: Wortsman et al. (2023), arXiv 2309.08586 (divided by the sequence length); Bai et al.
    (2023), arXiv 2306.04637, whose transformers implement statistical algorithms with it.
    """

    def weights(self, scores: Scores, seen: Seen | None, key_size: int) -> Scores:
        positive = jax.nn.relu(scores / key_size**0.5)
        if seen is None:
            return positive / scores.shape[-1]
        return jnp.where(seen, positive, 0) / seen.sum(axis=-1, keepdims=True)
