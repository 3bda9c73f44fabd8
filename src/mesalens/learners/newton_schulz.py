"""Newton's iteration for the inverse of the context's Gram matrix."""

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import InputError, count, positive
from mesalens.learners.base import IterativeLearner, take_steps
from mesalens.prompt import Prompt


class NewtonSchulz(IterativeLearner):
    """k steps of Newton's iteration for the inverse of `G = X^T X`, then `ŷ = Y^T X M_k x_query`.

        M_{k+1} = 2 M_k - M_k G M_k,      M_0 = a G / λ_max(G)²

    `scale` is a, in (0, 2). On an eigenvalue λ of G what is left is `1 - λ μ_{k+1} = (1 - λ μ_k)²`, so
    `1 - λ μ_k = (1 - a λ² / λ_max²)^(2^k)`: the error is squared at every step, and M_k goes to the pseudo-inverse of G, the prediction to
    least squares of least norm. About `2 log2(λ_max / λ_min)` steps pass before it is small. The prediction before the first
    step is that of M_0.

    Raises `ValueError` where the scale is not in (0, 2).

    Source: Schulz (1933); as an in-context learner, Fu, Chen, Jia and Sharan (2023), arXiv 2310.17086.
    """

    steps: int = eqx.field(static=True)
    scale: float | Float[Array, ""] = 1.0

    def __check_init__(self):
        count("steps", self.steps)
        positive("scale", self.scale)
        if not isinstance(self.scale, jax.core.Tracer) and self.scale >= 2:
            raise InputError(f"scale is {self.scale}; Newton's iteration converges for a scale in (0, 2).")

    def iterates(self, prompt: Prompt) -> Float[Array, "iterates m"]:
        gram = prompt.xs.T @ prompt.xs
        largest = jnp.linalg.eigvalsh(gram)[-1]
        start = self.scale * gram / jnp.where(largest > 0, largest, 1) ** 2
        sums = prompt.ys.T @ prompt.xs

        def step(inverse, _):
            inverse = 2 * inverse - inverse @ gram @ inverse
            return inverse, sums @ (inverse @ prompt.query)

        _, predictions = take_steps(step, start, None, self.steps)
        return jnp.concatenate([(sums @ (start @ prompt.query))[None], predictions])
