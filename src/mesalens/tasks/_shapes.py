"""Shapes of what a user's parts return: traced once, when the part is built.

JAX finds a wrong shape too, but later, in code that the user has not written.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mesalens.checks import InputError

SHAPE = (2, 3)
"""The leading axes with which parts are traced."""


def require_shapes(
    part: Any, call: str, draw: Callable[..., Any], expected: dict[str, tuple[int, ...]]
) -> None:
    """Checks what a method of a part returns, unless the part's class is one of mesalens.

    Args:
        part: The covariates, functions, noise or task.
        call: The method and its arguments, for the message: ".sample(key, (2, 3))".
        draw: A function of a key that calls the method.
        expected: The shapes of what it returns, in order, each with its name in letters. There may
            be more of them than arrays that it returns.

    Raises:
        ValueError: If a shape is another, or something is not of floating-point numbers.
    """
    if type(part).__module__.partition(".")[0] == "mesalens":
        return
    returned = jax.eval_shape(draw, jax.random.key(0))
    returned = returned if isinstance(returned, tuple) else (returned,)
    for (words, shape), each in zip(expected.items(), returned, strict=False):
        given, dtype = getattr(each, "shape", None), getattr(each, "dtype", None)
        if given != shape or not jnp.issubdtype(dtype, jnp.floating):
            what = f"a {type(each).__name__}" if given is None else f"{dtype} of shape {given}"
            raise InputError(
                f"{type(part).__name__}{call} must return floating-point numbers of shape {shape}, "
                f"that is {words}; it returned {what}."
            )
