"""Uniform covariates, those of von Oswald et al. (2023)."""

import jax
from jaxtyping import Array, Float, Key

from mesalens.tasks.covariates.base import IndependentCovariates


class Uniform(IndependentCovariates):
    """Uniform covariates: x ~ U[-scale, scale]^d.

    Mean 0, `c2 = scale²/3`, `c3 = 0`, `c4 = scale⁴/5`.

    Attributes:
        dim: d, the number of entries of x.
        scale: The largest absolute value of an entry.

    Source: von Oswald et al. (2023), whose tasks have these inputs.
    """

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> Float[Array, "*shape d"]:
        return self.scale * jax.random.uniform(key, (*shape, self.dim), minval=-1.0, maxval=1.0)

    def central_moments(self) -> tuple[float, float, float, float]:
        return 0.0, self.scale**2 / 3, 0.0, self.scale**4 / 5
