"""`NumpyLearner`: any function of batches of prompts in NumPy, as a learner."""

import functools
import hashlib
import inspect
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
    """A learner made of a NumPy function that maps a batch of prompts to predictions.

    Compiled programs call the function through `jax.pure_callback`, with as many prompts at once as
    they map over. Risks, comparisons and plots take the learner like any other. It cannot be
    differentiated, so that training and measures of sensitivity are not available. A prediction
    that is NaN gives a risk of NaN.

    When a program is compiled, the function is first called with two random prompts of the same
    sizes, so that a function with a wrong result is reported before anything runs. If it fails on
    later prompts, JAX raises a `jax.errors.JaxRuntimeError` with the message of `predict`.

    Attributes:
        function: Takes `xs` of shape (N, n, d), `ys` of shape (N, n, m) and `queries` of shape
            (N, d), arrays of floats, and returns N predictions, of shape (N, m), or (N,) if m = 1.
            It must be hashable, and return the same predictions for the same prompts.

    Raises:
        ValueError: If the function is not callable and hashable; on a call, if the function fails
            or does not return real numbers of shape (N, m).

    Examples:
        The mean label of each context:

        >>> from mesalens import Prompt, adapters
        >>> mean = adapters.NumpyLearner(lambda xs, ys, queries: ys.mean(axis=1))
        >>> print(mean(Prompt([[1.0], [2.0]], [[3.0], [5.0]], [1.5])))
        [4.]
    """

    differentiable = False

    function: Callable[..., Any] = eqx.field(static=True)

    def __check_init__(self):
        if not callable(self.function) or not isinstance(self.function, Hashable):
            raise InputError(f"function must be callable and hashable; got {self.function!r}.")

    def __repr__(self) -> str:
        return eqx.tree_pformat(self, width=10**9)  # in one line

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

        If the function fails, this finds the prompt at which it fails and writes it to the current
        folder as `mesalens-prompt-….npz` (arrays `xs`, `ys` and `query`).

        Args:
            xs: Covariates, of shape (batch, n, d).
            ys: Labels, of shape (batch, n, m).
            queries: The covariates whose labels are to be predicted, of shape (batch, d).
            keep: Whether to find and write the prompt at which the function fails.
            finite: Whether to raise an error for predictions that are NaN or infinite.

        Returns:
            The predictions, of shape (batch, m).

        Raises:
            ValueError: If the function fails, if it does not return real numbers of shape
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
            f"{_name(function)} failed on two random prompts: {_reason(error)}"
            f"{_about_batches(function, error)}."
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
    # A function that is written for one prompt fails on every one
    hint = "" if first else _about_batches(function, error)
    return InputError(
        f"{_name(function)} failed on {which} of {total} ({_keep(prompts)}): "
        f"{_reason(error)}{hint}."
    )


def _about_batches(function: Callable[..., Any], error: Exception) -> str:
    """A hint for a function that may have been written for a single prompt."""
    # Adapters of other libraries are no plain functions, and know what they are given
    shapes = isinstance(error, ValueError | TypeError | IndexError | np.linalg.LinAlgError)
    if not shapes or not inspect.isfunction(function):
        return ""
    return "; a function gets a batch of prompts, xs [B, n, d], ys [B, n, m] and queries [B, d]"


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
