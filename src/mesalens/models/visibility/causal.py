"""Causal attention."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mesalens.models.visibility.base import Visibility


class Causal(Visibility):
    """Every row sees the rows up to itself, as in a decoder (Vaswani et al., 2017)."""

    def keys(self, rows: Float[Array, "rows D"]) -> Float[Array, "k D"]:
        return rows

    def seen(self, rows: int) -> Bool[Array, "rows k"]:
        return jnp.tril(jnp.ones((rows, rows), bool))
