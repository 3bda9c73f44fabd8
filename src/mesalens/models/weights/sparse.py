"""Weights restricted to blocks."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.checks import count
from mesalens.models.initial_weights import Scale, truncated_normal
from mesalens.models.weights.base import Effective, LinearWeights, Sizes


class Sparse(LinearWeights):
    """Weights restricted to blocks: `A = diag(A_xx, 0)` and `B = diag(B_xx, B_yy)`.

    With `B_xx = 0` a layer is a step of gradient descent from zero with the preconditioner A_xx.
    With a B_xx the layer also transforms the covariates, as GD++ does.

    By default the scale that A and B share is free. To train at the scale of the papers, omit B_yy,
    which is then the identity, and set `examples` = n, so that `A = diag(A_xx, 0) / n`.

    Attributes:
        A_xx: Of shape (stored layers, H, d, d).
        B_yy: Of shape (stored layers, H, m, m). None means the identity.
        B_xx: Of shape (stored layers, H, d, d). None means 0.
        examples: A_xx is divided by this number.
        outputs: m, the number of entries of a label.

    Source: Ahn et al. (2023), arXiv 2306.00297, who have both forms, with B_yy = 1 for one output.

    Examples:
        >>> from mesalens import LinearTransformer, models, random
        >>> structure = models.Sparse.initialise
        >>> model = LinearTransformer.initialise(3, structure=structure, key=random.key(0))
        >>> model.weights.A_xx.shape
        (1, 1, 3, 3)
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
        """Truncated normals of fan-in d or m.

        Args:
            sizes: Stored layers, heads, d and m.
            covariates: Whether B_xx is trained, or 0.
            labels: Whether B_yy is trained, or the identity.
            examples: A_xx is divided by this number.
            scale: The variance of a weight times its fan-in.
            key: A random key.
        """
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
