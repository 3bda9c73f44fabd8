"""Kernel smoothing of the context's labels, which is one head of softmax attention."""

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens.checks import InputError
from mesalens.learners.base import Learner
from mesalens.prompt import Prompt


class NadarayaWatson(Learner):
    """The mean of the labels, weighted by the exponential kernel of their covariates and the query, times a gain.

        ŷ = gain Σ_i y_i exp(x_i^T M x_q) / Σ_i exp(x_i^T M x_q)

    `metric` is M, a d × d matrix or one number (times the identity); training changes it and the gain.

    It is what one head of softmax attention predicts whose keys and queries read x alone and whose values read y:
    `W_K^T W_Q = diag(M, 0)`, and the gain is the scale of the values. For M = 0 it is the mean label; as a positive M grows without
    bound, the label of the example with the largest inner product. For covariates of one length, as on a sphere, M = I / h² is the
    Nadaraya-Watson estimator with the Gaussian kernel of bandwidth h, since `x_i · x_q = const - ‖x_i - x_q‖² / 2`.

    Raises `ValueError` where M is neither a number nor d × d, a value is not finite, or the prompt is condensed.

    Source: Nadaraya (1964); Watson (1964); as attention, Tsai et al. (EMNLP 2019), arXiv 1908.11775.
    """

    metric: Float[Array, ""] | Float[Array, "d d"] = eqx.field(converter=jnp.asarray)
    gain: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=1.0, kw_only=True)

    def __check_init__(self):
        if self.metric.ndim not in (0, 2):
            raise InputError(f"the metric has shape {self.metric.shape}; give one number, or d × d.")
        if self.gain.ndim != 0:
            raise InputError(f"the gain has shape {self.gain.shape}; give one number.")
        for name, value in (("metric", self.metric), ("gain", self.gain)):
            if not isinstance(value, jax.core.Tracer) and not np.isfinite(value).all():
                raise InputError(f"the {name} is {value.tolist()}; give finite numbers.")

    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        if prompt.condensed:
            raise InputError(
                "kernel smoothing weighs single examples, and the rows of a condensed prompt are none; give the examples themselves."
            )
        if self.metric.ndim == 2 and self.metric.shape != (prompt.dim, prompt.dim):
            raise InputError(
                f"the metric has shape {self.metric.shape} and the prompt d = {prompt.dim}; give one number, or d × d."
            )
        reading = self.metric * prompt.query if self.metric.ndim == 0 else self.metric @ prompt.query
        return self.gain * (jax.nn.softmax(prompt.xs @ reading) @ prompt.ys)
