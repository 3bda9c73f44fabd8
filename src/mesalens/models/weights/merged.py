"""Merged key-query and value-projection matrices."""

import jax
from jaxtyping import Array, Float, Key

from mesalens.models.initial_weights import Scale, truncated_normal
from mesalens.models.weights.base import Effective, LinearWeights, Sizes


class Merged(LinearWeights):
    """The effective matrices A and B themselves, as W_KQ and W_PV in theory.

    Attributes:
        A: Of shape (stored layers, H, D, D).
        B: Of shape (stored layers, H, D, D).

    Source: Zhang, Frei and Bartlett (2024), arXiv 2306.09927.
    """

    A: Float[Array, "stored H D D"]
    B: Float[Array, "stored H D D"]

    @classmethod
    def initialise(cls, sizes: Sizes, *, scale: Scale, key: Key[Array, ""]) -> "Merged":
        """Truncated normals of fan-in D."""
        width = sizes.dim + sizes.outputs
        shape = (sizes.stored, sizes.heads, width, width)
        return cls(*(truncated_normal(k, shape, width, scale) for k in jax.random.split(key)))

    def effective(self) -> Effective:
        return self.A, self.B
