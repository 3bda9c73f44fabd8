"""`Covariates`: where the inputs x of a task come from."""

import abc
import math

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Key

from mesalens.checks import InputError, count, scale


class Covariates(eqx.Module):
    """A distribution of x in R^d whose draws are independent.

    For covariates of your own, write `sample`: their moments are then simulated. A class that knows
    its second and fourth moments states both.

    `scale` multiplies every draw, so that a task with inputs scaled by α is the same task with
    `scale * α`.

    Raises:
        ValueError: if `dim` is below 1, or `scale` is not from 1e-8 to 1e8.
    """

    dim: int = eqx.field(static=True)
    scale: float = 1.0

    def __check_init__(self):
        count("dim", self.dim)
        scale("scale", self.scale)

    @abc.abstractmethod
    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> Float[Array, "*shape d"]:
        """Independent draws of x, float32."""

    def second_moment(self) -> Float[np.ndarray, "d d"]:
        """E[x x^T], in float64.

        Raises:
            ValueError: if the class does not state it, or it is infinite.
        """
        raise self._states_no_moments()

    def fourth_moment(self, weight: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
        """E[(x^T G x) x x^T] for a symmetric weight G, in float64.

        Raises:
            ValueError: if the class does not state it, or it is infinite.
        """
        raise self._states_no_moments()

    def standardised(self) -> tuple["Covariates", Float[np.ndarray, "d r"]]:
        """Covariates z and a matrix R with `x = R z` in law and E[z z^T] well conditioned.

        By default x itself and the identity.
        """
        return self, np.eye(self.dim)

    def _states_no_moments(self) -> InputError:
        return InputError(
            f"{type(self).__name__} states no exact moments; simulate them, or write "
            "second_moment and fourth_moment in the class."
        )

    @property
    def knows_moments(self) -> bool:
        """Whether the class states both of its moments."""
        family = type(self)
        return (
            family.second_moment is not Covariates.second_moment
            and family.fourth_moment is not Covariates.fourth_moment
        )

    @property
    def finite_moments(self) -> float:
        """E|x|^k is finite for every k below this."""
        return math.inf

    @property
    def rotation_invariant(self) -> bool:
        """Whether x and R x have the same law for every orthogonal R. False promises nothing."""
        return False


class IndependentCovariates(Covariates):
    """Covariates whose coordinates are independent and identically distributed.

    With the mean vector μ (all entries equal) and the central moments c2, c3, c4 of a coordinate:

        E[x x^T] = c2 I + μ μ^T

        E[(x^T G x) x x^T] = (μ^T G μ) (c2 I + μ μ^T) + c2 tr(G) μ μ^T
                           + 2 c2 (G μ μ^T + μ μ^T G)
                           + c3 (g μ^T + μ g^T + 2 diag(G μ))
                           + c2² (tr(G) I + 2 G) + (c4 - 3 c2²) diag(g),      g the diagonal of G.
    """

    @abc.abstractmethod
    def central_moments(self) -> tuple[float, float, float, float]:
        """The mean, c2, c3 and c4 of a coordinate."""

    def second_moment(self) -> Float[np.ndarray, "d d"]:
        mean, c2, _, _ = self.central_moments()
        return c2 * np.eye(self.dim) + mean**2

    def fourth_moment(self, weight: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
        mean, c2, c3, c4 = self.central_moments()
        eye, mu = np.eye(self.dim), np.full(self.dim, mean)
        diagonal, trace, g_mu = np.diag(weight), np.trace(weight), weight @ mu
        order_0_and_2 = (mu @ g_mu) * self.second_moment() + c2 * trace * np.outer(mu, mu)
        order_2_mixed = 2 * c2 * (np.outer(g_mu, mu) + np.outer(mu, g_mu))
        order_3 = c3 * (np.outer(diagonal, mu) + np.outer(mu, diagonal) + 2 * np.diag(g_mu))
        order_4 = c2**2 * (trace * eye + 2 * weight) + (c4 - 3 * c2**2) * np.diag(diagonal)
        return order_0_and_2 + order_2_mixed + order_3 + order_4
