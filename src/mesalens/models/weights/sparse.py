"""Weights restricted to blocks."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.models.initial_weights import Scale, truncated_normal
from mesalens.models.weights.base import Effective, LinearWeights, Sizes


class Sparse(LinearWeights):
    """`A = diag(A_xx, 0)` and `B = diag(B_xx, B_yy)`, the blocks free; B_xx is 0 if it is None.

    With `B_xx = 0` a layer is a step of gradient descent with the preconditioner A_xx, from zero;
    with it the layer transforms the covariates on the way, as GD++ does.

    Source: Ahn et al. (2023), arXiv 2306.00297, who have both forms. There B_yy is 1, for one
    output; here the scale that A and B share is free.
    """

    A_xx: Float[Array, "stored H d d"]
    B_yy: Float[Array, "stored H m m"]
    B_xx: Float[Array, "stored H d d"] | None = None

    @classmethod
    def initialise(
        cls, sizes: Sizes, *, covariates: bool = False, scale: Scale, key: Key[Array, ""]
    ) -> "Sparse":
        """Truncated normals of fan-in d or m; `covariates` says whether B_xx is free or 0."""
        *stack, d, m = sizes

        def block(key: Key[Array, ""], size: int) -> Array:
            return truncated_normal(key, (*stack, size, size), size, scale)

        read, write, transform = jax.random.split(key, 3)
        return cls(block(read, d), block(write, m), block(transform, d) if covariates else None)

    def effective(self) -> Effective:
        d, m = self.A_xx.shape[-1], self.B_yy.shape[-1]
        A = jnp.pad(self.A_xx, ((0, 0), (0, 0), (0, m), (0, m)))
        B = jnp.pad(self.B_yy, ((0, 0), (0, 0), (d, 0), (d, 0)))
        return A, B if self.B_xx is None else B.at[..., :d, :d].set(self.B_xx)
