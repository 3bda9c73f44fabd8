"""Integer parameters that JAX may be tracing, so that one program serves all their values."""

import jax
import jax.core
from jaxtyping import Array, Int

from mesalens.checks import LARGEST_COUNT, count


def require_count(name: str, value: int | Int[Array, ""], *, at_most: int = LARGEST_COUNT) -> None:
    """Raises `ValueError` unless a value is an integer from 1 to `at_most`, or traced by JAX."""
    if not isinstance(value, jax.core.Tracer):
        count(name, value.item() if isinstance(value, jax.Array) else value, at_most=at_most)
