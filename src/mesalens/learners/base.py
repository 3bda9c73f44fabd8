"""`Learner`: a function from a prompt to a prediction."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from mesalens.prompt import Prompt


class Learner(eqx.Module):
    """An in-context learner: algorithms and models alike. One prompt in, one prediction out; `jax.vmap` it for batches."""

    @abc.abstractmethod
    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        """The prediction of `y_query`."""

    def batch(self, prompts: Prompt) -> Float[Array, "batch m"]:
        """The predictions for a batch of prompts: `jax.vmap` of the call, or a faster way to the same where a learner knows one."""
        return jax.vmap(self)(prompts)

    def trainable(self) -> PyTree[bool]:
        """Which leaves training changes: a tree like this one, with a boolean at each leaf. By default every float array."""
        return jax.tree.map(eqx.is_inexact_array, self)


class IterativeLearner(Learner):
    """A learner that answers in steps: one prediction after each, the last of them its answer.

    Steps of an algorithm and layers of a transformer are the same to whatever sets learners side by side by depth.
    """

    @abc.abstractmethod
    def iterates(self, prompt: Prompt) -> Float[Array, "iterates m"]:
        """The predictions before the first and after every step."""

    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        return self.iterates(prompt)[-1]


def take_steps(
    step: Callable[[Any, Any], tuple[Any, Any]], state: PyTree, inputs: PyTree, steps: int
) -> tuple[PyTree, PyTree]:
    """`jax.lax.scan` over the steps of an algorithm; one step is taken without a loop to compile."""
    if steps > 1:
        return jax.lax.scan(step, state, inputs, length=steps)
    state, output = step(state, jax.tree.map(lambda leaf: leaf[0], inputs))
    return state, jax.tree.map(lambda leaf: leaf[None], output)


def optional_array(value: Any) -> Array | None:
    """The converter of fields that may be left out."""
    return None if value is None else jnp.asarray(value)
