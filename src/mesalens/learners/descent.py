"""`Descent`: learners that change weights step by step."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens.checks import InputError, count
from mesalens.learners.base import IterativeLearner, floats, optional_array
from mesalens.prompt import AnyPrompt


class Descent(IterativeLearner):
    """k steps down a loss of the context from W_0, then `ŷ = W_k x_query`.

    Subclasses define the loss and the step. The fields named in `rates` are each one number for all
    steps or one for each; training changes them.

    Attributes:
        step_size: Step size η, of shape () or (steps,).
        steps: Number of steps k.
        initial_weights: W_0, of shape (m, d). Zero by default.
        rates: Names of the fields that hold rates.

    Raises:
        ValueError: If a rate has another shape or is not finite, or W_0 is not m × d.
    """

    rates: ClassVar[tuple[str, ...]] = ("step_size",)
    may_end_before: ClassVar[tuple[str, ...]] = ()
    """Rates that have no effect in the last step; the last value may be omitted."""
    fixed = ("initial_weights",)

    step_size: Float[Array, ""] | Float[Array, " steps"] = eqx.field(converter=floats)
    steps: int = eqx.field(static=True, default=1)
    initial_weights: Float[Array, "m d"] | None = optional_array()

    def __check_init__(self):
        count("steps", self.steps)
        for name in self.rates:
            if (rate := getattr(self, name)) is not None:
                shorter = [(self.steps - 1,)] if name in self.may_end_before else []
                require_shape(name, rate, (), (self.steps,), *shorter)
        if self.initial_weights is not None and self.initial_weights.ndim != 2:
            raise InputError(
                f"initial_weights must have shape (m, d); got {self.initial_weights.shape}."
            )

    def __call__(self, prompt: AnyPrompt) -> Float[Array, " m"]:
        return self.weights(prompt) @ prompt.query

    def iterates(self, prompt: AnyPrompt) -> Float[Array, "iterates m"]:
        return self.trajectory(prompt) @ prompt.query

    def weights(self, prompt: AnyPrompt) -> Float[Array, "m d"]:
        """W_k, the weights after the last step, of shape (m, d).

        Args:
            prompt: One prompt.
        """
        return self._descend(prompt, self._start(prompt))[0]

    def trajectory(self, prompt: AnyPrompt) -> Float[Array, "iterates m d"]:
        """The weights W_0, …, W_k before and after every step, of shape (steps + 1, m, d).

        Args:
            prompt: One prompt.
        """
        start = self._start(prompt)
        return jnp.concatenate([start[None], self._descend(prompt, start)[1]])

    @abc.abstractmethod
    def _descend(self, prompt: Any, start: Float[Array, "m d"]) -> tuple[Array, Array]:
        """The last weights, and those after every step."""

    def _rates(self) -> tuple[Float[Array, " steps"] | None, ...]:
        """The rates of every step, in the order of `rates`."""

        def in_steps(rate: Array) -> Array:
            ends_before = rate.shape == (self.steps - 1,)
            return jnp.append(rate, 0) if ends_before else jnp.broadcast_to(rate, (self.steps,))

        return jax.tree.map(in_steps, tuple(getattr(self, name) for name in self.rates))

    def _start(self, prompt: AnyPrompt) -> Float[Array, "m d"]:
        dtype = jnp.result_type(*jax.tree.leaves((self, prompt)))
        shape = (prompt.outputs, prompt.dim)
        if self.initial_weights is None:
            return jnp.zeros(shape, dtype)
        require_shape("initial_weights", self.initial_weights, shape)
        return self.initial_weights.astype(dtype)


def require_shape(name: str, array: Array, *shapes: tuple[int, ...]) -> None:
    """Raises `ValueError` unless an array has one of the shapes, and is finite or traced by JAX."""
    if array.shape not in shapes:
        expected = " or ".join(map(str, shapes))
        raise InputError(f"{name} must have shape {expected}; got {array.shape}.")
    if not isinstance(array, jax.core.Tracer) and not np.isfinite(array).all():
        raise InputError(f"{name} must be finite; got {array.tolist()}.")
