"""`Learner`: a function from a prompt to a prediction."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import wadler_lindig
from jaxtyping import Array, Float, PyTree

from mesalens.checks import InputError
from mesalens.prompt import AnyPrompt, CondensedPrompt, no_examples

AnyLearner = Callable[[Any], Any]
"""A `Learner`, or any function of one prompt that JAX can trace."""

Offer = TypeVar("Offer")


class Learner(eqx.Module):
    """An in-context learner: algorithms and models alike, `prediction = learner(prompt)`.

    It takes one prompt; `jax.vmap` it for batches. What it offers beyond predictions is said in
    its class: `sees_only_sum`, that it sees the context through S and n alone, so that condensed
    prompts are enough (it then reads `prompt.rows`); `differentiable`, that JAX can differentiate
    its predictions.
    """

    sees_only_sum: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    @abc.abstractmethod
    def __call__(self, prompt: Any) -> Float[Array, " m"]:
        """The prediction of `y_query` for one prompt."""

    def __repr__(self) -> str:
        return wadler_lindig.pformat(self, custom=_number)

    def batch(self, prompts: Any) -> Float[Array, "batch m"]:
        """The predictions for a batch: `jax.vmap` of the call, or a faster way to the same."""
        return jax.vmap(self)(prompts)

    def trainable(self) -> PyTree[bool]:
        """Which leaves training changes, a boolean for each; by default every float array."""
        return jax.tree.map(eqx.is_inexact_array, self)


class IterativeLearner(Learner):
    """A learner that answers in steps; its prediction is the last of its iterates.

    Steps of an algorithm and layers of a transformer are the same to analyses by depth.
    """

    @abc.abstractmethod
    def iterates(self, prompt: Any) -> Float[Array, "iterates m"]:
        """The predictions before the first and after every step."""

    def __call__(self, prompt: Any) -> Float[Array, " m"]:
        return self.iterates(prompt)[-1]


def predict(learner: AnyLearner, prompt: AnyPrompt) -> Float[Array, " m"]:
    """`learner(prompt)`, checked: every measurement and training calls learners through here.

    Raises:
        ValueError: if the prompt is condensed and the learner needs its examples, or the prediction
            is not an array of shape (m,).
    """
    require_readable(learner, prompt)
    return _of_shape(learner(prompt), (prompt.outputs,), learner)


def predict_batch(learner: Learner, prompts: AnyPrompt) -> Float[Array, "batch m"]:
    """`learner.batch(prompts)`, checked as in `predict`."""
    require_readable(learner, prompts)
    return _of_shape(learner.batch(prompts), (len(prompts.query), prompts.outputs), learner)


def predict_iterates(learner: AnyLearner, prompt: AnyPrompt) -> Float[Array, "iterates m"]:
    """`learner.iterates(prompt)`, checked as in `predict`.

    A learner that does not answer in steps has one iterate, its prediction.
    """
    if not isinstance(learner, IterativeLearner):
        return predict(learner, prompt)[None]
    require_readable(learner, prompt)
    iterates = learner.iterates(prompt)
    return _of_shape(iterates, (*jnp.shape(iterates)[:1], prompt.outputs), learner)


def require_readable(learner: AnyLearner, prompt: AnyPrompt) -> None:
    """Raises `ValueError` if the prompt is condensed and the learner's class needs examples."""
    needs_examples = isinstance(learner, Learner) and not learner.sees_only_sum
    if needs_examples and isinstance(prompt, CondensedPrompt):
        raise no_examples(type(learner).__name__)


def _of_shape(prediction: Any, shape: tuple[int, ...], learner: AnyLearner) -> Array:
    found = getattr(prediction, "shape", None)
    if found != shape:
        name = getattr(learner, "__name__", type(learner).__name__)
        returned = f"a {type(prediction).__name__}" if found is None else f"shape {found}"
        raise InputError(
            f"the learner {name} returned {returned}; its prediction must have shape {shape}."
        )
    return prediction


def take_steps(
    step: Callable[[Any, Any], tuple[Any, Any]], state: PyTree, inputs: PyTree, steps: int
) -> tuple[PyTree, PyTree]:
    """`jax.lax.scan` over the steps of an algorithm; one step is taken without compiling a loop."""
    if steps > 1:
        return jax.lax.scan(step, state, inputs, length=steps)
    state, output = step(state, jax.tree.map(lambda leaf: leaf[0], inputs))
    return state, jax.tree.map(lambda leaf: leaf[None], output)


def optional_array() -> Any:
    """A keyword-only field for an array, None by default."""

    def convert(value):
        return None if value is None else jnp.asarray(value)

    return eqx.field(converter=convert, default=None, kw_only=True)


def require(learner: Any, kind: type[Offer], name: str) -> Offer:
    """The learner, if it is of a class that has what is asked for.

    Raises:
        ValueError: if it is not; `name` is what asks for it.
    """
    if not isinstance(learner, kind):
        given = type(learner).__name__
        raise InputError(f"{name} is defined for a {kind.__name__}; got a {given}.")
    return learner


def is_differentiable(learner: AnyLearner) -> bool:
    """Whether JAX can differentiate a learner, as its class says; most functions it can."""
    return getattr(learner, "differentiable", True)


def _number(leaf: Any) -> wadler_lindig.AbstractDoc | None:
    """A number as text; arrays and traced numbers as their types and shapes."""
    number = eqx.is_array(leaf) and leaf.shape == () and eqx.is_inexact_array(leaf)
    if number and not isinstance(leaf, jax.core.Tracer):
        return wadler_lindig.TextDoc(f"{float(leaf):.7g}")
    return None
