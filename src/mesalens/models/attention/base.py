"""`AttentionKind`: how a row weights the rows that it sees."""

import abc

import equinox as eqx
from jaxtyping import Array, Bool, Float

Scores = Float[Array, "q k"]
Seen = Bool[Array, "q k"]


class AttentionKind(eqx.Module):
    """The weights `a_ji` of one head: a function of scores `s_ji` of query j and key i.

    Scores are the inner products `q_j · k_i`. A kind whose scores are something else overrides
    `scores`; queries and keys are then formed, which costs more.
    """

    @abc.abstractmethod
    def weights(self, scores: Scores, seen: Seen | None, key_size: int) -> Scores:
        """The weights a_ji, 0 where row j does not see row i.

        Args:
            scores: s_ji, queries × keys.
            seen: Whether row j sees row i; None if every row sees every key.
            key_size: K, the number of entries of a query and a key.
        """

    def scores(self, queries: Float[Array, "q K"], keys: Float[Array, "k K"]) -> Scores:
        """s_ji for the queries and keys of one head."""
        return queries @ keys.T
