"""The Bayes predictor of linear functions with a Gaussian prior."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import positive
from mesalens.learners.base import Learner, optional_array
from mesalens.prompt import AnyPrompt


class BayesianRegression(Learner):
    r"""The Bayes predictor of linear functions with a Gaussian prior.

    It is `ŷ = E[W | context] x_query`. The m rows of W are independent, each N(w̄_k, Λ), and labels
    are `y = W x + ε` with noise ε ~ N(0, σ² I). Then

    $$E[W \mid \text{context}]^T = \bar W^T
    + (\Lambda X^T X + \sigma^2 I)^{-1} \Lambda X^T (Y - X \bar W^T).$$

    With Λ = τ² I and W̄ = 0 this is [`Ridge`][mesalens.learners.Ridge] with the penalty σ²/τ². On
    such a task no learner has a lower risk; [`bayes_risk`][mesalens.theory.bayes_risk] computes it.

    Attributes:
        prior_covariance: Λ, of shape (d, d).
        noise_variance: σ², positive.
        prior_mean: W̄, of shape (m, d). Zero by default.

    Raises:
        ValueError: If the noise variance is not positive.
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
        """The posterior mean E[W | context], of shape (m, d).

        Args:
            prompt: One prompt.
        """
        X, Y = prompt.rows
        residuals = Y if self.prior_mean is None else Y - X @ self.prior_mean.T
        gram = self.prior_covariance @ X.T @ X + self.noise_variance * jnp.eye(prompt.dim)
        learned = jnp.linalg.solve(gram, self.prior_covariance @ X.T @ residuals).T
        return learned if self.prior_mean is None else self.prior_mean + learned
