"""`CorrelatedGaussian`: Gaussian inputs that are correlated within a prompt."""

import abc
from typing import ClassVar

import jax
from jaxtyping import Array, Float, Key
from numpy import ndarray

from mesalens.tasks.covariates.base import Covariates
from mesalens.tasks.covariates.gaussian import square_root


class CorrelatedGaussian(Covariates):
    r"""Gaussian inputs that are correlated within a prompt.

    They have mean 0 and, for i ≠ j,

    $$E[x_i x_i^T] = E[x_q x_q^T] = \Sigma, \qquad E[x_i x_j^T] = \Sigma_1, \qquad
    E[x_i x_q^T] = \Sigma_2.$$

    Subclasses define Σ (`second_moment`), Σ_1 (`between`) and Σ_2 (`with_query`), and draw prompts.
    """

    independent: ClassVar[bool] = False

    @abc.abstractmethod
    def between(self) -> Float[ndarray, "d d"]:
        """Σ_1, the covariance of two examples, in float64."""

    @abc.abstractmethod
    def with_query(self) -> Float[ndarray, "d d"]:
        """Σ_2, the covariance of an example and the query, in float64."""

    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> Float[Array, "*shape d"]:
        """Inputs of different prompts: independent draws of N(0, Σ)."""
        z = jax.random.normal(key, (*shape, self.dim))
        return z @ square_root(self.second_moment())

    def fourth_moment(self, weight: Float[ndarray, "d d"]) -> Float[ndarray, "d d"]:
        sigma = self.second_moment()
        return 2 * sigma @ weight @ sigma + (weight * sigma).sum() * sigma
