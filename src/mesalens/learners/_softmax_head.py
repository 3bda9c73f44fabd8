"""Kernel smoothing of the context's labels, which is one head of softmax attention."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.learners.base import Learner
from mesalens.learners.descent import require_shape
from mesalens.prompt import Prompt


class SoftmaxHead(Learner):
    r"""The mean label, weighted by the exponential kernel of covariates and query, times a gain.

    $$\hat y = \text{gain} \cdot
    \frac{\sum_i y_i \exp(x_i^T M x_\text{query})}{\sum_i \exp(x_i^T M x_\text{query})}$$

    This is the prediction of one head of softmax attention whose keys and queries read x alone and
    whose values read y: `W_K^T W_Q = diag(M, 0)`, and the gain is the scale of the values. For M =
    0 it is the mean label. As a positive M grows without bound it becomes the label of the example
    with the largest inner product. For covariates of equal length, as on a sphere, `M = I / h²`
    gives the Nadaraya-Watson estimator with the Gaussian kernel of bandwidth h, since `x_i ·
    x_query = const - ‖x_i - x_query‖² / 2`.

    Attributes:
        metric: M, of shape (d, d), or one number, which is multiplied by the identity.
        gain: The gain, one number. Training changes both.

    Raises:
        ValueError: If M or the gain has another shape or is not finite.

    Source: Nadaraya (1964); Watson (1964); as attention, Tsai et al. (EMNLP 2019),
    arXiv 1908.11775.
    """

    metric: Float[Array, ""] | Float[Array, "d d"] = eqx.field(converter=jnp.asarray)
    gain: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=1.0, kw_only=True)

    def __check_init__(self):
        require_shape("metric", self.metric, (), 2 * self.metric.shape[-1:])
        require_shape("gain", self.gain, ())

    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        require_shape("metric", self.metric, (), (prompt.dim, prompt.dim))
        scores = prompt.xs @ jnp.dot(self.metric, prompt.query)
        return self.gain * (jax.nn.softmax(scores) @ prompt.ys)
