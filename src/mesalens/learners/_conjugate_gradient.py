"""Conjugate gradients on the normal equations of the context."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import count
from mesalens.learners.base import IterativeLearner, take_steps
from mesalens.prompt import AnyPrompt


class ConjugateGradient(IterativeLearner):
    r"""k steps of conjugate gradients on `X^T X w = X^T y`, for each output: `ŷ = W_k x_query`.

    $$w \leftarrow w + \alpha p, \qquad s \leftarrow s - \alpha X^T X p, \qquad
    p \leftarrow s + \beta p$$

    $$\alpha = \frac{\|s\|^2}{\|X p\|^2}, \qquad \beta = \frac{\|s_\text{new}\|^2}{\|s\|^2}$$

    from w = 0 and s = p = `X^T y`, where s is computed as `X^T (y - X w)`. After k steps w
    minimises `‖X w - y‖²` over the span of `X^T y, G X^T y, …, G^{k-1} X^T y` with `G = X^T X`.
    Hence no k steps along gradients, of any step sizes and momentum, reach a lower loss. After as
    many steps as G has distinct positive eigenvalues, at most min(n, d), w is the minimum-norm
    least-squares solution. An output stops changing once ‖s‖ has fallen to rounding error.

    Attributes:
        steps: Number of steps k.

    Raises:
        ValueError: If `steps` is below 1.

    Source: Hestenes and Stiefel (1952), Section 10, in the form for least squares.
    """

    sees_only_sum = True

    steps: int = eqx.field(static=True)

    def __check_init__(self):
        count("steps", self.steps)

    def iterates(self, prompt: AnyPrompt) -> Float[Array, "iterates m"]:
        X, Y = prompt.rows
        start = Y.T @ X
        first = jnp.sum(start**2, axis=1)
        rounding = jnp.finfo(start.dtype).eps ** 2 * first

        def step(state, _):
            weights, residuals, direction, size = state
            moved = direction @ X.T
            curvature = jnp.sum(moved**2, axis=1)
            active = (size > rounding) & (curvature > 0)
            # Divisors are replaced before the division: where() alone would leave NaN gradients
            rate = jnp.where(active, size, 0) / jnp.where(active, curvature, 1)
            weights = weights + rate[:, None] * direction
            residuals = residuals - rate[:, None] * moved
            slope = residuals @ X
            new_size = jnp.sum(slope**2, axis=1)
            beta = jnp.where(active, new_size, 0) / jnp.where(active, size, 1)
            direction = slope + beta[:, None] * direction
            return (weights, residuals, direction, new_size), weights @ prompt.query

        zero = jnp.zeros_like(start)
        _, predictions = take_steps(step, (zero, Y.T, start, first), None, self.steps)
        return jnp.concatenate([(zero @ prompt.query)[None], predictions])
