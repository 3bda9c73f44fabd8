"""Kernel smoothing of the context's labels by distance."""

import jax
from jaxtyping import Array, Float

from mesalens.checks import positive
from mesalens.learners._distances import log_gaussian_kernel
from mesalens.learners.base import Learner
from mesalens.prompt import Prompt


class KernelSmoother(Learner):
    r"""The mean label, weighted by the Gaussian kernel of the distance from the query.

    $$\hat y = \frac{\sum_i y_i \, k(x_i, x_\text{query})}{\sum_i k(x_i, x_\text{query})}, \qquad
    k(x, x') = \exp\left(-\frac{\|x - x'\|^2}{2 h^2}\right)$$

    This is the Nadaraya-Watson estimator with a kernel of distance.
    [`SoftmaxHead`][mesalens.learners.SoftmaxHead], which is a head of softmax attention, has
    the kernel `exp(x^T M x')` of inner products instead: long inputs weigh more there, and an
    example at the query need not weigh most. The two agree at `M = I / h²` if all inputs of the
    context have the same length.

    As h vanishes it becomes the label of the nearest example, and as h grows
    [`MeanLabel`][mesalens.learners.MeanLabel].

    Attributes:
        bandwidth: h, a positive number.

    Raises:
        ValueError: If the bandwidth is not positive.

    Source: Nadaraya (1964); Watson (1964).
    """

    bandwidth: float | Float[Array, ""]

    def __check_init__(self):
        positive("bandwidth", self.bandwidth)

    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        scores = log_gaussian_kernel(prompt.query, prompt.xs, self.bandwidth)
        return jax.nn.softmax(scores) @ prompt.ys
