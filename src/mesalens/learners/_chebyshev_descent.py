"""Gradient descent with the rates of Chebyshev's polynomials."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens.checks import count, positive
from mesalens.learners._gradient_descent import GradientDescent
from mesalens.learners.base import IterativeLearner
from mesalens.prompt import AnyPrompt


class ChebyshevDescent(IterativeLearner):
    r"""k steps of Chebyshev's semi-iteration for least squares, from zero: `ŷ = W_k x_query`.

    $$W_{k+1} = W_k - \eta_k \nabla L(W_k) + \beta_k (W_k - W_{k-1}), \qquad
    L(W) = \frac{1}{2n} \sum_i \|W x_i - y_i\|^2$$

    $$\eta_0 = \frac{2}{u + l}, \qquad \eta_k = \frac{4 \rho_k}{u - l}, \qquad
    \beta_k = \rho_k \rho_{k-1}, \qquad \rho_k = \frac{T_k(\sigma)}{T_{k+1}(\sigma)}, \qquad
    \sigma = \frac{u + l}{u - l}$$

    with Chebyshev's polynomials T_k. The bounds l and u, 0 < l < u, enclose the eigenvalues λ of
    `X^T X / n`. After k steps the error along λ is multiplied by

    $$p_k(\lambda) = \frac{T_k((u + l - 2 \lambda) / (u - l))}{T_k(\sigma)}, \qquad
    |p_k(\lambda)| \le \frac{1}{T_k(\sigma)}
    \le 2 \left(\frac{\sqrt u - \sqrt l}{\sqrt u + \sqrt l}\right)^k \text{ on } [l, u].$$

    Among all polynomials of degree k with p(0) = 1 it has the smallest maximum on [l, u]: no other
    k steps along gradients have a better guarantee on the whole interval. Outside the interval the
    iteration may diverge.

    Attributes:
        steps: Number of steps k.
        lower: Lower bound l of the eigenvalues.
        upper: Upper bound u of the eigenvalues.

    Raises:
        ValueError: Unless 0 < lower < upper.

    Source: Saad, Iterative Methods for Sparse Linear Systems (2003), Section 12.3.2.
    """

    sees_only_sum = True

    steps: int = eqx.field(static=True)
    lower: float | Float[Array, ""]
    upper: float | Float[Array, ""]

    def __check_init__(self):
        count("steps", self.steps)
        positive("lower", self.lower)
        positive("upper", self.upper)
        positive("upper - lower", self.upper - self.lower)

    def __call__(self, prompt: AnyPrompt) -> Float[Array, " m"]:
        return self.descent()(prompt)

    def iterates(self, prompt: AnyPrompt) -> Float[Array, "iterates m"]:
        return self.descent().iterates(prompt)

    def descent(self) -> GradientDescent:
        """The same algorithm as gradient descent with the step sizes η_k and the momentum β_k."""
        step_sizes, momentum = self._rates(jnp, self.lower, self.upper)
        return GradientDescent(step_sizes, self.steps, momentum=momentum)

    def spectral_filter(self, eigenvalues: np.ndarray, context_length: int) -> np.ndarray:
        weights = before = np.zeros_like(eigenvalues)
        rates = self._rates(np, float(self.lower), float(self.upper))
        for step_size, momentum in zip(*rates, strict=True):
            after = weights + step_size * (1 - eigenvalues * weights)
            weights, before = after + momentum * (weights - before), weights
        return weights

    def _rates(self, xp: Any, lower: Any, upper: Any) -> tuple[Any, Any]:
        """η_k and β_k, computed by JAX or NumPy."""
        low, high = xp.sqrt(lower), xp.sqrt(upper)
        ratio = (high - low) / (high + low)
        powers = ratio ** (2 * xp.arange(self.steps))
        # T_k(σ) = (ratio^-k + ratio^k) / 2, written without the powers that overflow
        rho = ratio * (1 + powers) / (1 + ratio**2 * powers)
        first = xp.arange(self.steps) == 0
        later = 4 * rho / (upper - lower)
        step_sizes = xp.where(first, 2 / (upper + lower), later)
        return step_sizes, xp.where(first, 0, rho * xp.roll(rho, 1))
