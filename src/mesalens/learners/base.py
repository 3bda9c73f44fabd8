"""`Learner`: a function from a prompt to a prediction."""

import abc
import sys
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import wadler_lindig
from jaxtyping import Array, Float, PyTree

from mesalens.checks import InputError
from mesalens.display import InNotebook, Summary, fields, number
from mesalens.prompt import AnyPrompt, CondensedPrompt, no_examples

AnyLearner = Callable[[Any], Any]
"""A `Learner`, or any function of one prompt that JAX can trace."""

Offer = TypeVar("Offer")


class Learner(eqx.Module, InNotebook):
    """An in-context learner, an algorithm or a model: `prediction = learner(prompt)`.

    It takes one prompt; use `jax.vmap` or `batch` for several. Class variables say what a learner
    offers beyond its predictions.

    To write your own, subclass it and define `__call__`.

    Attributes:
        sees_only_sum: Whether the learner uses the context only through S and n, so that condensed
            prompts suffice. It then reads `prompt.rows` instead of `xs` and `ys`.
        differentiable: Whether JAX can differentiate the predictions.
        fixed: Names of the fields that training does not change (`"part.field"` for a field of a
            part).

    Examples:
        >>> import jax.numpy as jnp
        >>> from mesalens import Learner, Prompt
        >>> class LastLabel(Learner):
        ...     def __call__(self, prompt):
        ...         return prompt.ys[-1]
        >>> print(LastLabel()(Prompt([[1.0], [2.0]], [[3.0], [5.0]], [1.5])))
        [5.]
    """

    sees_only_sum: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True
    fixed: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def __call__(self, prompt: Any) -> Float[Array, " m"]:
        """The prediction of `y_query` for one prompt.

        Args:
            prompt: A `Prompt`, or a `CondensedPrompt` if the learner `sees_only_sum`.

        Returns:
            The prediction, of shape (m,).
        """

    def __repr__(self) -> str:
        return wadler_lindig.pformat(self, custom=number)

    def _summary(self) -> Summary:
        leaves = zip(jax.tree.leaves(self), jax.tree.leaves(self.trainable()), strict=True)
        changed = sum(leaf.size for leaf, changes in leaves if changes)
        trainable = {"trainable numbers": f"{changed:,}"} if changed else {}
        return Summary(rows=fields(self) | trainable)

    def batch(self, prompts: Any) -> Float[Array, "batch m"]:
        """The predictions for a batch of prompts: `jax.vmap` of the call, or a faster equivalent.

        Args:
            prompts: Prompts with one leading axis.

        Returns:
            The predictions, of shape (batch, m).
        """
        return jax.vmap(self)(prompts)

    def spectral_filter(
        self, eigenvalues: Float[np.ndarray, "*batch d"], context_length: int
    ) -> Float[np.ndarray, "*batch d"]:
        """The spectral filter g of a learner of the form `ŷ = Y^T X U g(λ) U^T x_query / n`.

        Here `X^T X / n = U diag(λ) U^T`. A learner that starts from W_0 predicts `W_0 x_query` plus
        this form applied to the labels `y - W_0 x`. Most learners do not have this form.

        Args:
            eigenvalues: The eigenvalues λ of each context, all d of them, in ascending order, in
                float64.
            context_length: The number n of examples.

        Returns:
            The values g(λ), of the shape of `eigenvalues`.

        Raises:
            ValueError: If the class, or this learner, has no filter.
        """
        raise InputError(f"{type(self).__name__} has no spectral filter.")

    def trainable(self) -> PyTree[bool]:
        """Which leaves training changes: float arrays that do not belong to a `fixed` field.

        Returns:
            A pytree of the learner's structure with a boolean for each leaf.
        """
        fixed = tuple(f"{name}." for name in self.fixed)

        def changes(path, leaf):
            place = jax.tree_util.keystr(path, simple=True, separator=".")
            return eqx.is_inexact_array(leaf) and not f"{place}.".startswith(fixed)

        return jax.tree_util.tree_map_with_path(changes, self)


class IterativeLearner(Learner):
    """A learner that works in steps: its prediction is the last of its iterates.

    The steps of an algorithm and the layers of a transformer are the same to an analysis by depth.
    Subclasses define `iterates`.
    """

    @abc.abstractmethod
    def iterates(self, prompt: Any) -> Float[Array, "iterates m"]:
        """The predictions before the first step and after every step.

        Args:
            prompt: One prompt.

        Returns:
            The predictions, of shape (steps + 1, m).
        """

    def __call__(self, prompt: Any) -> Float[Array, " m"]:
        return self.iterates(prompt)[-1]


