"""`remembered`: results of expensive functions, computed once per process."""

import functools
import hashlib
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import equinox as eqx
import jax

from mesalens.storage import named_arrays

P = ParamSpec("P")
R = TypeVar("R")


def remembered(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: the function computes its result once for each value of its arguments.

    Unlike `functools.cache`, arguments may be pytrees of arrays (tasks, learners, keys), which are
    compared by value. If two threads need the same result, one computes it and the other waits.

    Args:
        function: An expensive function.

    Returns:
        The function, which remembers its results until the process ends.
    """
    results: dict[str, Any] = {}
    locks: dict[str, threading.Lock] = {}

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        name = _digest((args, tuple(sorted(kwargs.items()))))
        with locks.setdefault(name, threading.Lock()):
            if name not in results:
                results[name] = function(*args, **kwargs)
            return results[name]

    return wrapper


def _digest(arguments: Any) -> str:
    arrays, static = eqx.partition(arguments, eqx.is_array)
    digest = hashlib.sha256(repr((jax.tree.structure(arguments), static)).encode())
    for name, array in named_arrays(arrays).items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()
