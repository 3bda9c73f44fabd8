"""Linear self-attention followed by a linear MLP."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.models.initial_weights import Scale, draw_factors, truncated_normal
from mesalens.models.weights.base import Effective, LinearWeights, Sizes
from mesalens.models.weights.factors import Factors


class LinearBlock(LinearWeights):
    r"""One layer of attention with separate factors, followed by a linear MLP, `e <- W_2^T W_1 e`.

    With `M = W_2^T W_1` and the query token (x_q, 0) the prediction is

    $$\hat y = -M_{yx} x_q - [M B S A e_q]_y.$$

    This is a layer without MLP that has `M B` in place of B and starts from `W_0 = -M_yx`, of which
    A reads nothing. Hence the MLP adds a linear function of the query.

    Attributes:
        attention: The factors of the attention.
        W_1: First matrix of the MLP, of shape (h, D).
        W_2: Second matrix of the MLP, of shape (h, D).
        outputs: m, the number of entries of a label.

    Source: Zhang, Wu and Bartlett (2024), arXiv 2402.14951: "linear transformer block".
    """

    one_layer: ClassVar[bool] = True

    attention: Factors
    W_1: Float[Array, "h D"]
    W_2: Float[Array, "h D"]
    outputs: int = eqx.field(static=True, default=1)

    @classmethod
    def initialise(
        cls,
        sizes: Sizes,
        *,
        key_size: int | None = None,
        hidden: int | None = None,
        scale: Scale,
        key: Key[Array, ""],
    ) -> "LinearBlock":
        """Truncated normals.

        Args:
            sizes: Stored layers, heads, d and m.
            key_size: K. By default the width D.
            hidden: h, the width of the MLP. By default D.
            scale: The variance of a weight times its fan-in.
            key: A random key.
        """
        width, keys = sizes.dim + sizes.outputs, jax.random.split(key, 3)
        h = width if hidden is None else hidden
        factors = Factors(
            *draw_factors(keys[0], (sizes.stored, sizes.heads), width, key_size, scale)
        )
        first = truncated_normal(keys[1], (h, width), width, scale)
        return cls(factors, first, truncated_normal(keys[2], (h, width), h, scale), sizes.outputs)

    def effective(self) -> Effective:
        A, B = self.attention.effective()
        d = A.shape[-1] - self.outputs
        return A * (jnp.arange(A.shape[-1]) < d), self.W_2.T @ self.W_1 @ B

    def start(self) -> Float[Array, "m d"]:
        d = self.W_1.shape[-1] - self.outputs
        return -(self.W_2.T @ self.W_1)[d:, :d]
