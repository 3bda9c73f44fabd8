"""Gradient descent on the context, plain, with momentum, and GD++."""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens.checks import InputError
from mesalens.learners.base import optional_array, take_steps
from mesalens.learners.descent import Descent, require_shape
from mesalens.prompt import AnyPrompt


class GradientDescent(Descent):
    r"""k steps of gradient descent on the least-squares loss of the context: `ŷ = W_k x_query`.

    $$L(W) = \frac{1}{2n} \sum_i \|W x_i - y_i\|^2, \qquad
    \nabla L(W) = \frac{1}{n} \sum_i (W x_i - y_i) x_i^T$$

    $$W_{k+1} = W_k - \eta_k \nabla L(W_k) M_k^T P M_k + \beta_k (W_k - W_{k-1})$$

    $$M_{k+1} = \left(I - \frac{\gamma_k}{n} M_k X^T X M_k^T P\right) M_k, \qquad M_0 = I$$

    Without `data_correction`, `M_k = I`. With it this is GD++, which transforms the data after
    every step, `x_j <- (I - γ_k/n Σ_i x_i x_i^T P) x_j`, the query included, so that `M_k x`
    replaces x. The last γ and the first β have no effect.

    GD++ is gradient descent with a preconditioner that is computed from the context. With P = I
    every M_k is a polynomial in `X^T X / n`. On an eigenvalue λ of that matrix M_k is μ_k with
    `μ_{k+1} = μ_k (1 - γ_k μ_k² λ)`, and the step size is `η_k μ_k²`. With γ > 0 large eigenvalues
    shrink towards small ones, so that the remaining loss is better conditioned.

    Attributes:
        step_size: Step size η. Like γ and β, it is one number for all steps or one for each.
        steps: Number of steps k.
        initial_weights: W_0, of shape (m, d). Zero by default.
        preconditioner: P, of shape (d, d). The identity by default.
        data_correction: γ. None by default. The last one may be omitted.
        momentum: β, of the heavy ball with `W_{-1} = W_0`. None by default.

    Raises:
        ValueError: If a rate has another shape or is not finite, or W_0 or P does not fit the
            prompt.

    Source: von Oswald et al. (2023), Section 2 (P = I, one step size); Section 4 and Appendix A.10
    (GD++).

    Examples:
        >>> from mesalens import GradientDescent, Prompt
        >>> prompt = Prompt([[1.0], [2.0]], [[2.0], [4.0]], [3.0])
        >>> print(GradientDescent(0.2)(prompt))
        [3.]
        >>> print(GradientDescent(0.2, steps=3).iterates(prompt)[:, 0])
        [0.   3.   4.5  5.25]
    """

    sees_only_sum = True
    rates = ("step_size", "data_correction", "momentum")
    may_end_before = ("data_correction",)
    fixed = (*Descent.fixed, "preconditioner")

    preconditioner: Float[Array, "d d"] | None = optional_array()
    data_correction: Float[Array, ""] | Float[Array, " corrections"] | None = optional_array()
    momentum: Float[Array, ""] | Float[Array, " steps"] | None = optional_array()

    def spectral_filter(self, eigenvalues: np.ndarray, context_length: int) -> np.ndarray:
        if self.preconditioner is not None:
            raise InputError("GradientDescent with a preconditioner has no spectral filter.")
        # A rate may have the axes of the eigenvalues behind its own, one number for each
        several = (1, eigenvalues.ndim + 1)

        def in_steps(rate: Any) -> Any:
            rate = np.asarray(0.0 if rate is None else rate, float)
            return rate if rate.ndim in several else [rate] * self.steps

        rates = (self.step_size, self.data_correction, self.momentum)
        weights = before = np.zeros_like(eigenvalues)
        transform = np.ones_like(eigenvalues)
        for step_size, correction, momentum in itertools.zip_longest(
            *map(in_steps, rates), fillvalue=0.0
        ):
            change = step_size * transform**2 * (1 - eigenvalues * weights)
            weights, before = weights + change + momentum * (weights - before), weights
            transform = transform * (1 - correction * transform**2 * eigenvalues)
        return weights

    def _descend(self, prompt: AnyPrompt, start: Float[Array, "m d"]) -> tuple[Array, Array]:
        (X, Y), n = prompt.rows, prompt.context_length
        P = self.preconditioner
        if P is not None:
            require_shape("preconditioner", P, (prompt.dim, prompt.dim))
        transform = None if self.data_correction is None else jnp.eye(prompt.dim, dtype=start.dtype)
        second_moment = None if transform is None else X.T @ X / n

        def step(state, rates):
            weights, before, transform = state
            step_size, correction, momentum = rates
            change = (weights @ X.T - Y.T) @ X / n
            if transform is not None:
                reading = transform if P is None else P @ transform
                change = change @ transform.T @ reading
                moment = transform @ second_moment @ transform.T
                transform = transform - correction * (moment @ reading)
            elif P is not None:
                change = change @ P
            after = weights - step_size * change
            if before is not None:
                after = after + momentum * (weights - before)
                before = weights
            return (after, before, transform), after

        state = (start, None if self.momentum is None else start, transform)
        (last, _, _), after = take_steps(step, state, self._rates(), self.steps)
        return last, after
