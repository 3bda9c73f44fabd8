"""What may enter: each check returns its value or raises `InputError` with one sentence that says what to mend."""

import difflib
import math
from collections.abc import Iterable
from typing import Any

import jax.core
import numpy as np
from jaxtyping import Float


class InputError(ValueError):
    """A value that a person gave cannot be used; the message is one sentence: what is wrong, and how to mend it."""


def count(name: str, value: int, *, at_least: int = 1) -> int:
    """An integer that is `at_least` so large."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < at_least:
        raise InputError(f"{name} is {value!r}; give a whole number that is at least {at_least}.")
    return int(value)


def positive(name: str, value: Any) -> Any:
    """A finite number above zero. Values that JAX is tracing pass: they were checked, or are computed."""
    if not isinstance(value, jax.core.Tracer) and not (_is_finite(value) and value > 0):
        raise InputError(f"{name} is {value!r}; give a number above 0.")
    return value


def non_negative(name: str, value: Any) -> Any:
    """A finite number that is not below zero. Values that JAX is tracing pass."""
    if not isinstance(value, jax.core.Tracer) and not (_is_finite(value) and value >= 0):
        raise InputError(f"{name} is {value!r}; give a number that is 0 or above.")
    return value


def finite(name: str, value: Any) -> Any:
    """A finite number. Values that JAX is tracing pass."""
    if not isinstance(value, jax.core.Tracer) and not _is_finite(value):
        raise InputError(f"{name} is {value!r}; give a finite number.")
    return value


def _is_finite(value: Any) -> bool:
    """Whether it is one number, and finite; a word or a list is none."""
    try:
        return math.isfinite(value)
    except (TypeError, OverflowError):
        return False


def as_matrix(value: Any, name: str = "the covariance") -> Float[np.ndarray, "..."] | None:
    """The value in float64, or None as it is; lists of rows are welcome."""
    try:
        return None if value is None else np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} is not a matrix of numbers; give its rows, each of d numbers.") from None


def matrix(name: str, value: Any, shape: tuple[int, int]) -> Float[np.ndarray, "rows columns"]:
    """A matrix of the given shape with finite entries."""
    value = as_matrix(value, name)
    if value.shape != shape:
        raise InputError(f"{name} has shape {value.shape}; give {shape}.")
    if not np.isfinite(value).all():
        raise InputError(f"{name} holds values that are not finite; replace them by numbers.")
    return value


def covariance(name: str, matrix: Any, size: int) -> Float[np.ndarray, "size size"]:
    """A covariance: square of the given size, finite, symmetric, positive semi-definite; returned symmetric to the bit."""
    matrix = as_matrix(matrix, name)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"{name} has shape {matrix.shape}; a covariance is square, here ({size}, {size}).")
    if matrix.shape[0] != size:
        raise InputError(f"{name} has shape {matrix.shape}; the dimension is {size}, so give ({size}, {size}).")
    if not np.isfinite(matrix).all():
        raise InputError(f"{name} holds values that are not finite; replace them by numbers.")
    scale = np.abs(matrix).max()
    if not np.allclose(matrix, matrix.T, rtol=0, atol=1e-9 * scale):
        worst = np.abs(matrix - matrix.T).max()
        raise InputError(f"{name} is not symmetric (entries differ by up to {worst:.3g}); give (M + M^T) / 2.")
    smallest = np.linalg.eigvalsh(matrix)[0]
    if smallest < -1e-9 * scale:
        raise InputError(
            f"{name} is not positive semi-definite (smallest eigenvalue {smallest:.3g}); "
            "a covariance has no eigenvalue below 0."
        )
    return (matrix + matrix.T) / 2


def one_of(kind: str, name: str, known: Iterable[str]) -> str:
    """A name among the known ones; the error names the nearest."""
    known = list(known)
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
        raise InputError(f"there is no {kind} named {name!r}; did you mean {' or '.join(nearest)}?")
    return name
