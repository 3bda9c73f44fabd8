"""Laplace noise."""

import jax
from jaxtyping import Array, Float

from mesalens.tasks.noise.base import KeyArray, ScaledNoise


class LaplaceNoise(ScaledNoise):
    """Laplace noise of a given variance, independent for every label; κ4 = 3 variance².

    Attributes:
        variance: The variance of the noise.
    """

    def standard(self, key: KeyArray, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
        return 0.5**0.5 * jax.random.laplace(key, shape)

    def fourth_cumulant(self) -> float:
        return 3 * float(self.variance) ** 2
