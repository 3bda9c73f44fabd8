"""Checks that tasks and theory share."""

from typing import Any, TypeVar

import jax.core

from mesalens.checks import SCALES, InputError, non_negative

T = TypeVar("T")


def member(name: str, value: Any, kind: type[T]) -> T:
    """The value, an instance of `kind`."""
    if not isinstance(value, kind):
        raise InputError(f"{name} must be a {kind.__name__}; got {value!r}.")
    return value


def variance(name: str, value: Any) -> Any:
    """0, or a number whose square root is in `SCALES`. Values that JAX is tracing pass."""
    non_negative(name, value)
    low, high = SCALES
    if not isinstance(value, jax.core.Tracer) and value and not low <= value**0.5 <= high:
        raise InputError(f"{name} must be 0, or from {low**2:g} to {high**2:g}; got {value!r}.")
    return value


def is_zero(value: Any) -> bool:
    """Whether a value is the number 0. A value that JAX traces may be any number."""
    return isinstance(value, float | int) and value == 0
