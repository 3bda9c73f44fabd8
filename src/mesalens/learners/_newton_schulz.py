"""Newton's iteration for the inverse of the context's Gram matrix."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens.checks import count, positive
from mesalens.learners.base import IterativeLearner, take_steps
from mesalens.prompt import AnyPrompt


class NewtonSchulz(IterativeLearner):
    r"""k steps of Newton's iteration for the inverse of `G = X^T X`: `ŷ = Y^T X M_k x_query`.

    $$M_{k+1} = 2 M_k - M_k G M_k, \qquad M_0 = \frac{a \, G}{\lambda_{\max}(G)^2}$$

    On an eigenvalue λ of G where M_k is μ_k, `1 - λ μ_{k+1} = (1 - λ μ_k)²`, hence
    `1 - λ μ_k = (1 - a λ² / λ_max²)^(2^k)`: every step squares the error. M_k converges to the
    pseudo-inverse of G, and the prediction to minimum-norm least squares. The error is small after
    about `2 log2(λ_max / λ_min)` steps. The prediction before the first step is that of M_0.

    Attributes:
        steps: Number of steps k.
        scale: a, in (0, 2).

    Raises:
        ValueError: If the scale is not in (0, 2), where the iteration converges.

    Source: Schulz (1933); as an in-context learner, Fu, Chen, Jia and Sharan (2023),
    arXiv 2310.17086.
    """

    sees_only_sum = True

    steps: int = eqx.field(static=True)
    scale: float | Float[Array, ""] = 1.0

    def __check_init__(self):
        count("steps", self.steps)
        positive("scale", self.scale)
        positive("2 - scale", 2 - self.scale)

    def iterates(self, prompt: AnyPrompt) -> Float[Array, "iterates m"]:
        X, Y = prompt.rows
        gram = X.T @ X
        largest = jnp.linalg.eigvalsh(gram)[-1]
        start = self.scale * gram / jnp.where(largest > 0, largest, 1) ** 2
        sums = Y.T @ X

        def step(inverse, _):
            inverse = 2 * inverse - inverse @ gram @ inverse
            return inverse, sums @ (inverse @ prompt.query)

        _, predictions = take_steps(step, start, None, self.steps)
        return jnp.concatenate([(sums @ (start @ prompt.query))[None], predictions])

    def spectral_filter(self, eigenvalues: np.ndarray, context_length: int) -> np.ndarray:
        largest = eigenvalues[..., -1:]
        inverse = float(self.scale) * eigenvalues / np.where(largest > 0, largest, 1) ** 2
        for _ in range(self.steps):
            inverse = 2 * inverse - inverse**2 * eigenvalues
        return inverse
