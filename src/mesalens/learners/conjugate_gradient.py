"""Conjugate gradients on the normal equations of the context."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import count
from mesalens.learners.base import IterativeLearner, take_steps
from mesalens.prompt import Prompt


class ConjugateGradient(IterativeLearner):
    """k steps of conjugate gradients on `X^T X w = X^T y`, from zero, for each output; then `ŷ = W_k x_query`.

        w <- w + α p,    s <- s - α X^T X p,    p <- s + β p,      α = ‖s‖² / ‖X p‖²,    β = ‖s_new‖² / ‖s‖²

    with s and p starting at `X^T y`; s is computed as `X^T (y - X w)`. After k steps w is the minimiser of `‖X w - y‖²` in the span of
    `X^T y, G X^T y, …, G^{k-1} X^T y` with `G = X^T X`: no k steps along gradients, of whatever sizes and momentum, have less of that
    loss. It is least squares of least norm after as many steps as `X^T X` has different eigenvalues above 0, at most min(n, d).
    An output is left as it is once ‖s‖ has fallen to rounding.

    Source: Hestenes and Stiefel (1952), Section 10, in the form for least squares.
    """

    steps: int = eqx.field(static=True)

    def __check_init__(self):
        count("steps", self.steps)

    def iterates(self, prompt: Prompt) -> Float[Array, "iterates m"]:
        start = prompt.ys.T @ prompt.xs
        first = jnp.sum(start**2, axis=1)
        rounding = jnp.finfo(start.dtype).eps ** 2 * first

        def step(state, _):
            weights, residuals, direction, size = state
            moved = direction @ prompt.xs.T
            curvature = jnp.sum(moved**2, axis=1)
            going = (size > rounding) & (curvature > 0)
            # Divisors are replaced before dividing, so that gradients are finite too
            rate = jnp.where(going, size, 0) / jnp.where(going, curvature, 1)
            weights = weights + rate[:, None] * direction
            residuals = residuals - rate[:, None] * moved
            slope = residuals @ prompt.xs
            left = jnp.sum(slope**2, axis=1)
            kept = jnp.where(going, left, 0) / jnp.where(going, size, 1)
            return (weights, residuals, slope + kept[:, None] * direction, left), weights @ prompt.query

        zero = jnp.zeros_like(start)
        _, predictions = take_steps(step, (zero, prompt.ys.T, start, first), None, self.steps)
        return jnp.concatenate([(zero @ prompt.query)[None], predictions])
