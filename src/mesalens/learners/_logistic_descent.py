"""Gradient descent on the cross-entropy of the context: softmax regression."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import InputError
from mesalens.learners.base import take_steps
from mesalens.learners.descent import Descent
from mesalens.prompt import Prompt


class LogisticDescent(Descent):
    r"""k steps of gradient descent on the cross-entropy of the context; logits `ŷ = W_k x_query`.

    $$L(W) = -\frac{1}{n} \sum_i y_i \cdot \log \operatorname{softmax}(W x_i)$$

    $$\nabla L(W) = \frac{1}{n} \sum_i
    \left(\operatorname{softmax}(W x_i) \sum_c y_{ic} - y_i\right) x_i^T, \qquad
    W_{k+1} = W_k - \eta_k \nabla L(W_k)$$

    Labels are distributions over m ≥ 2 classes, one-hot where the class of an example is known;
    then `Σ_c y_ic = 1`.

    L is convex, and its Hessian is at most λ/2 with λ the largest eigenvalue of `X^T X / n`: a step
    of size below 4/λ never increases it. If a hyperplane separates the classes, L has no minimum,
    and W_k grows without bound. Steps do not change the column sums `1^T W`.

    Attributes:
        step_size: Step size η: one number for all steps, or one for each.
        steps: Number of steps k.
        initial_weights: W_0, of shape (m, d). Zero by default.

    Raises:
        ValueError: If the step size or W_0 has another shape, the step size is not finite, or
            labels have a single entry.

    Source: Bishop, Pattern Recognition and Machine Learning (2006), equations 4.108 and 4.109.
    """

    def _descend(self, prompt: Prompt, start: Float[Array, "m d"]) -> tuple[Array, Array]:
        if prompt.outputs < 2:
            raise InputError(f"LogisticDescent needs two classes or more; got m={prompt.outputs}.")
        mass = jnp.sum(prompt.ys, axis=1, keepdims=True)

        def step(weights, rates):
            residuals = jax.nn.softmax(prompt.xs @ weights.T) * mass - prompt.ys
            after = weights - rates[0] * (residuals.T @ prompt.xs / prompt.context_length)
            return after, after

        return take_steps(step, start, self._rates(), self.steps)
