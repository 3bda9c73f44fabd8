"""`Visibility`: what a token sees."""

import abc

import equinox as eqx
from jaxtyping import Array, Bool, Float


class Visibility(eqx.Module):
    """Which rows of a prompt each row attends to. The query's row is the last."""

    @abc.abstractmethod
    def keys(self, rows: Float[Array, "rows D"]) -> Float[Array, "k D"]:
        """The rows that are keys, for any row."""

    def seen(self, rows: int) -> Bool[Array, "rows k"] | None:
        """Which of the keys each row sees; None, the default, if every row sees every key."""
        return None
