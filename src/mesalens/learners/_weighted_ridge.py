"""Ridge regression on the context that forgets early examples."""

import jax.numpy as jnp
import jax.scipy.linalg
from jaxtyping import Array, Float

from mesalens.checks import non_negative, positive
from mesalens.learners.base import Learner
from mesalens.prompt import Prompt


class WeightedRidge(Learner):
    r"""Ridge regression with weights that decay into the past: `ŷ = W x_query`.

    $$W = \operatorname*{argmin}_W \sum_i \text{decay}^{n-i} \|W x_i - y_i\|^2
    + \text{penalty} \cdot \|W\|^2$$

    The last example has weight 1. The weights add up to `(1 - decay^n) / (1 - decay)`, the
    effective number of examples. At decay = 1 it is [`Ridge`][mesalens.learners.Ridge]. As the
    decay vanishes, it becomes `Ridge` on the last example alone. Recursive least squares with a
    forgetting factor is the same, except that its penalty decays too, as `decay^n`.

    Attributes:
        penalty: A positive number.
        decay: In (0, 1].

    Raises:
        ValueError: If the penalty is not positive, or the decay is not in (0, 1].

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
