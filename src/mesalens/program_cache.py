"""Compiled programs: stored on disk for later processes, or compiled quickly for a few calls."""

import contextlib
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import equinox as eqx
import jax
import platformdirs
from jax.experimental.compilation_cache import compilation_cache

from mesalens.files import require_writable

MOST_BYTES = 2 * 2**30
"""The size in bytes above which the least recently used programs are deleted."""

LEAST_SECONDS = 0.05
"""Programs that compile in less time than this are not stored."""


P = ParamSpec("P")
"""The parameters of a function."""
R = TypeVar("R")
"""The result of a function."""


def seldom() -> dict[str, Any]:
    """Options of XLA for a program that runs only a few times.

    On a CPU it compiles in less than half the time, may run half as fast, and the last bits of its
    results differ.

    Returns:
        The options, for `compiler_options` of `jax.jit`; empty on other devices.
    """
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}


def compiled_once(function: Callable[P, R]) -> Callable[P, R]:
    """`eqx.filter_jit` for a function that is called only a few times, and not while JAX traces.

    Args:
        function: A function that JAX can trace.

    Returns:
        The function, compiled at its first call with the options of `seldom`.
    """

    @functools.cache
    def compiled() -> Any:  # at the first call, as options depend on the device
        options: Any = {"compiler_options": seldom()}
        return eqx.filter_jit(function, **options)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return compiled()(*args, **kwargs)

    return call


def keep_programs(folder: Path | None = None) -> Path:
    """Makes JAX store compiled programs in a folder, and load them from it.

    A loaded program gives the same bits as a compiled one: JAX identifies programs by what they
    compute, its version, the machine and its flags.

    Args:
        folder: By default the folder that JAX already uses (for example by
            `JAX_COMPILATION_CACHE_DIR`; its size limit is kept), or else `programs` in the user's
            cache folder for mesalens.

    Returns:
        The folder.

    Raises:
        InputError: if the folder cannot be written.
    """
    config: Any = jax.config
    config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    if folder is None and config.jax_compilation_cache_dir:
        return Path(config.jax_compilation_cache_dir)
    if folder is None:
        folder = platformdirs.user_cache_path("mesalens") / "programs"
    require_writable(folder)
    config.update("jax_compilation_cache_dir", str(folder))
    config.update("jax_compilation_cache_max_size", MOST_BYTES)
    compilation_cache.reset_cache()  # otherwise JAX keeps using a folder that it has opened before
    return Path(folder)


def keep_programs_if_possible() -> None:
    """Calls `keep_programs` unless the environment has `MESALENS_PROGRAMS=off`.

    If the folder cannot be written, programs are not stored.
    """
    if os.environ.get("MESALENS_PROGRAMS") != "off":
        with contextlib.suppress(ValueError):
            keep_programs()
