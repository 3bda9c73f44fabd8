"""Label noise."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.checks import non_negative


class GaussianNoise(eqx.Module):
    """Every label, the query's too, gets an independent N(0, variance) added. Variance 0 draws nothing."""

    variance: float | Float[Array, ""] = 0.0

    def __check_init__(self):
        non_negative("the noise variance", self.variance)

    def __call__(self, key: Key[Array, ""], labels: Float[Array, "*shape n m"]) -> Float[Array, "*shape n m"]:
        """The labels with noise."""
        if isinstance(self.variance, float | int) and self.variance == 0:
            return labels
        return labels + jnp.sqrt(self.variance) * jax.random.normal(key, labels.shape)
