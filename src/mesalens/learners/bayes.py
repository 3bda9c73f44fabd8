"""The Bayes predictor of linear functions with a Gaussian prior."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import positive
from mesalens.learners.base import Learner, optional_array
from mesalens.prompt import Prompt


class BayesianRegression(Learner):
    """`ŷ = E[W | context] x_query` where the rows of W are independent, each N(w̄_k, Λ), and labels have noise N(0, σ²).

        E[W | context]^T = W̄^T + (Λ X^T X + σ² I)^-1 Λ X^T (Y - X W̄^T)

    `prior_covariance` is Λ, `prior_mean` W̄ (zero where it is not given), `noise_variance` σ², above 0. With Λ = τ² I and W̄ = 0 it is
    `Ridge` with the penalty σ²/τ². Its risk on such a task is the least of all learners; `mesalens.theory.bayes_risk` has it.
    """

    prior_covariance: Float[Array, "d d"] = eqx.field(converter=jnp.asarray)
    noise_variance: float | Float[Array, ""]
    prior_mean: Float[Array, "m d"] | None = eqx.field(converter=optional_array, default=None, kw_only=True)

    def __check_init__(self):
        positive("the noise variance", self.noise_variance)

    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        return self.weights(prompt) @ prompt.query

    def weights(self, prompt: Prompt) -> Float[Array, "m d"]:
        """E[W | context]."""
        residuals = prompt.ys if self.prior_mean is None else prompt.ys - prompt.xs @ self.prior_mean.T
        gram = self.prior_covariance @ prompt.xs.T @ prompt.xs + self.noise_variance * jnp.eye(prompt.dim)
        learned = jnp.linalg.solve(gram, self.prior_covariance @ prompt.xs.T @ residuals).T
        return learned if self.prior_mean is None else self.prior_mean + learned
