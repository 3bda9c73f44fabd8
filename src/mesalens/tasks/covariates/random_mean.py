"""Gaussian inputs around a mean that is drawn once per prompt."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from mesalens.checks import InputError, non_negative
from mesalens.tasks.covariates.correlated import CorrelatedGaussian


class RandomMean(CorrelatedGaussian):
    r"""Gaussian inputs around a mean that is drawn once per prompt: x ~ N(μ, I), μ ~ N(0, τ I).

    Without a descriptor and at scale 1, in the notation of
    [`CorrelatedGaussian`][mesalens.tasks.CorrelatedGaussian],

    $$\Sigma = (1 + \tau) I, \qquad \Sigma_1 = \Sigma_2 = \tau I.$$

    With a `descriptor`, inputs are `(x, μ)`: half of the d entries state the mean, and functions
    should not read them (give them a prior covariance `diag(I, 0)`).

    Attributes:
        dim: d, even with a descriptor.
        scale: A factor of every draw.
        mean_variance: τ, the variance of an entry of μ.
        descriptor: Whether inputs state μ.

    Raises:
        ValueError: If τ is negative, or d is odd with a descriptor.

    Source: Huang and Ge (ICLR 2025), who have the descriptor.
    """

    mean_variance: float = eqx.field(default=1.0, kw_only=True)
    descriptor: bool = eqx.field(static=True, default=False, kw_only=True)

    def __check_init__(self):
        non_negative("mean_variance", self.mean_variance)
        if self.descriptor and self.dim % 2:
            raise InputError(
                f"dim must be even with a descriptor, for x and its mean; got {self.dim}."
            )

    def prompts(
        self, key: Key[Array, ""], shape: tuple[int, ...], examples: int
    ) -> Float[Array, "*shape n d"]:
        mean_key, key = jax.random.split(key)
        d = self.dim // (1 + self.descriptor)
        mean = jnp.sqrt(self.mean_variance) * jax.random.normal(mean_key, (*shape, 1, d))
        xs = mean + jax.random.normal(key, (*shape, examples, d))
        if self.descriptor:
            xs = jnp.concatenate([xs, jnp.broadcast_to(mean, xs.shape)], axis=-1)
        return self.scale * xs

    def second_moment(self) -> Float[np.ndarray, "d d"]:
        shared = self.between()
        own = np.ones(self.dim)
        own[self.dim // 2 :] -= self.descriptor
        return shared + self.scale**2 * np.diag(own)

    def between(self) -> Float[np.ndarray, "d d"]:
        blocks = np.ones((1 + self.descriptor,) * 2)
        shared = np.kron(blocks, np.eye(self.dim // len(blocks)))
        return self.scale**2 * self.mean_variance * shared

    def with_query(self) -> Float[np.ndarray, "d d"]:
        return self.between()

    @property
    def rotation_invariant(self) -> bool:
        return not self.descriptor
