"""Compiled programs: stored on disk for later processes, compiled fast for a few calls, counted."""

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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


@dataclass
class Programs:
    """How many programs XLA compiled, and how many were loaded from a folder instead.

    Attributes:
        compiled: The number of compiled programs.
        seconds: How long XLA compiled them, summed over threads. Tracing them is not in it.
        loaded: The number of loaded programs.
    """

    compiled: int = 0
    seconds: float = 0.0
    loaded: int = 0

    def add(self, other: "Programs") -> None:
        """Adds the programs of another thread or process.

        Args:
            other: The numbers that are added.
        """
        self.compiled += other.compiled
        self.seconds += other.seconds
        self.loaded += other.loaded

    def words(self) -> str:
        """The numbers in words, such as "compiled 143 programs in 74 s"; "" if there are none."""
        parts: list[str] = []
        if self.compiled:
            seconds = f"{self.seconds:.0f}" if self.seconds >= 10 else f"{self.seconds:.2g}"
            parts.append(f"compiled {_programs(self.compiled)} in {seconds} s")
        if self.loaded:
            parts.append(f"loaded {_programs(self.loaded)} from the cache")
        return ", ".join(parts)


_counts: list[Programs] = []
_adding = threading.Lock()


def _programs(number: int) -> str:
    return f"{number} program{'s' * (number != 1)}"


@contextlib.contextmanager
def counted(*, thread: bool = False) -> Iterator[Programs]:
    """A context that counts the programs compiled in it.

    Args:
        thread: Whether to count those of this thread only; by default those of all threads, and of
            the workers of a cluster that compute for them.

    Returns:
        A context manager that gives the numbers, which grow.

    Examples:
        >>> import jax
        >>> from mesalens.program_cache import counted
        >>> with counted() as programs:
        ...     _ = jax.jit(lambda x: 2 * x + 1)(3.0)
        >>> programs.compiled + programs.loaded
        1
    """
    counts, this = Programs(), threading.get_ident()
    found = threading.local()  # a program that is being compiled in a thread was found in the cache

    def found_in_cache(event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            found.hit = True

    def compiled(event: str, duration_secs: float, **_: Any) -> None:
        # JAX reports it after each program, also after one that it found in the cache
        if event != "/jax/core/compile/backend_compile_duration":
            return
        hit, found.hit = getattr(found, "hit", False), False
        if thread and threading.get_ident() != this:
            return
        with _adding:
            counts.add(Programs(loaded=1) if hit else Programs(1, duration_secs))

    jax.monitoring.register_event_listener(found_in_cache)
    jax.monitoring.register_event_duration_secs_listener(compiled)
    if not thread:
        _counts.append(counts)
    try:
        yield counts
    finally:
        _counts[:] = [other for other in _counts if other is not counts]
        jax.monitoring.unregister_event_listener(found_in_cache)
        jax.monitoring.unregister_event_duration_listener(compiled)


def count_elsewhere(programs: Programs) -> None:
    """Counts programs of another process in all contexts of `counted`.

    Args:
        programs: The numbers of the other process.
    """
    with _adding:
        for counts in _counts:
            counts.add(programs)


def seldom() -> dict[str, Any]:
    """Options of XLA for a program that runs only a few times.

    On a CPU it compiles in less than half the time, may run half as fast, and the last bits of its
    results differ.

    Returns:
        The options for `compiler_options` of `jax.jit`, but for those that XLA_FLAGS sets. Empty
            on other devices.
    """
    return _on_cpus({"xla_backend_optimization_level": 0})


def _on_cpus(options: dict[str, Any]) -> dict[str, Any]:
    """The options on CPUs, without those that the environment variable XLA_FLAGS sets."""
    if jax.default_backend() != "cpu":
        return {}
    flags = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in options.items() if f"--{name}=" not in flags}


def often() -> dict[str, Any]:
    """Options of XLA for a program that runs many times.

    On a CPU, vectors may be as wide as its registers (XLA itself takes half of AVX-512's), and LLVM
    optimises at its level 1. Gradient steps of several linear layers take a tenth to a fifth less
    time so, those of attention-only transformers up to a third less, those of one layer up to 6%
    more; compiling takes 10 to 60% less time (AMD EPYC, 2026-11-30).

    Returns:
        The options for `compiler_options` of `jax.jit`, but for those that XLA_FLAGS sets. Empty
            on other devices.
    """
    return _on_cpus({"xla_cpu_prefer_vector_width": 512, "xla_backend_optimization_level": 1})


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
