"""Kernel ridge regression on the context."""

import jax.numpy as jnp
import jax.scipy.linalg
from jaxtyping import Array, Float

from mesalens.checks import positive
from mesalens.learners._distances import log_gaussian_kernel
from mesalens.learners.base import Learner
from mesalens.prompt import Prompt


class KernelRidge(Learner):
    r"""Kernel ridge regression with the Gaussian kernel.

    $$k(x, x') = \exp\left(-\frac{\|x - x'\|^2}{2 h^2}\right), \qquad K_{ij} = k(x_i, x_j)$$

    $$\hat y = Y^T (K + \text{penalty} \cdot I)^{-1} k(X, x_\text{query})$$

    It minimises `Σ_i ‖f(x_i) - y_i‖² + penalty ‖f‖²` with the norm of the kernel's Hilbert space.
    If functions are drawn from the Gaussian process with covariance τ² k and the noise variance is
    σ², it is the Bayes predictor at `penalty = σ²/τ²`. As the penalty vanishes it interpolates the
    labels (of distinct inputs). Far from all inputs it predicts 0. For a large penalty it is `Σ_i
    y_i k(x_i, x_query) / penalty`, a step of gradient descent on f from 0.

    Attributes:
        penalty: A positive number.
        bandwidth: h, a positive number.

    Raises:
        ValueError: If the penalty or the bandwidth is not positive.

    Source: Saunders, Gammerman and Vovk (1998); Rasmussen and Williams, Gaussian Processes for
    Machine Learning (2006), Section 2.2.
    """

    penalty: float | Float[Array, ""]
    bandwidth: float | Float[Array, ""]

    def __check_init__(self):
        positive("penalty", self.penalty)
        positive("bandwidth", self.bandwidth)

    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        X, n = prompt.xs, prompt.context_length
        gram = jnp.exp(log_gaussian_kernel(X, X, self.bandwidth))
        gram = gram + self.penalty * jnp.eye(n, dtype=X.dtype)
        to_query = jnp.exp(log_gaussian_kernel(prompt.query, X, self.bandwidth))
        return prompt.ys.T @ jax.scipy.linalg.solve(gram, to_query, assume_a="pos")
