"""Inputs of a context that was retrieved for its query."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from mesalens.checks import InputError, non_negative
from mesalens.tasks.covariates.correlated import CorrelatedGaussian


class Retrieved(CorrelatedGaussian):
    r"""Inputs of a context that was retrieved for its query: x_i = α x_q + √(1 - α²) z_i.

    x_q and z_i are N(0, I). At scale 1, in the notation of
    [`CorrelatedGaussian`][mesalens.tasks.CorrelatedGaussian],

    $$\Sigma = I, \qquad \Sigma_1 = \alpha^2 I, \qquad \Sigma_2 = \alpha I.$$

    Attributes:
        dim: d, the number of entries of x.
        scale: A factor of every draw.
        relevance: α, the correlation of examples and query. At 0 they are independent, at 1 equal.

    Raises:
        ValueError: If α is not in [0, 1].

    Source: Li, Rawat and Oymak (2024), arXiv 2407.10005.
    """

    rotation_invariant: ClassVar[bool] = True

    relevance: float = eqx.field(default=0.5, kw_only=True)

    def __check_init__(self):
        traced = isinstance(self.relevance, jax.core.Tracer)
        if not traced and non_negative("relevance", self.relevance) > 1:
            raise InputError(f"relevance must be from 0 to 1; got {self.relevance!r}.")

    def prompts(
        self, key: Key[Array, ""], shape: tuple[int, ...], examples: int
    ) -> Float[Array, "*shape n d"]:
        zs = self.scale * jax.random.normal(key, (*shape, examples, self.dim))
        own, query = zs[..., :-1, :], zs[..., -1:, :]
        context = self.relevance * query + jnp.sqrt(1 - self.relevance**2) * own
        return jnp.concatenate([context, query], axis=-2)

    def second_moment(self) -> Float[np.ndarray, "d d"]:
        return self.scale**2 * np.eye(self.dim)

    def between(self) -> Float[np.ndarray, "d d"]:
        return self.relevance**2 * self.second_moment()

    def with_query(self) -> Float[np.ndarray, "d d"]:
        return self.relevance * self.second_moment()
