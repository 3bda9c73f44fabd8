"""The Bayes predictor of linear functions from a finite pool."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import InputError, positive
from mesalens.learners.base import Learner, floats, optional_array
from mesalens.learners.descent import require_shape
from mesalens.prompt import AnyPrompt


def _as_pool(pool: Any) -> Array:
    """Weights of one output may be rows."""
    array = floats(pool)
    return array[:, None, :] if array.ndim == 2 else array


class DiscreteBayes(Learner):
    r"""The posterior mean where W is one of M known matrices: `ŷ = Σ_j p_j W_j x_query`.

    $$p_j \propto \pi_j \exp\left(-\frac{\|Y - X W_j^T\|^2}{2 \sigma^2}\right)$$

    On a task whose functions are `f(x) = W_j x` with probability π_j
    ([`FinitePool`][mesalens.tasks.FinitePool] has π_j = 1/M) and whose labels have Gaussian noise
    of variance σ², no learner has a lower risk. As σ² goes to 0 it predicts with the W_j that fits
    the context best; as σ² grows, with the prior mean of W. It uses the context only through S, as
    the squared error is a function of S.

    Attributes:
        pool: W_1, …, W_M, of shape (M, m, d), or (M, d) for one output.
        noise_variance: σ², positive.
        log_prior: log π_j up to a constant, of shape (M,). Uniform by default.

    Raises:
        ValueError: If the pool or the prior has another shape or is not finite, or the noise
            variance is not positive.

    Source: Raventós, Paul, Chen and Ganguli (2023), arXiv 2306.15063, where it is called dMMSE.
    """

    sees_only_sum = True

    pool: Float[Array, "M m d"] | Float[Array, "M d"] = eqx.field(converter=_as_pool)
    noise_variance: float | Float[Array, ""]
    log_prior: Float[Array, " M"] | None = optional_array()

    def __check_init__(self):
        if self.pool.ndim != 3 or 0 in self.pool.shape:
            raise InputError(f"pool must have shape (M, m, d); got {self.pool.shape}.")
        require_shape("pool", self.pool, self.pool.shape)
        positive("noise_variance", self.noise_variance)
        if self.log_prior is not None:
            require_shape("log_prior", self.log_prior, self.pool.shape[:1])

    def __call__(self, prompt: AnyPrompt) -> Float[Array, " m"]:
        return self.weights(prompt) @ prompt.query

    def weights(self, prompt: AnyPrompt) -> Float[Array, "m d"]:
        """The posterior mean E[W | context], of shape (m, d).

        Args:
            prompt: One prompt.
        """
        return jnp.tensordot(self.posterior(prompt), self.pool, axes=1)

    def posterior(self, prompt: AnyPrompt) -> Float[Array, " M"]:
        """The posterior probabilities p of the pool's matrices, of shape (M,).

        Args:
            prompt: One prompt.
        """
        require_shape("pool", self.pool, (len(self.pool), prompt.outputs, prompt.dim))
        X, Y = prompt.rows
        errors = jnp.einsum("rd,jmd->jrm", X, self.pool) - Y
        scores = -jnp.sum(errors**2, axis=(1, 2)) / (2 * self.noise_variance)
        return jax.nn.softmax(scores if self.log_prior is None else scores + self.log_prior)
