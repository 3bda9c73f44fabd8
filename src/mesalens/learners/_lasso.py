"""Least squares on the context with a penalty on absolute values."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import positive
from mesalens.learners.base import Learner
from mesalens.prompt import AnyPrompt

ROUNDS, SWEEPS = 20, 10


class Lasso(Learner):
    """`ŷ_k = w_k · x_query` for each output k, with sparse weights.

        w_k = argmin_w 1/(2n) Σ_i (w · x_i - y_ik)² + penalty ‖w‖₁

    w is 0 where the penalty is at least `max_j |Σ_i x_ij y_ik| / n`, and the limit of a vanishing
    penalty is, for n ≥ d, `LeastSquares`. It is the mode of the posterior for weights with a
    Laplace prior and labels with Gaussian noise, and not the Bayes predictor. The penalty is the
    `alpha` of scikit-learn's `Lasso`, without an intercept.

    The minimum is found by 200 sweeps of coordinate descent on `X^T X / n`. After every 10 of them
    a step is taken towards the minimum over the weights of the present signs, as far as no sign
    changes. Once the signs are those of the solution this step is exact, so that ill-conditioned
    inputs need no more sweeps. On 2000 prompts with Gaussian inputs, d ≤ 20, n ≥ d, sparse weights
    and labels of variance about 1 to 6, float64 met the optimality conditions to 1e-11 times the
    penalty at penalties of 0.01 and above. At 0.001 this holds for n = 2 d, and for 98 of 100
    prompts with n = d. In float32 the relative error of w is below 1e-6 in the median, and at most
    2e-4, by rounding of `X^T X`, where n = d and the penalty is 0.01.

    Args:
        penalty: a positive number.

    Raises:
        ValueError: if the penalty is not positive.

    Source: Tibshirani (1996); coordinate descent, Friedman, Hastie and Tibshirani (2010), Section
    2; steps at given signs, Lee, Battle, Raina and Ng (2006), Algorithm 1.
    """

    sees_only_sum = True

    penalty: float | Float[Array, ""]

    def __check_init__(self):
        positive("penalty", self.penalty)

    def __call__(self, prompt: AnyPrompt) -> Float[Array, " m"]:
        return self.weights(prompt) @ prompt.query

    def weights(self, prompt: AnyPrompt) -> Float[Array, "m d"]:
        """The minimiser of each output."""
        (X, Y), n = prompt.rows, prompt.context_length
        gram, moments = X.T @ X / n, Y.T @ X / n
        return jax.vmap(lambda moment: self._minimum(gram, moment))(moments)

    def _minimum(self, gram: Float[Array, "d d"], moment: Float[Array, " d"]) -> Array:
        """The minimiser of `w^T G w / 2 - w · moment + penalty ‖w‖₁`."""
        d = len(moment)

        def update(step, weights):
            j = step % d
            curvature = gram[j, j]
            slope = moment[j] - gram[j] @ weights + curvature * weights[j]
            shrunk = jnp.sign(slope) * jnp.maximum(jnp.abs(slope) - self.penalty, 0)
            # An input that is 0 throughout gets no weight
            value = jnp.where(curvature > 0, shrunk / jnp.where(curvature > 0, curvature, 1), 0)
            return weights.at[j].set(value)

        def round_(_, weights):
            weights = jax.lax.fori_loop(0, SWEEPS * d, update, weights)
            return self._step_on_face(gram, moment, weights)

        return jax.lax.fori_loop(0, ROUNDS, round_, jnp.zeros_like(moment))

    def _step_on_face(self, gram: Array, moment: Array, weights: Array) -> Array:
        """The step to the minimum over weights of the same signs, or as far as signs allow."""
        signs = jnp.sign(weights)
        active = signs != 0
        # Added to the diagonal, it keeps the system regular; as a step starts from the weights, it
        # does not move the minimum
        rounding = 4 * jnp.finfo(gram.dtype).eps * jnp.trace(gram)
        system = jnp.where(active[:, None] & active, gram, 0)
        system = system + jnp.diag(jnp.where(active, rounding, 1))
        slope = jnp.where(active, moment - self.penalty * signs - gram @ weights, 0)
        step = jnp.linalg.solve(system, slope)
        blocked = signs * (weights + step) < 0
        room = jnp.where(blocked, -weights / jnp.where(blocked, step, 1), 1)
        length = jnp.min(room)
        after = weights + length * step
        return jnp.where((jnp.sign(after) == signs) & ~(blocked & (room == length)), after, 0)
