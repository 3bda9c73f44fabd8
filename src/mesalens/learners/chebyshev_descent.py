"""Gradient descent with the rates of Chebyshev's polynomials."""

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import InputError, count, positive
from mesalens.learners.base import IterativeLearner
from mesalens.learners.gradient_descent import GradientDescent
from mesalens.prompt import Prompt


class ChebyshevDescent(IterativeLearner):
    """k steps of Chebyshev's semi-iteration on the least-squares loss of the context, from zero, then `ŷ = W_k x_query`.

        W_{k+1} = W_k - η_k ∇L(W_k) + β_k (W_k - W_{k-1}),      L(W) = 1/(2n) Σ_i ‖W x_i - y_i‖²
        η_0 = 2 / (u + l),      η_k = 4 ρ_k / (u - l),      β_k = ρ_k ρ_{k-1},      ρ_k = T_k(σ) / T_{k+1}(σ),      σ = (u + l) / (u - l)

    with Chebyshev's polynomials T_k, `lower` l and `upper` u: bounds, 0 < l < u, of the eigenvalues λ of `X^T X / n`.
    What is left of the way to the solution after k steps is `p_k(λ) = T_k((u + l - 2λ) / (u - l)) / T_k(σ)`: among all polynomials of
    degree k with p(0) = 1 it has the least maximum on [l, u], `|p_k| <= 1 / T_k(σ) <= 2 ((√u - √l) / (√u + √l))^k`. No other steps
    along gradients do better on all of that interval; outside of it they may diverge.

    `descent` is the same algorithm as gradient descent with momentum.

    Raises `ValueError` where the bounds are not 0 < l < u.

    Source: Saad, Iterative Methods for Sparse Linear Systems (2003), Section 12.3.2.
    """

    steps: int = eqx.field(static=True)
    lower: float | Float[Array, ""]
    upper: float | Float[Array, ""]

    def __check_init__(self):
        count("steps", self.steps)
        positive("lower", self.lower)
        positive("upper", self.upper)
        if not isinstance(self.lower < self.upper, jax.core.Tracer) and not self.lower < self.upper:
            raise InputError(f"lower is {self.lower} and upper {self.upper}; give a lower bound below the upper one.")

    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        return self.descent()(prompt)

    def iterates(self, prompt: Prompt) -> Float[Array, "iterates m"]:
        return self.descent().iterates(prompt)

    def descent(self) -> GradientDescent:
        """Gradient descent with the step sizes η_k and the momentum β_k."""
        low, high = jnp.sqrt(self.lower), jnp.sqrt(self.upper)
        ratio = (high - low) / (high + low)
        powers = ratio ** (2 * jnp.arange(self.steps))
        rho = ratio * (1 + powers) / (1 + ratio**2 * powers)  # as T_k(σ) = (ratio^-k + ratio^k) / 2
        first = jnp.arange(self.steps) == 0
        step_sizes = jnp.where(first, 2 / (self.upper + self.lower), 4 * rho / (self.upper - self.lower))
        momentum = jnp.where(first, 0, rho * jnp.roll(rho, 1))
        return GradientDescent(step_sizes, self.steps, momentum=momentum)
