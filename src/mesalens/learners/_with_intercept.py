"""An algorithm with an intercept."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import InputError
from mesalens.learners.base import Learner
from mesalens.prompt import Prompt


class WithIntercept(Learner):
    """An algorithm on deviations from the means of the context, which are added back.

        ŷ = ȳ + A({(x_i - x̄, y_i - ȳ)}, x_query - x̄),      x̄ = 1/n Σ_i x_i,   ȳ = 1/n Σ_i y_i

    With `LeastSquares` this is the fit of `y = W x + b`: the normal equation of b is `b = ȳ - W x̄`,
    and the rest is least squares on deviations. With `Ridge` and `Lasso` it is their fit of W and
    b, where b has no penalty, as in scikit-learn. It needs x̄ and ȳ, so S and n alone are not
    enough.

    Args:
        algorithm: A.

    Raises:
        ValueError: if the algorithm is no `Learner`.

    Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning (2009), Section
    3.4.1.
    """

    algorithm: Learner

    def __check_init__(self):
        if not isinstance(self.algorithm, Learner):
            given = type(self.algorithm).__name__
            raise InputError(f"algorithm must be a Learner; got a {given}.")

    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        x, y = jnp.mean(prompt.xs, axis=0), jnp.mean(prompt.ys, axis=0)
        return y + self.algorithm(Prompt(prompt.xs - x, prompt.ys - y, prompt.query - x))
