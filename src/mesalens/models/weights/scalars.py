"""Four scalars a head."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from mesalens.models.initial_weights import Scale, truncated_normal
from mesalens.models.weights.base import Effective, LinearWeights, Sizes


class Scalars(LinearWeights):
    """Four numbers per head: `A = diag(a_x I_d, a_y I_m)` and `B = diag(b_x I_d, b_y I_m)`.

    Steps of gradient descent have `a_y = b_x = 0`. GD++ has `a_y = 0`, `a_x b_x = -γ/n` and
    `a_x b_y = -η/n`.

    Attributes:
        scalars: (a_x, a_y, b_x, b_y), of shape (stored layers, H, 4).
        dim: d, the number of entries of a covariate.
        outputs: m, the number of entries of a label.

    Source: Vladymyrov et al. (2024), arXiv 2402.14180, whose diagonal layers have this form.
    """

    scalars: Float[Array, "stored H 4"]
    dim: int = eqx.field(static=True)
    outputs: int = eqx.field(static=True)

    @classmethod
    def initialise(cls, sizes: Sizes, *, scale: Scale, key: Key[Array, ""]) -> "Scalars":
        """Truncated normals of fan-in 1."""
        scalars = truncated_normal(key, (sizes.stored, sizes.heads, 4), 1, scale)
        return cls(scalars, sizes.dim, sizes.outputs)

    def effective(self) -> Effective:
        block = np.repeat([0, 1], [self.dim, self.outputs])  # of each row: 0 for x, 1 for y
        a, b = self.scalars[..., block], self.scalars[..., 2 + block]
        eye = jnp.eye(self.dim + self.outputs, dtype=self.scalars.dtype)
        return a[..., None] * eye, b[..., None] * eye
