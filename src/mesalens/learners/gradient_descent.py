"""Gradient descent on the context."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from mesalens.checks import InputError, count
from mesalens.learners.base import Learner, optional_array
from mesalens.prompt import Prompt


class GradientDescent(Learner):
    """k steps of gradient descent on the least-squares loss of the context, then `ŷ = W_k x_query`.

        L(W) = 1/(2n) Σ_i ‖W x_i - y_i‖²,      W_{k+1} = W_k - η_k ∇L(W_k) P,      ∇L(W) = 1/n Σ_i (W x_i - y_i) x_i^T

    `step_size` is η, one for all steps or one for each; it is what training changes. `initial_weights` is W_0, zero where it
    is not given. `preconditioner` is P, the identity where it is not given.

    Source: von Oswald et al. (2023), Section 2 (P = I, one step size).
    """

    step_size: Float[Array, ""] | Float[Array, " steps"] = eqx.field(converter=jnp.asarray)
    steps: int = eqx.field(static=True, default=1)
    initial_weights: Float[Array, "m d"] | None = eqx.field(converter=optional_array, default=None, kw_only=True)
    preconditioner: Float[Array, "d d"] | None = eqx.field(converter=optional_array, default=None, kw_only=True)

    def __check_init__(self):
        count("steps", self.steps)
        if self.step_size.shape not in ((), (self.steps,)):
            raise InputError(
                f"step_size has shape {self.step_size.shape}; give one number, or one for each of {self.steps} steps."
            )

    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        return self.weights(prompt) @ prompt.query

    def weights(self, prompt: Prompt) -> Float[Array, "m d"]:
        """W_k, the weights after the last step."""

        def step(weights, step_size):
            gradient = (weights @ prompt.xs.T - prompt.ys.T) @ prompt.xs / prompt.context_length
            if self.preconditioner is not None:
                gradient = gradient @ self.preconditioner
            return weights - step_size * gradient, None

        weights = self.initial_weights
        if weights is None:
            weights = jnp.zeros((prompt.outputs, prompt.dim), prompt.xs.dtype)
        step_sizes = jnp.broadcast_to(self.step_size, (self.steps,))
        if self.steps == 1:  # no loop to compile
            return step(weights, step_sizes[0])[0]
        return jax.lax.scan(step, weights, step_sizes)[0]

    def trainable(self) -> PyTree[bool]:
        """The step size alone: where descent starts and how it is preconditioned are given."""
        nothing = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(lambda learner: learner.step_size, nothing, True)
