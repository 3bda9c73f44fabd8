"""The Bayes predictor of linear functions with a Gaussian prior."""

import equinox as eqx
import jax.numpy as jnp
import jax.scipy.linalg
from jaxtyping import Array, Float

from mesalens.checks import positive
from mesalens.learners.base import Learner
from mesalens.prompt import Prompt


def _optional_array(value):
    return None if value is None else jnp.asarray(value)


class BayesianRegression(Learner):
    """`ŷ = E[W | context] x_query` where the rows of W are independent, each N(w̄_k, Λ), and labels have noise N(0, σ²).

        E[W | context] = W̄ + (Y - X W̄^T)^T (X Λ X^T + σ² I)^-1 X Λ

    `prior_covariance` is Λ, `prior_mean` W̄ (zero where it is not given), `noise_variance` σ², above 0. With Λ = τ² I and W̄ = 0 it is
    `Ridge` with the penalty σ²/τ². Its risk on such a task is the least of all learners; `mesalens.theory.bayes_risk` has it.
    """

    prior_covariance: Float[Array, "d d"] = eqx.field(converter=jnp.asarray)
    noise_variance: float | Float[Array, ""]
    prior_mean: Float[Array, "m d"] | None = eqx.field(converter=_optional_array, default=None, kw_only=True)

    def __check_init__(self):
        positive("the noise variance", self.noise_variance)

    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        prior = 0.0 if self.prior_mean is None else self.prior_mean @ prompt.query
        residuals = prompt.ys if self.prior_mean is None else prompt.ys - prompt.xs @ self.prior_mean.T
        spread = prompt.xs @ self.prior_covariance
        gram = spread @ prompt.xs.T + self.noise_variance * jnp.eye(prompt.context_length)
        return prior + residuals.T @ jax.scipy.linalg.solve(gram, spread @ prompt.query, assume_a="pos")
