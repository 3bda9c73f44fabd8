"""Weights restricted to blocks."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.checks import count
from mesalens.models.initial_weights import Scale, truncated_normal
from mesalens.models.weights.base import Effective, LinearWeights, Sizes


class Sparse(LinearWeights):
    """`A = diag(A_xx, 0)` and `B = diag(B_xx, B_yy)`, the blocks free; B_xx is 0 if it is None.

    With `B_xx = 0` a layer is a step of gradient descent with the preconditioner A_xx, from zero;
    with it the layer transforms the covariates on the way, as GD++ does.

    By default the scale that A and B share is free. Without B_yy it is the identity, and with
    `examples` = n it is `A = diag(A_xx, 0) / n`: what is trained has the scale of the papers.

    Source: Ahn et al. (2023), arXiv 2306.00297, who have both forms, with B_yy = 1 for one output.
    """

    A_xx: Float[Array, "stored H d d"]
    B_yy: Float[Array, "stored H m m"] | None
    B_xx: Float[Array, "stored H d d"] | None = None
    examples: int = eqx.field(static=True, default=1)
    outputs: int = eqx.field(static=True, default=1)

    @classmethod
    def initialise(
        cls,
        sizes: Sizes,
        *,
        covariates: bool = False,
        labels: bool = True,
        examples: int = 1,
        scale: Scale,
        key: Key[Array, ""],
    ) -> "Sparse":
        """Truncated normals of fan-in d or m; B_xx is free or 0, B_yy free or the identity."""
        *stack, d, m = sizes

        def block(key: Key[Array, ""], size: int) -> Array:
            return truncated_normal(key, (*stack, size, size), size, scale)

        read, write, transform = jax.random.split(key, 3)
        return cls(
            block(read, d),
            block(write, m) if labels else None,
            block(transform, d) if covariates else None,
            count("examples", examples),
            m,
        )

    def effective(self) -> Effective:
        d, m = self.A_xx.shape[-1], self.outputs if self.B_yy is None else self.B_yy.shape[-1]
        A_xx = self.A_xx if self.examples == 1 else self.A_xx / self.examples
        A = jnp.pad(A_xx, ((0, 0), (0, 0), (0, m), (0, m)))
        ones = jnp.broadcast_to(jnp.eye(m, dtype=A.dtype), (*A.shape[:2], m, m))
        B_yy = ones if self.B_yy is None else self.B_yy
        B = jnp.pad(B_yy, ((0, 0), (0, 0), (d, 0), (d, 0)))
        return A, B if self.B_xx is None else B.at[..., :d, :d].set(self.B_xx)
