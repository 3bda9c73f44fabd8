"""Checks that data fits in memory."""

import math
from typing import Any

import jax
import psutil
from jaxtyping import Array, Key

from mesalens.checks import InputError

WORKING_COPIES = 4
"""Drawing and reading prompts, and training weights, needs about this multiple of their size."""


def size_of(make: Any, *arguments: Any) -> float:
    """The bytes of the arrays that a function returns, without computing them."""
    try:
        shapes = jax.eval_shape(make, *arguments)
    except OverflowError:  # JAX's generators count to 2³² in one draw
        return math.inf
    leaves = [leaf for leaf in jax.tree.leaves(shapes) if hasattr(leaf, "dtype")]
    return float(sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves))


def require_memory(name: str, size: float) -> float:
    """The size in bytes; raises `ValueError` if working copies of it do not fit in free memory."""
    needed, free = WORKING_COPIES * size, psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"{name} needs {needed / 2**30:.3g} GiB of memory, and {free / 2**30:.3g} GiB are "
            "free; use smaller sizes."
        )
    return size


def prompts_size(task: Any, key: Key[Array, ""], prompts: int = 1) -> float:
    """The bytes of prompts with targets; raises `ValueError` if they do not fit in memory."""
    size = prompts * size_of(lambda k: task.sample(k, ()), key)
    name = f"context_length: {prompts} prompt{'s' * (prompts > 1)} of the task"
    return max(require_memory(name, size), 1.0)
