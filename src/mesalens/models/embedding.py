"""`Embedding`: what is done to tokens before the first layer."""

from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import InputError, one_of
from mesalens.models.positions import Positions
from mesalens.models.row_products import by_rows

Combination = Literal["add", "concatenate"]


class Embedding(eqx.Module):
    """What is done to token rows e before the first layer: `h = E e`, `h <- h + MLP(h)`, positions.

    Positional encodings are concatenated with the rows or added to them. Each of the three parts is
    optional; without any of them the rows do not change. The y-part of a row, from which the
    prediction is read, is the last m entries before those of a concatenated encoding.

    Attributes:
        projection: The linear map E, or None.
        mlp: The MLP, or None.
        positions: The positional encodings, or None.
        combination: `"concatenate"` (the default) or `"add"`.

    Raises:
        ValueError: If the combination is unknown; on a call, if encodings that are to be added do
            not have the width of the rows.

    Source: von Oswald et al. (2023), Section 4 (projection and MLP), Section 5 (encodings).
    """

    projection: eqx.nn.Linear | None = None
    mlp: eqx.nn.MLP | None = None
    positions: Positions | None = None
    combination: Combination = eqx.field(static=True, default="concatenate", kw_only=True)

    def __check_init__(self):
        one_of("combination", self.combination, get_args(Combination))

    def token_width(self, tokens: int) -> int:
        """The number of entries of a row without a concatenated encoding.

        Args:
            tokens: The number of entries of a token.
        """
        return tokens if self.projection is None else int(self.projection.out_features)

    def width(self, tokens: int) -> int:
        """The number of entries of a row.

        Args:
            tokens: The number of entries of a token.
        """
        width = self.token_width(tokens)
        if self.positions is None:
            return width
        size = self.positions.size
        if self.combination == "concatenate":
            return width + size
        if size != width:
            raise InputError(f"positions of size {size} cannot be added to rows of width {width}.")
        return width

    def __call__(self, rows: Float[Array, "rows D"]) -> Float[Array, "rows width"]:
        """The rows that the first layer reads.

        Args:
            rows: The tokens of one prompt, of shape (rows, D).
        """
        embedded = rows if self.projection is None else jax.vmap(by_rows(self.projection))(rows)
        if self.mlp is not None:
            if self.projection is None or rows.shape[1] >= embedded.shape[1]:
                embedded = embedded + jax.vmap(by_rows(self.mlp))(embedded)
            else:
                embedded = embedded + jax.vmap(by_rows(_after(self.projection, self.mlp)))(rows)
        if self.positions is None:
            return embedded
        self.width(rows.shape[1])  # raises where encodings cannot be added
        encodings = self.positions(len(rows)).astype(embedded.dtype)
        if self.combination == "concatenate":
            return jnp.concatenate([embedded, encodings], axis=1)
        return embedded + encodings


def _after(projection: eqx.nn.Linear, mlp: eqx.nn.MLP) -> eqx.nn.MLP:
    """MLP ∘ E with their adjacent matrices multiplied: half the work for narrow tokens."""
    first = mlp.layers[0]
    bias = first.bias if projection.bias is None else first(projection.bias)
    return eqx.tree_at(
        lambda m: (m.layers[0].weight, m.layers[0].bias),
        mlp,
        (first.weight @ projection.weight, bias),
        is_leaf=lambda leaf: leaf is None,
    )
