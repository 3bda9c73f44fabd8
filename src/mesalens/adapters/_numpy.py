"""`NumpyLearner`: any function of batches of prompts in NumPy, as a learner."""

import functools
import hashlib
import io
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens.adapters._fit import PromptError, reason_of
from mesalens.checks import InputError
from mesalens.files import replace_file
from mesalens.learners import Learner
from mesalens.prompt import Prompt


class NumpyLearner(Learner):
    """A learner from a function that maps a batch of prompts to predictions through NumPy.

    The function is called from compiled programs (`jax.pure_callback`), with as many prompts at
    once as they map over. Risks, comparisons and plots take the learner as any other. It cannot be
    differentiated, so that measures of sensitivity and training are not available. Predictions
    that are NaN give a risk of NaN.

    Where a program is compiled, the function is first called with two random prompts of the same
    sizes, so that a function that does not fit is reported before anything runs. If it fails on
    later prompts, JAX raises a `jax.errors.JaxRuntimeError` with the sentence of `predict`.

    Args:
        function: takes `xs` of shape (N, n, d), `ys` (N, n, m) and `queries` (N, d), float arrays,
            and returns the N predictions, (N, m), or (N,) if m = 1. It is hashable, and gives the
            same predictions whenever it is called with the same prompts.

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

    def predict(
        self,
        xs: Float[np.ndarray, "batch n d"],
        ys: Float[np.ndarray, "batch n m"],
        queries: Float[np.ndarray, "batch d"],
        *,
        keep: bool = True,
        finite: bool = True,
    ) -> Float[np.ndarray, "batch m"]:
        """The predictions for a batch of prompts, without JAX and in the function's own precision.

        If the function fails, the prompt at which it does is found and written to the current
        folder as `mesalens-prompt-….npz` (arrays `xs`, `ys` and `query`).

        Args:
            xs: covariates.
            ys: labels.
            queries: the covariates whose labels are asked for.
            keep: whether to find and write the prompt at which the function fails.
            finite: whether to refuse predictions that are NaN or infinite.

        Raises:
            ValueError: if the function fails, if it does not return real numbers of shape
                (batch, m), or if any of them is NaN or infinite.
        """
        predictions = _call_or_keep(self.function, xs, ys, queries, keep=keep)
        if not finite:
            return predictions if predictions.dtype.kind == "f" else predictions.astype(float)
        lost = int((~np.isfinite(predictions)).any(-1).sum())
        if lost:
            raise InputError(
                f"{_name(self.function)} returned NaN or infinite predictions for {lost} of "
                f"{len(queries)} prompts."
            )
        return predictions if predictions.dtype.kind == "f" else predictions.astype(float)


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
        raise InputError(
            f"{_name(function)} failed on two random prompts: {_reason(error)}."
        ) from error


def _call(function, xs, ys, queries) -> np.ndarray:
    # Copies: a function may write into its arguments, and these are the caller's
    predictions = np.asarray(function(xs.copy(), ys.copy(), queries.copy()))
    expected = (len(queries), ys.shape[-1])
    if expected[1] == 1 and predictions.shape == expected[:1]:
        predictions = predictions[:, None]
    if predictions.shape != expected or predictions.dtype.kind not in "iuf":
        raise InputError(
            f"{_name(function)} must return real numbers of shape {expected}; got "
            f"{predictions.dtype} of shape {predictions.shape}."
        )
    return predictions


Prompts = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Covariates (N, n, d), labels (N, n, m) and queries (N, d)."""


def _call_or_keep(
    function: Callable[..., Any],
    xs: np.ndarray,
    ys: np.ndarray,
    queries: np.ndarray,
    *,
    keep: bool = True,
) -> np.ndarray:
    try:
        return _call(function, xs, ys, queries)
    except InputError:
        raise
    except Exception as error:
        if not keep:
            raise InputError(f"{_name(function)} failed: {_reason(error)}.") from error
        raise _failure(function, (xs, ys, queries), error) from error


def _failure(function: Callable[..., Any], prompts: Prompts, error: Exception) -> InputError:
    """The error of a function that failed on these prompts; the smallest part that fails is kept.

    Halves are tried again and again, which calls the function with twice as many prompts in all.
    """
    total, first = len(prompts[0]), 0
    if isinstance(error, PromptError):
        first = error.index
        prompts = _part(prompts, first, first + 1)
    while (size := len(prompts[0])) > 1:
        for low, high in ((0, size // 2), (size // 2, size)):
            part = _part(prompts, low, high)
            try:
                _call(function, *part)
            except Exception as smaller:
                prompts, first, error = part, first + low, smaller
                break
        else:
            break  # it fails on this batch alone
    size = len(prompts[0])
    which = f"prompt {first}" if size == 1 else f"prompts {first} to {first + size - 1}"
    return InputError(
        f"{_name(function)} failed on {which} of {total} ({_keep(prompts)}): {_reason(error)}."
    )


def _part(prompts: Prompts, low: int, high: int) -> Prompts:
    xs, ys, queries = prompts
    return xs[low:high], ys[low:high], queries[low:high]


def _keep(prompts: Prompts) -> str:
    """Writes prompts to the current folder; says where. A single one has no axis of the batch."""
    if len(prompts[0]) == 1:
        prompts = (prompts[0][0], prompts[1][0], prompts[2][0])
    xs, ys, query = map(np.ascontiguousarray, prompts)
    content = xs.tobytes() + ys.tobytes() + query.tobytes()
    file = Path(f"mesalens-prompt-{hashlib.sha256(content).hexdigest()[:8]}.npz")
    buffer = io.BytesIO()
    np.savez(buffer, xs=xs, ys=ys, query=query)
    try:
        replace_file(file, buffer.getvalue())
    except (OSError, InputError) as error:
        return f"{file} cannot be written: {reason_of(error)}"
    return f"kept in {file}"


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, PromptError) else reason_of(error)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _predict(function, xs, ys, query):
    dtype = jnp.result_type(xs, ys, query)

    def on_host(xs, ys, query):
        # Axes of vmap come first, one behind the other; the function sees a single one
        leading = query.shape[:-1]
        parts = ((xs, 2), (ys, 2), (query, 1))
        flat = [np.asarray(x, dtype).reshape(-1, *x.shape[x.ndim - own :]) for x, own in parts]
        return _call_or_keep(function, *flat).reshape(*leading, ys.shape[-1]).astype(dtype)

    result = jax.ShapeDtypeStruct(ys.shape[-1:], dtype)
    return jax.pure_callback(on_host, result, xs, ys, query, vmap_method="broadcast_all")


@_predict.defjvp
def _no_derivative(function, primals, tangents):
    raise InputError(f"NumpyLearner({_name(function)}) cannot be differentiated by JAX.")


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)
