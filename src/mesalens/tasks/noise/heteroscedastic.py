"""Gaussian noise whose variance depends on the input."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens.checks import variance
from mesalens.tasks.noise.gaussian import GaussianNoise


class HeteroscedasticNoise(GaussianNoise):
    """Gaussian noise whose variance depends on the input: σ²(x) = variance (1 + growth ‖x‖² / d).

    Attributes:
        variance: The variance at x = 0.
        growth: How fast the variance grows with the mean square of the entries of x.

    Raises:
        ValueError: If `variance` or `growth` is neither 0 nor from 1e-16 to 1e16.
    """

    variance: float | Float[Array, ""] = 1.0
    growth: float | Float[Array, ""] = 1.0

    homoscedastic = False

    def __check_init__(self):
        variance("growth", self.growth)

    def variance_at(self, xs: Float[Array, "*shape n d"]) -> Float[Array, "*shape n 1"]:
        return self.variance * (1 + self.growth * jnp.mean(xs**2, axis=-1, keepdims=True))

    def conditional_variance(self, dim: int) -> tuple[Any, Float[np.ndarray, "d d"]]:
        return self.variance, float(self.variance * self.growth) / dim * np.eye(dim)
