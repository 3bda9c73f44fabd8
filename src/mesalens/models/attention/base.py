"""`AttentionKind`: how a row weights the rows that it sees."""

import abc

import equinox as eqx
from jaxtyping import Array, Bool, Float

Scores = Float[Array, "q k"]
Seen = Bool[Array, "q k"]


class AttentionKind(eqx.Module):
    """How attention weights a_ji follow from scores s_ji, for query j and key i.

    Scores are the inner products `q_j · k_i`. A kind with other scores overrides `scores`; queries
    and keys are then computed explicitly, which costs more.
    """

    @abc.abstractmethod
    def weights(self, scores: Scores, seen: Seen | None, key_size: int) -> Scores:
        """The weights a_ji of one head, of shape (q, k): 0 where row j does not see row i.

        Args:
            scores: s_ji, of shape (q, k).
            seen: Whether row j sees row i, of shape (q, k). None if every row sees every key.
            key_size: K, the number of entries of a query and a key.
        """

    def scores(self, queries: Float[Array, "q K"], keys: Float[Array, "k K"]) -> Scores:
        """The scores s_ji of one head, of shape (q, k).

        Args:
            queries: Of shape (q, K).
            keys: Of shape (k, K).
        """
        return queries @ keys.T
