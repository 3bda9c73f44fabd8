"""Laplace covariates: symmetric, with heavier tails than a Gaussian."""

import jax
from jaxtyping import Array, Float, Key

from mesalens.tasks.covariates.base import IndependentCovariates


class Laplace(IndependentCovariates):
    """Laplace covariates: x_i ~ Laplace(0, scale), independent.

    The density is `exp(-|x|/scale) / (2 scale)`; `c2 = 2 scale²`, `c3 = 0`, `c4 = 24 scale⁴`.

    Attributes:
        dim: d, the number of entries of x.
        scale: The mean absolute value of an entry.
    """

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> Float[Array, "*shape d"]:
        return self.scale * jax.random.laplace(key, (*shape, self.dim))

    def central_moments(self) -> tuple[float, float, float, float]:
        return 0.0, 2 * self.scale**2, 0.0, 24 * self.scale**4
