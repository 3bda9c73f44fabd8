"""Checks of input: each returns its value, or raises an `InputError` that says what to fix."""

import difflib
import math
from collections.abc import Iterable
from typing import Any, TypeVar

import jax
import jax.core
import numpy as np
from jaxtyping import Float

T = TypeVar("T")

LARGEST_COUNT = 2**31 - 1
"""The largest integer, because XLA indexes with 32 bits."""

SCALES = (1e-8, 1e8)
"""The range of scales: their fourth powers, as in losses and moments, are float32 numbers."""


class InputError(ValueError):
    """A value from the user cannot be used; the message says what is wrong and how to fix it."""


def count(name: str, value: int, *, at_least: int = 1, at_most: int = LARGEST_COUNT) -> int:
    """An integer from `at_least` to `at_most`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputError(f"{name} must be an integer of at least {at_least}; got {value!r}.")
    if not at_least <= value <= at_most:
        raise InputError(f"{name} must be from {at_least} to {at_most}; got {value}.")
    return int(value)


def positive(name: str, value: Any) -> Any:
    """A finite number above 0. Values that JAX is tracing pass."""
    return _number(name, value, lambda number: number > 0, "a positive number")


def non_negative(name: str, value: Any) -> Any:
    """A finite number of at least 0. Values that JAX is tracing pass."""
    return _number(name, value, lambda number: number >= 0, "a number of at least 0")


def finite(name: str, value: Any) -> Any:
    """A finite number. Values that JAX is tracing pass."""
    return _number(name, value, lambda number: True, "a finite number")


def fraction(name: str, value: Any) -> Any:
    """A number in [0, 1). Values that JAX is tracing pass."""
    return _number(name, value, lambda number: 0 <= number < 1, "at least 0 and below 1")


def share(name: str, value: Any) -> Any:
    """A number in (0, 1). Values that JAX is tracing pass."""
    return _number(name, value, lambda number: 0 < number < 1, "above 0 and below 1")


def scale(name: str, value: Any) -> Any:
    """A number in `SCALES`. Values that JAX is tracing pass."""
    low, high = SCALES
    words = f"one number from {low:g} to {high:g}"
    return _number(name, value, lambda number: low <= number <= high, words)


def variance(name: str, value: Any) -> Any:
    """0, or a number whose square root is in `SCALES`. Values that JAX is tracing pass."""
    low, high = SCALES

    def holds(number):
        return number == 0 or (number > 0 and low <= math.sqrt(number) <= high)

    return _number(name, value, holds, f"0, or from {low**2:g} to {high**2:g}")


def is_zero(value: Any) -> bool:
    """Whether a value is the number 0; false for values that JAX is tracing."""
    return isinstance(value, float | int) and value == 0


def _number(name: str, value: Any, holds: Any, words: str) -> Any:
    if isinstance(value, jax.core.Tracer):
        return value
    try:
        valid = not isinstance(value, bool | np.bool) and math.isfinite(value) and holds(value)
    except (TypeError, OverflowError):
        valid = False
    if not valid:
        raise InputError(f"{name} must be {words}; got {value!r}.")
    return value


def as_matrix(value: Any, name: str = "covariance") -> Float[np.ndarray, "..."] | None:
    """The value as a float64 array, for example from a list of rows; None stays None."""
    if value is None:
        return None
    try:
        array = np.asarray(value)
    except ValueError:  # rows of several lengths
        array = np.asarray(None)
    if array.dtype.kind not in "iuf":
        raise InputError(f"{name} must be a matrix of real numbers; got {array.dtype} values.")
    return array.astype(np.float64)


def matrix(name: str, value: Any, shape: tuple[int, int]) -> Float[np.ndarray, "rows columns"]:
    """A matrix of the given shape with finite entries."""
    array = as_matrix(value, name)
    if array is None or array.shape != shape:
        raise InputError(f"{name} must have shape {shape}; got {np.shape(value)}.")
    if not np.isfinite(array).all():
        raise InputError(f"{name} must have finite entries.")
    return array


def covariance(name: str, value: Any, size: int) -> Float[np.ndarray, "size size"]:
    """A positive semi-definite matrix of the given size; the result is exactly symmetric."""
    array = matrix(name, value, (size, size))
    largest = np.abs(array).max()
    if largest and not SCALES[0] ** 2 <= largest <= SCALES[1] ** 2:
        low, high = (bound**2 for bound in SCALES)
        raise InputError(f"{name} must have entries from {low:g} to {high:g}; got {largest:g}.")
    if not np.allclose(array, array.T, rtol=0, atol=1e-9 * largest):
        worst = np.abs(array - array.T).max()
        raise InputError(f"{name} must be symmetric; its entries differ by up to {worst:.3g}.")
    smallest = np.linalg.eigvalsh(array)[0]
    if smallest < -1e-9 * largest:
        raise InputError(
            f"{name} must be positive semi-definite; its least eigenvalue is {smallest:.3g}."
        )
    return (array + array.T) / 2


def one_of(kind: str, name: str, known: Iterable[str]) -> str:
    """A name among the known ones; the error suggests similar names."""
    known = list(known)
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:8]
        advice = f"did you mean {' or '.join(nearest)}?" if nearest else "there are none."
        raise InputError(f"there is no {kind} {name!r}; {advice}")
    return name


def with_near_names(sentence: str, name: str, known: Iterable[str]) -> str:
    """A sentence that a name is missing, followed by the known names that are like it."""
    nearest = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"{sentence}; did you mean {' or '.join(nearest)}?" if nearest else f"{sentence}."


def random_key(value: Any) -> Any:
    """A random key of JAX, or several in an array, as it is. Keys that JAX is tracing pass."""
    try:
        jax.random.key_impl(value)
    except TypeError as error:
        raise InputError(
            f"key must be a random key such as mesalens.random.key(0); got {value!r}."
        ) from error
    return value


def member(name: str, value: Any, kind: type[T]) -> T:
    """An instance of `kind`."""
    if not isinstance(value, kind):
        raise InputError(f"{name} must be a {kind.__name__}; got {value!r}.")
    return value
