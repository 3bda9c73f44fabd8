"""Keys from the context alone."""

from jaxtyping import Array, Float

from mesalens.models.visibility.base import Visibility


class ContextOnly(Visibility):
    """Every row sees the rows of the context, and no row sees the query's row.

    Source: von Oswald et al. (2023), Section 2.
    """

    def keys(self, rows: Float[Array, "rows D"]) -> Float[Array, "k D"]:
        return rows[:-1]
