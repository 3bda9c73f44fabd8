"""Covariates on a sphere."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from mesalens.tasks.covariates.base import Covariates


class Sphere(Covariates):
    r"""x uniform on the sphere of radius `scale √d`; for d = 1 on {-scale, scale}.

    $$E[x x^T] = \text{scale}^2 I, \qquad E[(x^T G x) x x^T] =
    \text{scale}^4 \frac{d}{d + 2} (\operatorname{tr}(G) I + 2 G)$$

    Attributes:
        dim: d, the number of entries of x.
        scale: The standard deviation of an entry.
    """

    rotation_invariant = True

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> Float[Array, "*shape d"]:
        z = jax.random.normal(key, (*shape, self.dim))  # JAX never draws a normal that is exactly 0
        return self.scale * self.dim**0.5 * z / jnp.linalg.norm(z, axis=-1, keepdims=True)

    def second_moment(self) -> Float[np.ndarray, "d d"]:
        return self.scale**2 * np.eye(self.dim)

    def fourth_moment(self, weight: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
        gaussian = np.trace(weight) * np.eye(self.dim) + 2 * weight
        return self.scale**4 * self.dim / (self.dim + 2) * gaussian
