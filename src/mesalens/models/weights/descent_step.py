"""One matrix a head: preconditioned steps of gradient descent, from a start that may be free."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.models.initial_weights import Scale, truncated_normal
from mesalens.models.weights.base import Effective, LinearWeights, Sizes


class DescentStep(LinearWeights):
    r"""A step of preconditioned gradient descent, from a W_0 that may be trained.

    `A = diag(Γ, 0)` and `B = [[0, 0], [W_0, -I]]`, so that one layer predicts

    $$\hat y = W_0 x_q + \sum_i (y_i - W_0 x_i) \, x_i^T \Gamma x_q.$$

    Γ includes the step size on the loss `1/2 Σ_i ‖W x_i - y_i‖²`.

    Attributes:
        preconditioner: Γ of each head, of shape (stored layers, H, d, d).
        W_0: The start, of shape (m, d), which is trained with Γ. None means that it is 0.
        outputs: m, the number of entries of a label.

    Source: Wu et al. (2024), arXiv 2310.08391, without W_0; Zhang, Wu and Bartlett (2024), arXiv
    2402.14951, with it: there "GD-β", with β = W_0.
    """

    preconditioner: Float[Array, "stored H d d"]
    W_0: Float[Array, "m d"] | None = None
    outputs: int = eqx.field(static=True, default=1)

    @classmethod
    def initialise(
        cls, sizes: Sizes, *, start: bool = False, scale: Scale, key: Key[Array, ""]
    ) -> "DescentStep":
        """Truncated normals of fan-in d.

        Args:
            sizes: Stored layers, heads, d and m.
            start: Whether W_0 is trained, from the value 0, or absent.
            scale: The variance of a weight times its fan-in.
            key: A random key.
        """
        d, m = sizes.dim, sizes.outputs
        shape = (sizes.stored, sizes.heads, d, d)
        W_0 = jnp.zeros((m, d)) if start else None
        return cls(truncated_normal(key, shape, d, scale), W_0, m)

    def effective(self) -> Effective:
        *stack, d, _ = self.preconditioner.shape
        m, dtype = self.outputs, self.preconditioner.dtype
        A = jnp.pad(self.preconditioner, [(0, 0)] * 2 + [(0, m)] * 2)
        W_0 = jnp.zeros((m, d), dtype) if self.W_0 is None else self.W_0
        rows = jnp.concatenate([W_0, -jnp.eye(m, dtype=dtype)], axis=1)
        return A, jnp.broadcast_to(jnp.pad(rows, ((d, 0), (0, 0))), (*stack, d + m, d + m))

    def start(self) -> Float[Array, "m d"] | None:
        return self.W_0
