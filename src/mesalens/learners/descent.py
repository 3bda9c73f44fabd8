"""`Descent`: learners that change weights step by step."""

import abc
from typing import Any

import equinox as eqx
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens.checks import InputError, count
from mesalens.learners.base import IterativeLearner, optional_array
from mesalens.prompt import Prompt


class Descent(IterativeLearner):
    """k steps from W_0 down a loss of the context, then `ŷ = W_k x_query`; which loss and which step is said by who inherits.

    `step_size` is η, one number for all steps or one for each, `initial_weights` is W_0, zero where it is not given.

    Raises `ValueError` where η has another shape or is not finite, or W_0 is no m × d matrix (d and m as in the prompt).
    """

    step_size: Float[Array, ""] | Float[Array, " steps"] = eqx.field(converter=jnp.asarray)
    steps: int = eqx.field(static=True, default=1)
    initial_weights: Float[Array, "m d"] | None = eqx.field(converter=optional_array, default=None, kw_only=True)

    def __check_init__(self):
        count("steps", self.steps)
        require_rates("step_size", self.step_size, self.steps)
        if self.initial_weights is not None and self.initial_weights.ndim != 2:
            raise InputError(f"initial_weights has shape {self.initial_weights.shape}; give a matrix, m × d.")

    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        return self.weights(prompt) @ prompt.query

    def iterates(self, prompt: Prompt) -> Float[Array, "iterates m"]:
        return self.trajectory(prompt) @ prompt.query

    def weights(self, prompt: Prompt) -> Float[Array, "m d"]:
        """W_k, the weights after the last step."""
        return self._descend(prompt, self._start(prompt))[0]

    def trajectory(self, prompt: Prompt) -> Float[Array, "iterates m d"]:
        """W_0, …, W_k, the weights before the first and after every step."""
        start = self._start(prompt)
        return jnp.concatenate([start[None], self._descend(prompt, start)[1]])

    @abc.abstractmethod
    def _descend(self, prompt: Prompt, start: Float[Array, "m d"]) -> tuple[Array, Array]:
        """The last weights, and those after every step."""

    def _start(self, prompt: Prompt) -> Float[Array, "m d"]:
        dtype = jnp.result_type(*jax.tree.leaves((self, prompt)))
        if self.initial_weights is None:
            return jnp.zeros((prompt.outputs, prompt.dim), dtype)
        require_shape("initial_weights", self.initial_weights, (prompt.outputs, prompt.dim))
        return self.initial_weights.astype(dtype)


def require_rates(name: str, rate: Any, steps: int) -> None:
    """Raises where a rate is neither one finite number nor one for each step. Values that JAX is tracing may be anything."""
    if rate.shape not in ((), (steps,)):
        raise InputError(f"{name} has shape {rate.shape}; give one number, or one for each of {steps} steps.")
    if not isinstance(rate, jax.core.Tracer) and not np.isfinite(rate).all():
        raise InputError(f"{name} is {rate.tolist()}; give finite numbers.")


def require_shape(name: str, matrix: Array, shape: tuple[int, ...]) -> None:
    """Raises where a matrix that was given does not fit a prompt's d and m."""
    if matrix.shape != shape:
        raise InputError(f"{name} has shape {matrix.shape}; give {shape}, as d and m of the prompt ask.")
