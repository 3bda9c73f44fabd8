"""Covariates of a uniform direction and a gamma-distributed squared length."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from mesalens.checks import positive
from mesalens.random import chi_squared
from mesalens.tasks.covariates.base import Covariates
from mesalens.tasks.covariates.sphere import Sphere


class GammaDirections(Covariates):
    r"""x = u √g with u uniform on the unit sphere and g ~ Gamma(k, d scale²/k), where k = `shape`.

    $$E[x x^T] = \text{scale}^2 I, \qquad E[(x^T G x) x x^T] =
    \text{scale}^4 \frac{d}{d + 2} \left(1 + \frac{1}{k}\right) (\operatorname{tr}(G) I + 2 G)$$

    Tails are heavier for smaller k. k = d/2 is N(0, scale² I), and k → ∞ is
    [`Sphere`][mesalens.tasks.Sphere]. For g ~ Gamma(k, θ) set `scale = √(k θ/d)`.

    Attributes:
        dim: d, the number of entries of x.
        scale: The standard deviation of an entry.
        shape: k, positive.

    Raises:
        ValueError: If `shape` is not positive.

    Source: Ahn et al. (2024), arXiv 2310.01082, where k = 0.1, θ = 10 and d = 5.
    """

    shape: float = eqx.field(static=True, default=0.1, kw_only=True)

    rotation_invariant = True

    def __check_init__(self):
        positive("shape", self.shape)

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> Float[Array, "*shape d"]:
        direction_key, length_key = jax.random.split(key)
        on_sphere = Sphere(self.dim, self.scale).sample(direction_key, shape)
        # Gamma(k, 1/k) is χ²(2k) / 2k
        squares = chi_squared(length_key, 2 * self.shape, shape) / (2 * self.shape)
        return jnp.sqrt(squares)[..., None] * on_sphere

    def second_moment(self) -> Float[np.ndarray, "d d"]:
        return self.scale**2 * np.eye(self.dim)

    def fourth_moment(self, weight: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
        return (1 + 1 / self.shape) * Sphere(self.dim, self.scale).fourth_moment(weight)
