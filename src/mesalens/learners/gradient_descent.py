"""Gradient descent on the context, plain, with momentum, and GD++."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from mesalens.learners.base import optional_array, take_steps
from mesalens.learners.descent import Descent, require_rates, require_shape
from mesalens.prompt import Prompt


class GradientDescent(Descent):
    """k steps of gradient descent on the least-squares loss of the context, then `ŷ = W_k x_query`.

        L(W) = 1/(2n) Σ_i ‖W x_i - y_i‖²,      ∇L(W) = 1/n Σ_i (W x_i - y_i) x_i^T
        W_{k+1} = W_k - η_k ∇L(W_k) M_k^T P M_k + β_k (W_k - W_{k-1})
        M_{k+1} = (I - γ_k/n M_k X^T X M_k^T P) M_k,      M_0 = I

    `step_size` is η. `data_correction` is γ: where it is given this is GD++, which transforms the data after every step,
    `x_j <- (I - γ_k/n Σ_i x_i x_i^T P) x_j`, the query's x too, so that `M_k x` stands in the place of x. Without it M_k = I.
    `momentum` is β (heavy ball, W_{-1} = W_0). All three are one number for all steps or one for each; they are what training
    changes. The last γ and the first β act on nothing. `initial_weights` is W_0, zero where it is not given. `preconditioner` is P,
    the identity where it is not given.

    GD++ is gradient descent with a preconditioner that is learned from the data. With P = I every M_k is a polynomial in
    `X^T X / n`: on an eigenvalue λ of that, M_k is μ_k with `μ_{k+1} = μ_k (1 - γ_k μ_k² λ)`, and the step size is `η_k μ_k²`: with
    γ > 0 large eigenvalues shrink towards small ones, and the loss that is left is better conditioned.

    Raises `ValueError` where a rate has another shape or is not finite, or W_0 or P does not fit the prompt.

    Source: von Oswald et al. (2023), Section 2 (P = I, one step size); Section 4 and Appendix A.10 (GD++).
    """

    preconditioner: Float[Array, "d d"] | None = eqx.field(converter=optional_array, default=None, kw_only=True)
    data_correction: Float[Array, ""] | Float[Array, " steps"] | None = eqx.field(
        converter=optional_array, default=None, kw_only=True
    )
    momentum: Float[Array, ""] | Float[Array, " steps"] | None = eqx.field(
        converter=optional_array, default=None, kw_only=True
    )

    def __check_init__(self):
        for name in ("data_correction", "momentum"):
            rate = getattr(self, name)
            if rate is not None:
                require_rates(name, rate, self.steps)

    def _descend(self, prompt: Prompt, start: Float[Array, "m d"]) -> tuple[Array, Array]:
        if self.preconditioner is not None:
            require_shape("the preconditioner", self.preconditioner, (prompt.dim, prompt.dim))
        transform = None if self.data_correction is None else jnp.eye(prompt.dim, dtype=start.dtype)
        second_moment = None if transform is None else prompt.xs.T @ prompt.xs / prompt.context_length

        def step(state, rates):
            weights, before, transform = state
            step_size, correction, momentum = rates
            change = (weights @ prompt.xs.T - prompt.ys.T) @ prompt.xs / prompt.context_length
            if transform is not None:
                reading = transform if self.preconditioner is None else self.preconditioner @ transform
                change = change @ transform.T @ reading
                transform = transform - correction * (transform @ second_moment @ transform.T @ reading)
            elif self.preconditioner is not None:
                change = change @ self.preconditioner
            after = weights - step_size * change
            if before is not None:
                after = after + momentum * (weights - before)
                before = weights
            return (after, before, transform), after

        rates = jax.tree.map(
            lambda rate: jnp.broadcast_to(rate, (self.steps,)), (self.step_size, self.data_correction, self.momentum)
        )
        before = None if self.momentum is None else start
        (last, _, _), after = take_steps(step, (start, before, transform), rates, self.steps)
        return last, after

    def trainable(self) -> PyTree[bool]:
        """The rates alone: where descent starts and how it is preconditioned are given."""
        nothing = jax.tree.map(lambda _: False, self)

        def rates(learner):
            return [r for r in (learner.step_size, learner.data_correction, learner.momentum) if r is not None]

        return eqx.tree_at(rates, nothing, replace_fn=lambda _: True)
