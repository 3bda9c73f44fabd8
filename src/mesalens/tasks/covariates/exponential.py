"""Exponential covariates: one-sided, with a mean other than zero."""

import jax
from jaxtyping import Array, Float, Key

from mesalens.tasks.covariates.base import IndependentCovariates


class Exponential(IndependentCovariates):
    """Exponential covariates: x_i ~ Exp with mean `scale`, independent.

    `c2 = scale²`, `c3 = 2 scale³`, `c4 = 9 scale⁴`, and `E[x_i²] = 2 scale²`.

    Attributes:
        dim: d, the number of entries of x.
        scale: The mean of an entry.
    """

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> Float[Array, "*shape d"]:
        return self.scale * jax.random.exponential(key, (*shape, self.dim))

    def central_moments(self) -> tuple[float, float, float, float]:
        return self.scale, self.scale**2, 2 * self.scale**3, 9 * self.scale**4
