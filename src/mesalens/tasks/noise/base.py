"""`Noise`: what is added to the labels of a regression task."""

import abc
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens.checks import is_zero, variance
from mesalens.tasks._law import Law
from mesalens.tasks.functions.base import Inputs, KeyArray, Labels


class Noise(Law):
    """A law of the label noise ε in `y = f(x) + ε`, independent of f and, given x, between labels.

    To write your own, define `__call__`; its moments are then simulated. A class that knows them
    defines `conditional_variance` and `fourth_cumulant`, which promises that E[ε | x] = 0
    and that the m entries of ε are independent and identically distributed given x. The risk of one
    step of descent is then exact. The moments of S also need third moments: they are exact if the
    class sets `symmetric`, and simulated otherwise.
    """

    _moments = ("conditional_variance", "fourth_cumulant")

    gaussian: ClassVar[bool] = False
    """Whether ε is normal given x. False makes no statement."""
    homoscedastic: ClassVar[bool] = False
    """Whether the law of ε is independent of x. False makes no statement."""
    symmetric: ClassVar[bool] = False
    """Whether ε and -ε have the same law given x. False makes no statement: the moments of S are
    then simulated.
    """

    @abc.abstractmethod
    def __call__(self, key: KeyArray, labels: Labels, xs: Inputs) -> Labels:
        """The labels with noise, float32.

        Args:
            key: A random key.
            labels: f(x) of a context and its query, for a batch of prompts, of shape (*shape, n,
                m).
            xs: The covariates of the labels, of shape (*shape, n, d).
        """

    def conditional_variance(self, dim: int) -> tuple[Any, Float[np.ndarray, "d d"]]:
        """The number c and the symmetric matrix G with `E[ε_k² | x] = c + x^T G x`.

        Args:
            dim: d, the number of entries of x.

        Raises:
            ValueError: If the class does not define it.
        """
        raise self._states_no_moments()

    def fourth_cumulant(self) -> float:
        """κ4, the mean over x of `E[ε_k⁴ | x] - 3 E[ε_k² | x]²`.

        Raises:
            ValueError: If the class does not define it, or it is infinite.
        """
        raise self._states_no_moments()


class ScaledNoise(Noise):
    """Noise `ε = √variance(x) ζ`, where ζ has a symmetric law of variance 1 independent of x.

    If `variance` is the number 0, nothing is drawn.

    Attributes:
        variance: The variance of the noise.

    Raises:
        ValueError: If `variance` is neither 0 nor from 1e-16 to 1e16.
    """

    variance: float | Float[Array, ""] = 1.0

    homoscedastic = symmetric = rotation_invariant = True

    def __check_init__(self):
        variance("variance", self.variance)

    @abc.abstractmethod
    def standard(self, key: KeyArray, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
        """Independent draws of ζ, float32."""

    def variance_at(self, xs: Inputs) -> float | Float[Array, "..."]:
        """E[ε_k² | x], which broadcasts to the labels."""
        return self.variance

    def __call__(self, key: KeyArray, labels: Labels, xs: Inputs) -> Labels:
        if is_zero(self.variance):
            return labels
        return labels + jnp.sqrt(self.variance_at(xs)) * self.standard(key, labels.shape)

    def conditional_variance(self, dim: int) -> tuple[Any, Float[np.ndarray, "d d"]]:
        return self.variance, np.zeros((dim, dim))
