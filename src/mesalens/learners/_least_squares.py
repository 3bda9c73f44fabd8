"""Minimum-norm least squares on the context."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens.learners.base import Learner
from mesalens.prompt import AnyPrompt


class LeastSquares(Learner):
    """Minimum-norm least squares: `ŷ = W x_query` with `W = (X^+ Y)^T`.

    W is the minimiser of `Σ_i ‖W x_i - y_i‖²` of least norm. It is the Bayes predictor for labels
    without noise and W with an isotropic Gaussian prior, and the limit of gradient descent with
    small steps from zero.

    Examples:
        >>> from mesalens import LeastSquares, Prompt
        >>> prediction = LeastSquares()(Prompt([[1.0], [2.0]], [[2.0], [4.0]], [3.0]))
        >>> print(f"{prediction[0]:.3f}")
        6.000
    """

    sees_only_sum = True

    def __call__(self, prompt: AnyPrompt) -> Float[Array, " m"]:
        return prompt.query @ jnp.linalg.lstsq(*prompt.rows)[0]

    def spectral_filter(self, eigenvalues: np.ndarray, context_length: int) -> np.ndarray:
        rounding = np.finfo(float).eps * eigenvalues.shape[-1] * eigenvalues[..., -1:]
        spanned = eigenvalues > rounding
        return np.where(spanned, 1 / np.where(spanned, eigenvalues, 1), 0)
