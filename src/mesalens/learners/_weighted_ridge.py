"""Ridge regression on the context that forgets early examples."""

import jax.numpy as jnp
import jax.scipy.linalg
from jaxtyping import Array, Float

from mesalens.checks import non_negative, positive
from mesalens.learners.base import Learner
from mesalens.prompt import Prompt


class WeightedRidge(Learner):
    """`ŷ = W x_query` for ridge regression with weights that decay into the past.

        W = argmin_W Σ_i decay^(n-i) ‖W x_i - y_i‖² + penalty ‖W‖²

    The last example has weight 1, and weights add up to `(1 - decay^n) / (1 - decay)`, the number
    of examples that count. At decay = 1 it is `Ridge`, and in the limit of a vanishing decay
    `Ridge` on the last example alone. Recursive least squares with a forgetting factor is the same,
    except that its penalty decays too, as `decay^n`.

    Args:
        penalty: a positive number.
        decay: in (0, 1].

    Raises:
        ValueError: if the penalty is not positive, or the decay is not in (0, 1].

    Source: Haykin, Adaptive Filter Theory, the chapter on recursive least squares.
    """

    penalty: float | Float[Array, ""]
    decay: float | Float[Array, ""]

    def __check_init__(self):
        positive("penalty", self.penalty)
        positive("decay", self.decay)
        non_negative("1 - decay", 1 - self.decay)

    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        X, n = prompt.xs, prompt.context_length
        weights = jnp.power(self.decay, jnp.arange(n - 1, -1, -1, dtype=X.dtype))
        weighted = X * weights[:, None]
        gram = X.T @ weighted + self.penalty * jnp.eye(prompt.dim, dtype=X.dtype)
        solved = jax.scipy.linalg.solve(gram, prompt.query, assume_a="pos")
        return prompt.ys.T @ (weighted @ solved)
