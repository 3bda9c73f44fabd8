"""`Visibility`: what a token sees."""

import abc

import equinox as eqx
from jaxtyping import Array, Bool, Float


class Visibility(eqx.Module):
    """Which rows of a prompt each row attends to. The query's row is the last."""

    @abc.abstractmethod
    def keys(self, rows: Float[Array, "rows D"]) -> Float[Array, "k D"]:
        """The rows that serve as keys, of shape (k, D).

        Args:
            rows: All rows, of shape (rows, D).
        """

    def seen(self, rows: int) -> Bool[Array, "rows k"] | None:
        """Which of the keys each row sees, of shape (rows, k). None, the default, means all.

        Args:
            rows: The number of rows.
        """
        return None
