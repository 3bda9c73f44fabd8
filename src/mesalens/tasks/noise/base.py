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
    """A law of the noise ε in `y = f(x) + ε`, independent of f and, given x, between labels.

    For noise of your own, write `__call__`: its moments are then simulated. A class that knows them
    states `conditional_variance` and `fourth_cumulant` as well, which promises that E[ε | x] = 0
    and that the m entries of ε are independent and identically distributed given x. The risk of one
    step of descent is then exact. The moments of S need third moments too: they are exact if the
    class also says that the noise is `symmetric`, and simulated by default.
    """

    _moments = ("conditional_variance", "fourth_cumulant")

    gaussian: ClassVar[bool] = False
    """Whether ε is normal given x. False promises nothing."""
    homoscedastic: ClassVar[bool] = False
    """Whether the law of ε does not depend on x. False promises nothing."""
    symmetric: ClassVar[bool] = False
    """Whether ε and -ε have the same law given x. False promises nothing: the moments of S are
    then simulated."""

    @abc.abstractmethod
    def __call__(self, key: KeyArray, labels: Labels, xs: Inputs) -> Labels:
        """The labels with noise, float32.

        Args:
            key: of the random numbers.
            labels: f(x), those of a context and its query, for a batch of prompts.
            xs: the covariates of the labels.
        """

    def conditional_variance(self, dim: int) -> tuple[Any, Float[np.ndarray, "d d"]]:
        """The c and G with `E[ε_k² | x] = c + x^T G x`, for x of `dim` entries; G is symmetric.

        Raises:
            ValueError: if the class does not state it.
        """
        raise self._states_no_moments()

    def fourth_cumulant(self) -> float:
        """κ4, the mean over x of `E[ε_k⁴ | x] - 3 E[ε_k² | x]²`.

        Raises:
            ValueError: if the class does not state it, or it is infinite.
        """
        raise self._states_no_moments()


class ScaledNoise(Noise):
    """Noise `ε = √variance(x) ζ`, ζ from a symmetric law of variance 1 that does not depend on x.

    Where `variance` is the number 0 nothing is drawn.

    Raises:
        ValueError: if `variance` is neither 0 nor from 1e-16 to 1e16.
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
