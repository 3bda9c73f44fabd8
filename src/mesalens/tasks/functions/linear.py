"""Linear functions with a Gaussian prior."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens.checks import SCALES, InputError, covariance, matrix
from mesalens.tasks.covariates.gaussian import isotropic, optional_matrix, square_root
from mesalens.tasks.functions.base import Functions, Inputs, KeyArray, Labels


class LinearFunctions(Functions):
    """Linear functions f(x) = W x with a Gaussian prior: W = scale (W̄ + U), rows of U ~ N(0, Λ).

    The m rows of U are independent. The prior is sign-symmetric if W̄ = 0, and rotation-invariant
    if Λ is also a multiple of the identity.

    Attributes:
        dim: d, the number of entries of an input.
        outputs: m, the number of entries of a value.
        scale: A factor of every W.
        covariance: Λ, of shape (d, d). The identity by default.
        mean: W̄, of shape (m, d). Zero by default.

    Raises:
        ValueError: If `covariance` is not d × d, symmetric and positive semi-definite, `mean` is
            not m × d, or entries are out of range.
    """

    covariance: Float[np.ndarray, "d d"] | None = optional_matrix("covariance")
    mean: Float[np.ndarray, "m d"] | None = optional_matrix("mean")

    def __post_init__(self):
        if self.mean is not None:
            self.mean = mean = matrix("mean", self.mean, (self.outputs, self.dim))
            if (largest := np.abs(mean).max()) > SCALES[1]:
                raise InputError(f"mean must have entries up to {SCALES[1]:g}; got {largest:g}.")
        if self.covariance is not None:
            self.covariance = covariance("covariance", self.covariance, self.dim)

    def __call__(self, key: KeyArray, xs: Inputs) -> Labels:
        weights = self.sample(key, xs.shape[:-2])
        # Labels are exact to rounding on GPUs too, which would round factors to ten bits
        return jnp.einsum("...nd,...md->...nm", xs, weights, precision="highest")

    def sample(self, key: KeyArray, shape: tuple[int, ...] = ()) -> Float[Array, "*shape m d"]:
        """Independent draws of W, float32.

        Args:
            key: A random key.
            shape: The leading axes of the result.
        """
        weights = self.scale * jax.random.normal(key, (*shape, self.outputs, self.dim))
        if self.covariance is not None:
            weights = weights @ square_root(self.covariance)
        if self.mean is not None:
            weights = weights + self.scale * jnp.asarray(self.mean, weights.dtype)
        return weights

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
