"""Keys from all rows."""

from jaxtyping import Array, Float

from mesalens.models.visibility.base import Visibility


class AllRows(Visibility):
    """Every row sees all rows, the query's included, as in an encoder (Vaswani et al., 2017)."""

    def keys(self, rows: Float[Array, "rows D"]) -> Float[Array, "k D"]:
        return rows
