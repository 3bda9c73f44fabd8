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
    """k steps of Chebyshev's semi-iteration for least squares, from zero: `ŷ = W_k x_query`.

        W_{k+1} = W_k - η_k ∇L(W_k) + β_k (W_k - W_{k-1}),      L(W) = 1/(2n) Σ_i ‖W x_i - y_i‖²
        η_0 = 2 / (u + l),      η_k = 4 ρ_k / (u - l),      β_k = ρ_k ρ_{k-1}
        ρ_k = T_k(σ) / T_{k+1}(σ),      σ = (u + l) / (u - l)

    with Chebyshev's polynomials T_k. The bounds `lower` l and `upper` u, 0 < l < u, enclose the
    eigenvalues λ of `X^T X / n`. After k steps the error along λ is multiplied by
    `p_k(λ) = T_k((u + l - 2λ) / (u - l)) / T_k(σ)`. Among all polynomials of degree k with
    p(0) = 1 it has the smallest maximum on [l, u],
    `|p_k| <= 1 / T_k(σ) <= 2 ((√u - √l) / (√u + √l))^k`: no other k steps along gradients have a
    better guarantee on the whole interval. Outside the interval the iteration may diverge.

    `descent` returns the same algorithm as gradient descent with momentum.

    Raises:
        ValueError: unless 0 < lower < upper.

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
        """Gradient descent with the step sizes η_k and the momentum β_k."""
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
