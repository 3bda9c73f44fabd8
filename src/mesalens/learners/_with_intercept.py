"""An algorithm with an intercept."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import InputError
from mesalens.learners.base import Learner
from mesalens.prompt import Prompt


class WithIntercept(Learner):
    r"""An algorithm applied to deviations from the means of the context, which are added back.

    $$\hat y = \bar y + A(\{(x_i - \bar x, y_i - \bar y)\}, x_\text{query} - \bar x), \qquad
    \bar x = \frac{1}{n} \sum_i x_i, \qquad \bar y = \frac{1}{n} \sum_i y_i$$

    With [`LeastSquares`][mesalens.learners.LeastSquares] this is the fit of `y = W x + b`: the
    normal equation of b is `b = ȳ - W x̄`, and the rest is least squares on deviations. With
    `Ridge` and `Lasso` it is their fit of W and b without a penalty on b, as in scikit-learn. It
    needs x̄ and ȳ, which S and n do not give.

    Attributes:
        algorithm: The learner A.

    Raises:
        ValueError: If the algorithm is not a `Learner`.

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
