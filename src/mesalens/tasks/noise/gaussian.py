"""Gaussian noise."""

import jax
from jaxtyping import Array, Float

from mesalens.tasks.noise.base import KeyArray, ScaledNoise


class GaussianNoise(ScaledNoise):
    """Gaussian noise: ε ~ N(0, variance), independent for every label, that of the query included.

    Attributes:
        variance: The variance of the noise. 0 by default.
    """

    variance: float | Float[Array, ""] = 0.0

    gaussian = True

    def standard(self, key: KeyArray, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
        return jax.random.normal(key, shape)

    def fourth_cumulant(self) -> float:
        return 0.0