def predict(learner: AnyLearner, prompt: AnyPrompt) -> Float[Array, " m"]:
    """`learner(prompt)`, checked: every measurement and training calls learners through here.

    Raises:
        ValueError: if the prompt is condensed and the learner needs its examples, or the prediction
            is not an array of shape (m,).
    """
    return _checked(learner, learner, prompt, ())


def predict_batch(learner: Learner, prompts: AnyPrompt) -> Float[Array, "batch m"]:
    """`learner.batch(prompts)`, checked as in `predict`."""
    return _checked(learner, learner.batch, prompts, (len(prompts.query),))


def predict_iterates(learner: AnyLearner, prompt: AnyPrompt) -> Float[Array, "iterates m"]:
    """`learner.iterates(prompt)`, checked as in `predict`.

    A learner that does not answer in steps has one iterate, its prediction.
    """
    if not isinstance(learner, IterativeLearner):
        return predict(learner, prompt)[None]
    return _checked(learner, learner.iterates, prompt, None)


def _checked(
    learner: AnyLearner, answer: AnyLearner, prompt: AnyPrompt, leading: tuple[int, ...] | None
) -> Array:
    """`answer(prompt)`, with the given axes before that of outputs; None for one of any length."""
    name = getattr(learner, "__name__", type(learner).__name__)
    if not isinstance(learner, Learner) and _is_foreign(learner):
        raise InputError(
            f"{name} is not a function of a prompt; make a learner of it with "
            "mesalens.adapters.as_learner."
        )
    needs_examples = isinstance(learner, Learner) and not learner.sees_only_sum
    if needs_examples and isinstance(prompt, CondensedPrompt):
        raise no_examples(name)
    prediction = answer(prompt)
    shape = getattr(prediction, "shape", None)
    expected = (*((shape or ())[:1] if leading is None else leading), prompt.outputs)
    if shape != expected:
        returned = f"a {type(prediction).__name__}" if shape is None else f"shape {shape}"
        raise InputError(
            f"the learner {name} returned {returned}; its prediction must have shape {expected}."
        )
    return prediction


def _is_foreign(learner: Any) -> bool:
    """Whether this is an estimator of scikit-learn, a module of PyTorch or no function at all."""
    torch = sys.modules.get("torch")  # not imported: then nothing can be one of its modules
    module = torch is not None and isinstance(learner, torch.nn.Module)
    return module or not callable(learner) or all(hasattr(learner, n) for n in ("fit", "predict"))


def take_steps(
    step: Callable[[Any, Any], tuple[Any, Any]], state: PyTree, inputs: PyTree, steps: int
) -> tuple[PyTree, PyTree]:
    """`jax.lax.scan` over the steps of an algorithm; one step is taken without compiling a loop."""
    if steps > 1:
        return jax.lax.scan(step, state, inputs, length=steps)
    state, output = step(state, jax.tree.map(lambda leaf: leaf[0], inputs))
    return state, jax.tree.map(lambda leaf: leaf[None], output)


def floats(value: Any) -> Array:
    """The value as an array of floating-point numbers; integers would not be trained."""
    # `jnp.asarray` would compile a program for each shape of NumPy arrays
    array = jax.device_put(value) if isinstance(value, np.ndarray) else jnp.asarray(value)
    return array if jnp.issubdtype(array.dtype, jnp.inexact) else array.astype(float)


def optional_array() -> Any:
    """A keyword-only field for an array, None by default."""
    return eqx.field(
        converter=lambda x: None if x is None else floats(x), default=None, kw_only=True
    )


def require(learner: Any, kind: type[Offer], name: str) -> Offer:
    """The learner, if it is an instance of a class.

    Raises:
        ValueError: if it is not; `name` is what needs it.
    """
    if not isinstance(learner, kind):
        given = type(learner).__name__
        raise InputError(f"{name} needs a learner of class {kind.__name__}; got {given}.")
    return learner


def is_differentiable(learner: AnyLearner) -> bool:
    """Whether JAX can differentiate a learner, as its class says; most functions it can."""
    return getattr(learner, "differentiable", True)
