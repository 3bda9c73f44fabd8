"""Gradient descent on the cross-entropy of the context: softmax regression."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from mesalens.checks import InputError
from mesalens.learners.base import take_steps
from mesalens.learners.descent import Descent
from mesalens.prompt import Prompt


class LogisticDescent(Descent):
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

    def _descend(self, prompt: Prompt, start: Float[Array, "m d"]) -> tuple[Array, Array]:
        if prompt.condensed:
            raise InputError(
                "softmax regression reads single examples, and the rows of a condensed prompt are none; give the examples themselves."
            )
        if prompt.outputs < 2:
            raise InputError(
                "softmax regression tells classes apart, and the labels have one entry; give one-hot labels of two classes or more."
            )
        mass = jnp.sum(prompt.ys, axis=1, keepdims=True)

        def step(weights, step_size):
            residuals = jax.nn.softmax(prompt.xs @ weights.T) * mass - prompt.ys
            after = weights - step_size * (residuals.T @ prompt.xs / prompt.context_length)
            return after, after

        return take_steps(step, start, jnp.broadcast_to(self.step_size, (self.steps,)), self.steps)

    def trainable(self) -> PyTree[bool]:
        """The step sizes alone: where descent starts is given."""
        nothing = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(lambda learner: learner.step_size, nothing, True)
