"""Ridge regression on the context."""

import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np
from jaxtyping import Array, Float

from mesalens.checks import positive
from mesalens.learners.base import Learner
from mesalens.prompt import AnyPrompt


class Ridge(Learner):
    """Ridge regression: `ŷ = W x_query` with `W = Y^T X (X^T X + penalty I)^-1`.

    W minimises `Σ_i ‖W x_i - y_i‖² + penalty ‖W‖²`. If the rows of W are drawn from N(0, τ² I)
    and the noise variance is σ², it is the Bayes predictor at `penalty = σ²/τ²`. As the penalty
    vanishes, it becomes [`LeastSquares`][mesalens.learners.LeastSquares].

    Attributes:
        penalty: A positive number.

    Raises:
        ValueError: If the penalty is not positive.

    Examples:
        >>> from mesalens import Prompt, Ridge
        >>> print(Ridge(1.0)(Prompt([[1.0], [2.0]], [[2.0], [4.0]], [3.0])).round(3))
        [5.]
    """

    sees_only_sum = True

    penalty: float | Float[Array, ""]

    def __check_init__(self):
        positive("penalty", self.penalty)

    def __call__(self, prompt: AnyPrompt) -> Float[Array, " m"]:
        X, Y = prompt.rows
        gram = X.T @ X + self.penalty * jnp.eye(prompt.dim, dtype=X.dtype)
        return Y.T @ (X @ jax.scipy.linalg.solve(gram, prompt.query, assume_a="pos"))

    def spectral_filter(self, eigenvalues: np.ndarray, context_length: int) -> np.ndarray:
        return 1 / (eigenvalues + float(self.penalty) / context_length)
