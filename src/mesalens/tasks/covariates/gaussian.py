"""Gaussian covariates, of any covariance."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from mesalens.checks import InputError, as_matrix, covariance
from mesalens.tasks.covariates.base import Covariates


class Gaussian(Covariates):
    """x ~ N(0, scale² Σ), Σ = `covariance` (the identity where it is not given; singular ones are fine).

        E[x x^T] = Σ,    E[(x^T G x) x x^T] = 2 Σ G Σ + tr(G Σ) Σ        (Isserlis; at scale 1)

    Raises `ValueError` where the covariance is not square of size d, symmetric and positive semi-definite.
    """

    covariance: Float[np.ndarray, "d d"] | None = eqx.field(converter=as_matrix, default=None, kw_only=True)

    def __post_init__(self):
        if self.covariance is not None:
            self.covariance = covariance("the covariance of the covariates", self.covariance, self.dim)

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> Float[Array, "*shape d"]:
        return self.coloured(jax.random.normal(key, (*shape, self.dim)))

    def coloured(self, z: Float[Array, "*shape d"]) -> Float[Array, "*shape d"]:
        """The x = scale Σ^½ z that is N(0, scale² Σ) where z is N(0, I)."""
        x = self.scale * z
        return x if self.covariance is None else x @ square_root(self.covariance)

    def second_moment(self) -> Float[np.ndarray, "d d"]:
        return self.scale**2 * (np.eye(self.dim) if self.covariance is None else self.covariance)

    def fourth_moment(self, weight: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
        sigma = self.second_moment()
        return 2 * sigma @ weight @ sigma + np.trace(weight @ sigma) * sigma

    def standardised(self) -> tuple["Gaussian", Float[np.ndarray, "d r"]]:
        """The z ~ N(0, I_r) and R with R R^T = scale² Σ, r the rank of Σ to rounding. Raises `ValueError` for Σ = 0."""
        if self.covariance is None:
            return Gaussian(self.dim), float(self.scale) * np.eye(self.dim)
        eigenvalues, eigenvectors = np.linalg.eigh(self.covariance)
        kept = eigenvalues > self.dim * np.finfo(float).eps * eigenvalues[-1]
        if not kept.any():
            raise InputError("the covariance of the covariates is zero, so every x is 0; give one that is not.")
        R = float(self.scale) * eigenvectors[:, kept] * np.sqrt(eigenvalues[kept])
        return Gaussian(R.shape[1]), R

    @property
    def rotation_invariant(self) -> bool:
        return isotropic(self.covariance)


def square_root(covariance: Float[np.ndarray | Array, "d d"]) -> Float[Array, "d d"]:
    """The symmetric R with R R = covariance, which exists for singular covariances too; in float64 where it is not traced."""
    xp = np if isinstance(covariance, np.ndarray) else jnp
    eigenvalues, eigenvectors = xp.linalg.eigh(covariance)
    return jnp.asarray((eigenvectors * xp.sqrt(xp.maximum(eigenvalues, 0))) @ eigenvectors.T, jnp.result_type(float))


def isotropic(covariance: Float[np.ndarray, "d d"] | None) -> bool:
    """The covariance is a multiple of the identity, to the bit; None stands for the identity."""
    return covariance is None or np.array_equal(covariance, covariance[0, 0] * np.eye(len(covariance)))
