"""The mean of the context's labels."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.learners.base import Learner
from mesalens.prompt import Prompt


class MeanLabel(Learner):
    """The mean label of the context, `ŷ = 1/n Σ_i y_i`, independent of all inputs.

    It is least squares for constant functions, `KNearestNeighbours` with k = n, `SoftmaxHead`
    with a metric of 0, and the limit of `KernelSmoother` for a large bandwidth.
    """

    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        return jnp.mean(prompt.ys, axis=0)
