"""The squared error on fresh prompts."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.training.objectives.base import SampledObjective


class SquaredError(SampledObjective):
    """The mean of `‖ŷ - y_query‖²`: an unbiased estimate of the risk, and of its gradient."""

    def terms(
        self, predictions: Float[Array, "batch m"], targets: Float[Array, "batch m"]
    ) -> Float[Array, " batch"]:
        return jnp.sum((predictions - targets) ** 2, axis=-1)
