"""`NumpyLearner`: any function of batches of prompts in NumPy, as a learner."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens.checks import InputError
from mesalens.learners import Learner
from mesalens.prompt import Prompt


class NumpyLearner(Learner):
    """A learner from a function that maps a batch of prompts to predictions through NumPy.

    The function is called from compiled programs (`jax.pure_callback`), with as many prompts at
    once as they map over. Risks, comparisons and plots take the learner as any other. It cannot be
    differentiated, so that measures of sensitivity and training are not available. Predictions
    that are NaN give a risk of NaN.

    Where a program is compiled, the function is first called with two random prompts of the same
    sizes, so that a function that does not fit is reported before anything runs. An exception on
    later prompts is a `jax.errors.JaxRuntimeError` that contains its traceback.

    Args:
        function: takes `xs` of shape (N, n, d), `ys` (N, n, m) and `queries` (N, d), float arrays,
            and returns the N predictions, (N, m). It is hashable, and gives the same predictions
            whenever it is called with the same prompts.

    Raises:
        ValueError: if the function is not callable; where the learner is called, if the function
            fails or does not return real numbers of shape (N, m).
    """

    differentiable = False

    function: Callable[..., Any] = eqx.field(static=True)

    def __check_init__(self):
        if not callable(self.function) or not isinstance(self.function, Hashable):
            raise InputError(f"function must be callable and hashable; got {self.function!r}.")

    def __call__(self, prompt: Prompt) -> Float[Array, " m"]:
        _try(self.function, prompt.context_length, prompt.dim, prompt.outputs)
        return _predict(self.function, prompt.xs, prompt.ys, prompt.query)


@functools.lru_cache(maxsize=64)
def _try(function: Callable[..., Any], n: int, d: int, m: int) -> None:
    """Calls the function with two random prompts. Successes are cached, failures are not."""
    rng = np.random.default_rng(0)
    shapes = (2, n, d), (2, n, m), (2, d)
    xs, labels, queries = (rng.standard_normal(shape, np.float32) for shape in shapes)
    if m > 1:
        # One-hot labels suit both kinds of learner: classifiers refuse other numbers
        labels = np.resize(np.eye(m, dtype=np.float32), labels.shape)
    try:
        _call(function, xs, labels, queries)
    except InputError:
        raise
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{_name(function)} failed on two random prompts: {cause}.") from error


def _call(function, xs, ys, queries) -> np.ndarray:
    predictions = np.asarray(function(xs, ys, queries))
    expected = (len(queries), ys.shape[-1])
    if predictions.shape != expected or predictions.dtype.kind not in "iuf":
        raise InputError(
            f"{_name(function)} must return real numbers of shape {expected}; got "
            f"{predictions.dtype} of shape {predictions.shape}."
        )
    return predictions


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _predict(function, xs, ys, query):
    dtype = jnp.result_type(xs, ys, query)

    def on_host(xs, ys, query):
        # Axes of vmap come first, one behind the other; the function sees a single one
        leading = query.shape[:-1]
        parts = ((xs, 2), (ys, 2), (query, 1))
        flat = [np.asarray(x, dtype).reshape(-1, *x.shape[x.ndim - own :]) for x, own in parts]
        return _call(function, *flat).reshape(*leading, ys.shape[-1]).astype(dtype)

    result = jax.ShapeDtypeStruct(ys.shape[-1:], dtype)
    return jax.pure_callback(on_host, result, xs, ys, query, vmap_method="broadcast_all")


@_predict.defjvp
def _no_derivative(function, primals, tangents):
    raise InputError(f"NumpyLearner({_name(function)}) cannot be differentiated by JAX.")


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)
