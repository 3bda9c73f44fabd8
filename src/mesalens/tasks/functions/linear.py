"""Linear functions with a Gaussian prior."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from mesalens.checks import as_matrix, covariance, matrix
from mesalens.tasks.covariates.gaussian import isotropic, square_root
from mesalens.tasks.functions.base import Functions


class LinearFunctions(Functions):
    """f(x) = W x,  W = scale (W̄ + U),  the m rows of U independent, each N(0, Λ).

    Λ = `covariance` is the identity where it is not given, and W̄ = `mean` is 0.

    Sign-symmetric where W̄ = 0; rotation-invariant where, besides, Λ is a multiple of the identity.

    Raises `ValueError` where Λ is not square of size d, symmetric and positive semi-definite, or W̄ is not m × d.
    """

    covariance: Float[np.ndarray, "d d"] | None = eqx.field(converter=as_matrix, default=None, kw_only=True)
    mean: Float[np.ndarray, "m d"] | None = eqx.field(converter=as_matrix, default=None, kw_only=True)

    def __post_init__(self):
        if self.mean is not None:
            self.mean = matrix("the mean of the weights", self.mean, (self.outputs, self.dim))
        if self.covariance is not None:
            self.covariance = covariance("the covariance of the weights", self.covariance, self.dim)

    def __call__(self, key: Key[Array, ""], xs: Float[Array, "*shape n d"]) -> Float[Array, "*shape n m"]:
        weights = self.sample(key, xs.shape[:-2])
        if self.outputs == 1:  # a sum that fuses with the drawing of xs, where a product of matrices would not
            return jnp.sum(xs * weights, axis=-1, keepdims=True)
        return jnp.einsum("...nd,...md->...nm", xs, weights)

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> Float[Array, "*shape m d"]:
        """Independent draws of W, float32."""
        weights = self.scale * jax.random.normal(key, (*shape, self.outputs, self.dim))
        if self.covariance is not None:
            weights = weights @ square_root(self.covariance)
        return weights if self.mean is None else weights + self.scale * jnp.asarray(self.mean, weights.dtype)

    def weight_mean(self) -> Float[np.ndarray, "m d"]:
        """E[W] = scale W̄, in float64."""
        return self.scale * (np.zeros((self.outputs, self.dim)) if self.mean is None else self.mean)

    def row_covariance(self) -> Float[np.ndarray, "d d"]:
        """scale² Λ, the covariance of each row of W, in float64."""
        return self.scale**2 * (np.eye(self.dim) if self.covariance is None else self.covariance)

    @property
    def sign_symmetric(self) -> bool:
        return self.mean is None or not np.any(self.mean)

    @property
    def rotation_invariant(self) -> bool:
        return self.sign_symmetric and isotropic(self.covariance)
