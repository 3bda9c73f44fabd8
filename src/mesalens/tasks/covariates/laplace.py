"""Laplace covariates: symmetric, with heavier tails than a Gaussian."""

import jax
from jaxtyping import Array, Float, Key

from mesalens.tasks.covariates.base import IndependentCovariates


class Laplace(IndependentCovariates):
    """x_i ~ Laplace(0, scale), density exp(-|x|/scale) / (2 scale), independent.

    c2 = 2 scale², c3 = 0, c4 = 24 scale⁴.
    """

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> Float[Array, "*shape d"]:
        return self.scale * jax.random.laplace(key, (*shape, self.dim))

    def central_moments(self) -> tuple[float, float, float, float]:
        return 0.0, 2 * self.scale**2, 0.0, 24 * self.scale**4
