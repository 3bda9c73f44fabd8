"""Gaussian covariates, of any covariance."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from mesalens.checks import InputError, as_matrix, covariance
from mesalens.tasks.covariates.base import Covariates


def optional_matrix(name: str) -> Any:
    """A keyword-only field for a matrix, in float64, None by default."""
    return eqx.field(converter=lambda value: as_matrix(value, name), default=None, kw_only=True)


class Gaussian(Covariates):
    r"""Gaussian covariates: x ~ N(0, scale² Σ).

    At scale 1,

    $$E[x x^T] = \Sigma, \qquad E[(x^T G x) x x^T] = 2 \Sigma G \Sigma + \operatorname{tr}(G \Sigma)
    \Sigma \quad \text{(Isserlis)}.$$

    Attributes:
        dim: d, the number of entries of x.
        scale: A factor of every draw.
        covariance: Σ, of shape (d, d), which may be singular. The identity by default.

    Raises:
        ValueError: If `covariance` is not d × d, symmetric and positive semi-definite, or its
            largest entry is not from 1e-16 to 1e16.

    Examples:
        >>> from mesalens import random, tasks
        >>> covariates = tasks.Gaussian(2, covariance=[[1.0, 0.5], [0.5, 1.0]])
        >>> covariates.sample(random.key(0), (100,)).shape
        (100, 2)
        >>> print(covariates.second_moment())
        [[1.  0.5]
         [0.5 1. ]]
    """

    covariance: Float[np.ndarray, "d d"] | None = optional_matrix("covariance")

    def __post_init__(self):
        if self.covariance is not None:
            self.covariance = covariance("covariance", self.covariance, self.dim)

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> Float[Array, "*shape d"]:
        return self.coloured(jax.random.normal(key, (*shape, self.dim)))

    def coloured(self, z: Float[Array, "*shape d"]) -> Float[Array, "*shape d"]:
        """`scale Σ^½ z`, which is N(0, scale² Σ) if z is N(0, I).

        Args:
            z: Of shape (…, d).
        """
        x = self.scale * z
        return x if self.covariance is None else x @ square_root(self.covariance)

    def second_moment(self) -> Float[np.ndarray, "d d"]:
        return self.scale**2 * (np.eye(self.dim) if self.covariance is None else self.covariance)

    def fourth_moment(self, weight: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
        sigma = self.second_moment()
        return 2 * sigma @ weight @ sigma + np.trace(weight @ sigma) * sigma

    def standardised(self) -> tuple["Gaussian", Float[np.ndarray, "d r"]]:
        """The law of z ~ N(0, I_r), and R with R R^T = scale² Σ, r being the rank of Σ.

        Raises:
            ValueError: If Σ = 0.
        """
        sigma = np.eye(self.dim) if self.covariance is None else self.covariance
        eigenvalues, eigenvectors = np.linalg.eigh(sigma)
        spanned = eigenvalues > self.dim * np.finfo(float).eps * eigenvalues[-1]
        if not spanned.any():
            raise InputError("covariance must not be zero: every x would be 0.")
        R = float(self.scale) * eigenvectors[:, spanned] * np.sqrt(eigenvalues[spanned])
        return Gaussian(R.shape[1]), R

    @property
    def rotation_invariant(self) -> bool:
        return isotropic(self.covariance)


def square_root(covariance: Float[np.ndarray | Array, "d d"]) -> Float[Array, "d d"]:
    """The symmetric R with R R = covariance, which may be singular; float32, or as enabled."""
    # NumPy computes in float64, which JAX does not by default; a traced matrix has to stay in JAX
    xp = np if isinstance(covariance, np.ndarray) else jnp
    eigenvalues, eigenvectors = xp.linalg.eigh(covariance)
    root = (eigenvectors * xp.sqrt(xp.maximum(eigenvalues, 0))) @ eigenvectors.T
    return jnp.asarray(root, jnp.result_type(float))


def isotropic(sigma: Float[np.ndarray, "d d"] | None) -> bool:
    """Whether a covariance is exactly a multiple of the identity, for which None stands."""
    return sigma is None or np.array_equal(sigma, sigma[0, 0] * np.eye(len(sigma)))
