"""`Covariates`: where the inputs x of a task come from."""

import abc
from typing import ClassVar

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Key

from mesalens.checks import count, scale
from mesalens.tasks._law import Law
from mesalens.tasks._own_parts import SHAPE, require_draws
from mesalens.tasks._stated_moments import require_covariate_moments


class Covariates(Law):
    """A distribution of inputs x in R^d, by default with independent draws.

    To write your own, define `sample`; its moments are then simulated. A class that knows its
    second and fourth moments defines both.

    Attributes:
        dim: d, the number of entries of x.
        scale: A factor of every draw. A task with inputs scaled by α is the same task with
            `scale * α`.

    Raises:
        ValueError: If `dim` is below 1, `scale` is not from 1e-8 to 1e8, `sample` returns
            another shape, or draws contradict the moments that the class states.
    """

    dim: int = eqx.field(static=True)
    scale: float = 1.0

    _moments = ("second_moment", "fourth_moment")

    independent: ClassVar[bool] = True
    """Whether the inputs of a prompt are independent, as most exact results assume."""

    def __check_init__(self):
        count("dim", self.dim)
        scale("scale", self.scale)
        call, shape = f".sample(key, {SHAPE})", (*SHAPE, self.dim)
        require_draws(self, call, lambda key: self.sample(key, SHAPE), {"(*shape, dim)": shape})
        require_covariate_moments(self)

    @abc.abstractmethod
    def sample(self, key: Key[Array, ""], shape: tuple[int, ...] = ()) -> Float[Array, "*shape d"]:
        """Independent draws of x, float32.

        Args:
            key: A random key.
            shape: The leading axes of the result.

        Returns:
            The draws, of shape (*shape, d).
        """

    def prompts(
        self, key: Key[Array, ""], shape: tuple[int, ...], examples: int
    ) -> Float[Array, "*shape n d"]:
        """The inputs of prompts, the query's last, float32.

        Args:
            key: A random key.
            shape: The leading axes, one entry for each prompt.
            examples: The number of inputs of a prompt, the query included.

        Returns:
            The inputs, of shape (*shape, examples, d).
        """
        return self.sample(key, (*shape, examples))

    def second_moment(self) -> Float[np.ndarray, "d d"]:
        """E[x x^T], in float64.

        Raises:
            ValueError: If the class does not define it, or it is infinite.
        """
        raise self._states_no_moments()

    def fourth_moment(self, weight: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
        """E[(x^T G x) x x^T], in float64.

        Args:
            weight: The symmetric matrix G, of shape (d, d).

        Raises:
            ValueError: If the class does not define it, or it is infinite.
        """
        raise self._states_no_moments()

    def standardised(self) -> tuple["Covariates", Float[np.ndarray, "d r"]]:
        """Covariates z and a matrix R with `x = R z` in law and E[z z^T] well conditioned.

        By default x itself and the identity.
        """
        return self, np.eye(self.dim)


class IndependentCovariates(Covariates):
    r"""Covariates whose coordinates are independent and identically distributed.

    With the mean vector μ (all entries equal), the central moments c2, c3, c4 of a coordinate, the
    diagonal g of G and `M = E[x x^T]`:

    $$E[x x^T] = c_2 I + \mu \mu^T$$

    $$\begin{aligned} E[(x^T G x) x x^T]
    &= 2 M G M + \operatorname{tr}(G M) M - 2 (\mu^T G \mu) \mu \mu^T \\
    &\quad + c_3 (g \mu^T + \mu g^T + 2 \operatorname{diag}(G \mu))
    + (c_4 - 3 c_2^2) \operatorname{diag}(g) \end{aligned}$$

    The first line of the latter is the moment of a Gaussian (Isserlis).
    """

    @abc.abstractmethod
    def central_moments(self) -> tuple[float, float, float, float]:
        """The mean, c2, c3 and c4 of a coordinate."""

    def second_moment(self) -> Float[np.ndarray, "d d"]:
        mean, c2, _, _ = self.central_moments()
        return c2 * np.eye(self.dim) + mean**2

    def fourth_moment(self, weight: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
        mean, c2, c3, c4 = self.central_moments()
        M, mu, g = self.second_moment(), np.full(self.dim, mean), np.diag(weight)
        gaussian = 2 * M @ weight @ M + np.trace(weight @ M) * M
        gaussian -= 2 * (mu @ weight @ mu) * np.outer(mu, mu)
        skew = c3 * (np.outer(g, mu) + np.outer(mu, g) + 2 * np.diag(weight @ mu))
        return gaussian + skew + (c4 - 3 * c2**2) * np.diag(g)
