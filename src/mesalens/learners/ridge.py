"""Ridge regression on the context."""

import jax.numpy as jnp
import jax.scipy.linalg
from jaxtyping import Array, Float

from mesalens.checks import positive
from mesalens.learners.base import Learner
from mesalens.prompt import Prompt


class Ridge(Learner):
    """`ŷ = W x_query` with W the minimiser of `Σ_i ‖W x_i - y_i‖² + penalty ‖W‖²`, `W = Y^T X (X^T X + penalty I)^-1`.

    With rows of W drawn from N(0, τ² I) and noise variance σ² it is the Bayes predictor at `penalty = σ²/τ²`. The penalty is
    above 0; for none, use `LeastSquares`, which is its limit.
    """

    penalty: float | Float[Array, ""]

    def __check_init__(self):
        positive("the ridge penalty", self.penalty)

    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        gram = prompt.xs.T @ prompt.xs + self.penalty * jnp.eye(prompt.dim)
        return prompt.ys.T @ (prompt.xs @ jax.scipy.linalg.solve(gram, prompt.query, assume_a="pos"))
