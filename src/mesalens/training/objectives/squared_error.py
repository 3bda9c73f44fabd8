"""The squared error on fresh prompts."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.training.objectives.base import SampledObjective


class SquaredError(SampledObjective):
    """The mean of `‖ŷ - y_query‖²` on fresh prompts.

    It is an unbiased estimate of the risk, and its gradient one of the gradient of the risk.
    """

    def terms(
        self, predictions: Float[Array, "batch m"], targets: Float[Array, "batch m"]
    ) -> Float[Array, " batch"]:
        return jnp.sum((predictions - targets) ** 2, axis=-1)
