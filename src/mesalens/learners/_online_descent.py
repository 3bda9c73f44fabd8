"""Online gradient descent: one step for each example of the context, in order."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import InputError
from mesalens.learners.base import IterativeLearner, floats, optional_array, take_steps
from mesalens.learners.descent import require_shape
from mesalens.prompt import Prompt


class OnlineDescent(IterativeLearner):
    r"""One pass over the context with one step of gradient descent per example: `ŷ = W_n x_query`.

    $$W_i = W_{i-1} - \eta (W_{i-1} x_i - y_i) x_i^T, \qquad i = 1, \dots, n$$

    The order of the examples matters, and the last ones count most: an error in W is multiplied by
    `I - η x_i x_i^T` at every later step. No step increases the error of W if
    `η ‖x_i‖² ≤ 2` for all i and labels have no noise, and at `η ‖x_i‖² = 1` a step fits its example
    exactly. To first order in η it is one step of
    [`GradientDescent`][mesalens.learners.GradientDescent] of size n η. The prediction has
    n + 1 iterates, one before the first example and one after each.

    Attributes:
        step_size: Step size η, one number. Training changes it.
        initial_weights: W_0, of shape (m, d). Zero by default.

    Raises:
        ValueError: If the step size is not one finite number, or W_0 is not m × d.

    Source: Widrow and Hoff (1960); as a layer, the delta rule of Schlag, Irie and Schmidhuber
    (2021), arXiv 2102.11174.
    """

    fixed = ("initial_weights",)

    step_size: Float[Array, ""] = eqx.field(converter=floats)
    initial_weights: Float[Array, "m d"] | None = optional_array()

    def __check_init__(self):
        require_shape("step_size", self.step_size, ())
        if self.initial_weights is not None and self.initial_weights.ndim != 2:
            raise InputError(
                f"initial_weights must have shape (m, d); got {self.initial_weights.shape}."
            )

    def iterates(self, prompt: Prompt) -> Float[Array, "iterates m"]:
        def step(weights, example):
            x, y = example
            weights = weights - self.step_size * jnp.outer(weights @ x - y, x)
            return weights, weights @ prompt.query

        start = self._start(prompt)
        examples = (prompt.xs, prompt.ys)
        _, predictions = take_steps(step, start, examples, prompt.context_length)
        return jnp.concatenate([(start @ prompt.query)[None], predictions])

    def _start(self, prompt: Prompt) -> Float[Array, "m d"]:
        dtype = jnp.result_type(*jax.tree.leaves((self, prompt)))
        shape = (prompt.outputs, prompt.dim)
        if self.initial_weights is None:
            return jnp.zeros(shape, dtype)
        require_shape("initial_weights", self.initial_weights, shape)
        return self.initial_weights.astype(dtype)
