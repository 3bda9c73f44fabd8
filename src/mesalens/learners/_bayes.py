"""The Bayes predictor of linear functions with a Gaussian prior."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import positive
from mesalens.learners.base import Learner, optional_array
from mesalens.prompt import AnyPrompt


class BayesianRegression(Learner):
    """`ŷ = E[W | context] x_query` for W with a Gaussian prior and labels with Gaussian noise.

    The rows of W are independent, each N(w̄_k, Λ), and labels are `y = W x + noise` with noise
    N(0, σ² I). Then

        E[W | context]^T = W̄^T + (Λ X^T X + σ² I)^-1 Λ X^T (Y - X W̄^T)

    With Λ = τ² I and W̄ = 0 this is `Ridge` with the penalty σ²/τ². On such a task no learner has
    a lower risk; `mesalens.theory.bayes_risk` computes it.

    Args:
        prior_covariance: Λ, of shape (d, d).
        noise_variance: σ², positive.
        prior_mean: W̄, of shape (m, d); zero by default.

    Raises:
        ValueError: if the noise variance is not positive.
    """

    sees_only_sum = True

    prior_covariance: Float[Array, "d d"] = eqx.field(converter=jnp.asarray)
    noise_variance: float | Float[Array, ""]
    prior_mean: Float[Array, "m d"] | None = optional_array()

    def __check_init__(self):
        positive("noise_variance", self.noise_variance)

    def __call__(self, prompt: AnyPrompt) -> Float[Array, " m"]:
        return self.weights(prompt) @ prompt.query

    def weights(self, prompt: AnyPrompt) -> Float[Array, "m d"]:
        """E[W | context]."""
        X, Y = prompt.rows
        residuals = Y if self.prior_mean is None else Y - X @ self.prior_mean.T
        gram = self.prior_covariance @ X.T @ X + self.noise_variance * jnp.eye(prompt.dim)
        learned = jnp.linalg.solve(gram, self.prior_covariance @ X.T @ residuals).T
        return learned if self.prior_mean is None else self.prior_mean + learned
