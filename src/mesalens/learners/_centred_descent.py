"""Gradient descent on the context with centred inputs."""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens.learners._gradient_descent import GradientDescent
from mesalens.learners.base import take_steps
from mesalens.learners.descent import Descent
from mesalens.prompt import Prompt


class CentredDescent(Descent):
    r"""k steps of gradient descent on a least-squares loss with centred inputs: `ŷ = W_k x_query`.

    $$L(W) = \frac{1}{2n} \sum_i \|W (x_i - \bar x) - y_i\|^2, \qquad
    \bar x = \frac{1}{n} \sum_i x_i$$

    $$W_{k+1} = W_k - \frac{\eta_k}{n} \sum_i (W_k (x_i - \bar x) - y_i) (x_i - \bar x)^T$$

    Neither the query nor the labels are centred: since `Σ_i (x_i - x̄) = 0`, a constant added to
    all labels changes no step. The minimiser of L has the slopes of least squares with an
    intercept; the prediction omits the intercept.

    One step from zero, `ŷ = η/n Σ_i y_i (x_i - x̄)^T x_query`, is the limit of a pair of heads of
    softmax attention
    ([`softmax_descent_transformer`][mesalens.theory.softmax_descent_transformer]). Its exact risk
    is [`centred_step_risk`][mesalens.theory.centred_step_risk]. It needs x̄, which S and n do not
    give.

    Attributes:
        step_size: Step size η: one number for all steps, or one for each.
        steps: Number of steps k.
        initial_weights: W_0, of shape (m, d). Zero by default.

    Raises:
        ValueError: If the step size or W_0 has another shape, or the step size is not finite.

    Source: He et al. (ICML 2025), arXiv 2503.12734, for one step, as what softmax attention learns.
    """

    centres_inputs: ClassVar[bool] = True
    """Whether the spectral filter refers to centred inputs."""

    def _descend(self, prompt: Prompt, start: Float[Array, "m d"]) -> tuple[Array, Array]:
        centred = prompt.xs - jnp.mean(prompt.xs, axis=0)

        def step(weights, rates):
            residuals = centred @ weights.T - prompt.ys
            after = weights - rates[0] * (residuals.T @ centred / prompt.context_length)
            return after, after

        return take_steps(step, start, self._rates(), self.steps)

    def spectral_filter(self, eigenvalues: np.ndarray, context_length: int) -> np.ndarray:
        """That of `GradientDescent`, in the eigenbasis of `X^T X / n` of the centred inputs X."""
        descent = GradientDescent(self.step_size, self.steps)
        return descent.spectral_filter(eigenvalues, context_length)
