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
    """k steps of gradient descent on a least-squares loss with centred inputs: `ŷ = W_k x_query`.

        L(W) = 1/(2n) Σ_i ‖W (x_i - x̄) - y_i‖²,      x̄ = 1/n Σ_i x_i
        W_{k+1} = W_k - η_k/n Σ_i (W_k (x_i - x̄) - y_i) (x_i - x̄)^T

    The query is not centred, and neither are the labels: since `Σ_i (x_i - x̄) = 0`, a constant
    added to all labels changes no step. The minimiser of L has the slopes of least squares with an
    intercept, and the prediction leaves the intercept out.

    One step from zero, `ŷ = η/n Σ_i y_i (x_i - x̄)^T x_query`, is the limit of a pair of heads of
    softmax attention (`mesalens.theory.softmax_descent_transformer`). Its exact risk is
    `mesalens.theory.centred_step_risk`. It needs x̄ and ȳ, so S and n alone are not enough.

    Args:
        step_size: η, one number for all steps or one for each.
        steps: k.
        initial_weights: W_0, of shape (m, d); zero by default.

    Raises:
        ValueError: if the step size or W_0 has another shape, or the step size is not finite.

    Source: one step, as what softmax attention learns, He et al. (ICML 2025), arXiv 2503.12734.
    """

    centres_inputs: ClassVar[bool] = True
    """Its spectral filter is that of the centred inputs."""

    def _descend(self, prompt: Prompt, start: Float[Array, "m d"]) -> tuple[Array, Array]:
        centred = prompt.xs - jnp.mean(prompt.xs, axis=0)

        def step(weights, rates):
            residuals = centred @ weights.T - prompt.ys
            after = weights - rates[0] * (residuals.T @ centred / prompt.context_length)
            return after, after

        return take_steps(step, start, self._rates(), self.steps)

    def spectral_filter(self, eigenvalues: np.ndarray, context_length: int) -> np.ndarray:
        """The g in the eigenbasis of the centred inputs' `X^T X / n`: that of `GradientDescent`."""
        descent = GradientDescent(self.step_size, self.steps)
        return descent.spectral_filter(eigenvalues, context_length)
