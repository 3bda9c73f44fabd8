"""Gradient descent on the cross-entropy of the context: softmax regression."""

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from mesalens.checks import InputError, count
from mesalens.learners.base import IterativeLearner, optional_array, take_steps
from mesalens.prompt import Prompt


class LogisticDescent(IterativeLearner):
    """k steps of gradient descent on the cross-entropy of the context, then the logits `ŷ = W_k x_query`.

        L(W) = -1/n Σ_i y_i · log softmax(W x_i),      ∇L(W) = 1/n Σ_i (softmax(W x_i) Σ_c y_ic - y_i) x_i^T
        W_{k+1} = W_k - η_k ∇L(W_k)

    Labels are distributions over m ≥ 2 classes, one-hot where each example has its class; then `Σ_c y_ic = 1`. `step_size` is η,
    one number for all steps or one for each, which is what training changes. `initial_weights` is W_0, zero where it is not given.

    L is convex, and its Hessian at most half of λ, the largest eigenvalue of `X^T X / n`: no step of size below 4/λ makes it larger.
    Where a hyperplane parts the classes L has no minimum, and W_k grows without bound. Steps leave the column sums `1^T W` as they are.

    Raises `ValueError` where the step size or W_0 has another shape, the step size is not finite, labels have one entry, or the prompt is
    condensed.

    Source: Bishop, Pattern Recognition and Machine Learning (2006), equations 4.108 and 4.109.
    """

    step_size: Float[Array, ""] | Float[Array, " steps"] = eqx.field(converter=jnp.asarray)
    steps: int = eqx.field(static=True, default=1)
    initial_weights: Float[Array, "m d"] | None = eqx.field(converter=optional_array, default=None, kw_only=True)

    def __check_init__(self):
        count("steps", self.steps)
        if self.step_size.shape not in ((), (self.steps,)):
            raise InputError(
                f"step_size has shape {self.step_size.shape}; give one number, or one for each of {self.steps} steps."
            )
        if not isinstance(self.step_size, jax.core.Tracer) and not np.isfinite(self.step_size).all():
            raise InputError(f"step_size is {self.step_size.tolist()}; give finite numbers.")
        if self.initial_weights is not None and self.initial_weights.ndim != 2:
            raise InputError(f"initial_weights has shape {self.initial_weights.shape}; give a matrix, m × d.")

    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        return self.weights(prompt) @ prompt.query

    def iterates(self, prompt: Prompt) -> Float[Array, "iterates m"]:
        return self.trajectory(prompt) @ prompt.query

    def weights(self, prompt: Prompt) -> Float[Array, "m d"]:
        """W_k, the weights after the last step."""
        return self._descend(prompt)[1]

    def trajectory(self, prompt: Prompt) -> Float[Array, "iterates m d"]:
        """W_0, …, W_k, the weights before the first and after every step."""
        start, _, after = self._descend(prompt)
        return jnp.concatenate([start[None], after])

    def _descend(self, prompt: Prompt) -> tuple[Array, Array, Array]:
        """The first weights, the last, and those after every step."""
        if prompt.condensed:
            raise InputError(
                "softmax regression reads single examples, and the rows of a condensed prompt are none; give the examples themselves."
            )
        if prompt.outputs < 2:
            raise InputError(
                "softmax regression tells classes apart, and the labels have one entry; give one-hot labels of two classes or more."
            )
        dtype = jnp.result_type(*jax.tree.leaves((self, prompt)))
        shape = prompt.outputs, prompt.dim
        if self.initial_weights is not None and self.initial_weights.shape != shape:
            raise InputError(f"initial_weights has shape {self.initial_weights.shape}; this prompt needs {shape}.")
        start = jnp.zeros(shape) if self.initial_weights is None else self.initial_weights
        start = start.astype(dtype)
        mass = jnp.sum(prompt.ys, axis=1, keepdims=True)

        def step(weights, step_size):
            residuals = jax.nn.softmax(prompt.xs @ weights.T) * mass - prompt.ys
            after = weights - step_size * (residuals.T @ prompt.xs / prompt.context_length)
            return after, after

        last, after = take_steps(step, start, jnp.broadcast_to(self.step_size, (self.steps,)), self.steps)
        return start, last, after

    def trainable(self) -> PyTree[bool]:
        """The step sizes alone: where descent starts is given."""
        nothing = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(lambda learner: learner.step_size, nothing, True)
