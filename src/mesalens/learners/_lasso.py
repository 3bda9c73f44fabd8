"""Least squares on the context with a penalty on absolute values."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import positive
from mesalens.learners.base import Learner
from mesalens.prompt import AnyPrompt

ROUNDS, SWEEPS = 20, 10


class Lasso(Learner):
    r"""Least squares with a penalty on absolute values: `ŷ_k = w_k · x_query` for each output k.

    $$w_k = \operatorname*{argmin}_w \frac{1}{2n} \sum_i (w \cdot x_i - y_{ik})^2
    + \text{penalty} \cdot \|w\|_1$$

    w is 0 if the penalty is at least `max_j |Σ_i x_ij y_ik| / n`. As the penalty vanishes, it
    becomes [`LeastSquares`][mesalens.learners.LeastSquares] for n ≥ d. It is the mode of the
    posterior for weights with a Laplace prior and labels with Gaussian noise, not the Bayes
    predictor. The penalty is the `alpha` of scikit-learn's `Lasso`, without an intercept.

    The minimum is found by at most 200 sweeps of coordinate descent on `X^T X / n`. After every 10
    sweeps a step is taken towards the minimum over the weights of the present signs, as far as no
    sign changes. Once the signs are those of the solution this step is exact, so that
    ill-conditioned inputs need no more sweeps. The sweeps end when 10 have changed no sign. On 2000
    prompts with Gaussian inputs, d ≤ 20, n ≥ d, sparse weights and labels of variance about 1 to 6,
    float64 met the optimality conditions to 1e-11 times the penalty at penalties of 0.01 and above.
    At 0.001 this holds for n = 2 d, and for 98 of 100 prompts with n = d. In float32 the relative
    error of w is below 1e-6 in the median, and at most 2e-4, by rounding of `X^T X`, where n = d
    and the penalty is 0.01.

    Derivatives are those of the last step, at given signs: the implicit function theorem for the
    minimum on its face.

    Attributes:
        penalty: A positive number.

    Raises:
        ValueError: If the penalty is not positive.

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
        """The minimiser of each output, of shape (m, d).

        Args:
            prompt: One prompt.
        """
        (X, Y), n = prompt.rows, prompt.context_length
        gram, moments = X.T @ X / n, Y.T @ X / n
        return jax.vmap(lambda moment: self._minimum(gram, moment))(moments)

    def _minimum(self, gram: Float[Array, "d d"], moment: Float[Array, " d"]) -> Array:
        """The minimiser of `w^T G w / 2 - w · moment + penalty ‖w‖₁`."""
        d = len(moment)
        given = jax.lax.stop_gradient((gram, moment, jnp.asarray(self.penalty, gram.dtype)))
        fixed_gram, fixed_moment, penalty = given

        def update(step, weights):
            j = step % d
            curvature = fixed_gram[j, j]
            slope = fixed_moment[j] - fixed_gram[j] @ weights + curvature * weights[j]
            shrunk = jnp.sign(slope) * jnp.maximum(jnp.abs(slope) - penalty, 0)
            # An input that is 0 throughout gets no weight
            value = jnp.where(curvature > 0, shrunk / jnp.where(curvature > 0, curvature, 1), 0)
            return weights.at[j].set(value)

        def round_(state):
            before, rounds, whole, _ = state
            weights = jax.lax.fori_loop(0, SWEEPS * d, update, before)
            after, whole_now = _step_on_face(*given, weights)
            # Sweeps that start at the minimum of a face and stay on it are at the minimum
            same = jnp.all(jnp.sign(before) == jnp.sign(after))
            return after, rounds + 1, whole_now, whole & whole_now & same

        def goes_on(state):
            _, rounds, _, done = state
            return (rounds < ROUNDS) & ~done

        start = jnp.zeros_like(fixed_moment), 0, jnp.array(False), jnp.array(False)
        weights = jax.lax.while_loop(goes_on, round_, start)[0]
        return _step_on_face(gram, moment, self.penalty, weights)[0]


def _step_on_face(gram: Array, moment: Array, penalty: Any, weights: Array) -> tuple[Array, Array]:
    """The step to the minimum over weights of the same signs, and whether signs allow all of it."""
    signs = jnp.sign(weights)
    active = signs != 0
    # Added to the diagonal, it keeps the system regular; as a step starts from the weights, it
    # does not move the minimum
    rounding = 4 * jnp.finfo(gram.dtype).eps * jnp.trace(gram)
    system = jnp.where(active[:, None] & active, gram, 0)
    system = system + jnp.diag(jnp.where(active, rounding, 1))
    slope = jnp.where(active, moment - penalty * signs - gram @ weights, 0)
    step = jnp.linalg.solve(system, slope)
    blocked = signs * (weights + step) < 0
    room = jnp.where(blocked, -weights / jnp.where(blocked, step, 1), 1)
    length = jnp.min(room)
    after = weights + length * step
    after = jnp.where((jnp.sign(after) == signs) & ~(blocked & (room == length)), after, 0)
    return after, jnp.all(jnp.sign(after) == signs)
