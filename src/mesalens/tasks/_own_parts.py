"""What a user's parts return: tried once, when the part is built.

JAX finds a wrong shape too, but later, in code that the user has not written. It does not find
draws that the same key does not repeat, or that all prompts of a batch share.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from mesalens.checks import InputError

SHAPE = (8, 3)
"""The leading axes with which parts are tried: 8 prompts, and 3 inputs of each."""


def inputs(dim: int) -> jax.Array:
    """Inputs of shape (8, 3, dim) that are the same in all prompts, so that draws alone differ."""
    few = np.random.default_rng(0).standard_normal((SHAPE[1], dim))
    with jax.ensure_compile_time_eval():
        return jnp.broadcast_to(jnp.asarray(few, jnp.float32), (*SHAPE, dim))


def require_draws(
    part: Any, call: str, draw: Callable[..., Any], expected: dict[str, tuple[int, ...]]
) -> None:
    """Tries a method of a part, unless the part's class is one of mesalens.

    Args:
        part: The covariates, functions, noise or task.
        call: The method and its arguments, for the message: ".sample(key, (8, 3))".
        draw: A function of a key that calls the method.
        expected: The shapes of what it returns, in order, each with its name in letters. There may
            be more of them than arrays that it returns.

    Raises:
        ValueError: If a shape is another, if something is not of floating-point numbers, if the
            same key gives other numbers, or if all draws of a batch are the same.
    """
    if is_ours(part):
        return
    name = type(part).__name__
    for (words, shape), each in zip(
        expected.items(), _parts(jax.eval_shape(draw, jax.random.key(0))), strict=False
    ):
        given, dtype = getattr(each, "shape", None), getattr(each, "dtype", np.dtype(object))
        if given != shape or not jnp.issubdtype(dtype, jnp.floating):
            raise InputError(
                f"{name}{call} must return floating-point numbers of shape {shape}, that is "
                f"{words}; it returned {in_words(each)}."
            )
    if is_traced(part):
        return
    with jax.ensure_compile_time_eval():
        first, again, other = (
            [np.asarray(each) for each in _parts(draw(jax.random.key(seed)))] for seed in (0, 0, 1)
        )
    if not all(map(_same, first, again)):
        raise InputError(
            f"{name}{call} gives other numbers when it is called again with the same key; draw "
            "them with jax.random from the key alone."
        )
    alike = all(_same(each, each[:1]) for each in (*first, *other))
    if alike and not all(map(_same, first, other)):
        raise InputError(
            f"{name}{call} gives the same draw to all {SHAPE[0]} prompts of a batch; draw one for "
            "each, with the leading axes of the result."
        )


def in_words(returned: Any) -> str:
    """What something is: "float32 of shape (3,)", or its type if it is no array."""
    shape = getattr(returned, "shape", None)
    return f"a {type(returned).__name__}" if shape is None else f"{returned.dtype} of shape {shape}"


def is_ours(part: Any) -> bool:
    """Whether the class of a part is one of mesalens, which its tests check."""
    return type(part).__module__.partition(".")[0] == "mesalens"


def is_traced(part: Any) -> bool:
    """Whether JAX is tracing a number of a part."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(part))


def _parts(returned: Any) -> tuple[Any, ...]:
    return returned if isinstance(returned, tuple) else (returned,)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.array_equal(*np.broadcast_arrays(one, other), equal_nan=True))
