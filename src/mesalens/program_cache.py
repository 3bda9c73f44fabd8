"""Compiled programs on disk, so that a second start does not compile again."""

import contextlib
import os
from pathlib import Path
from typing import Any

import jax
import platformdirs
from jax.experimental.compilation_cache import compilation_cache

from mesalens.storage import require_writable

MOST_BYTES = 2 * 2**30
"""What the folder may hold; programs that were not used for long give way."""

LEAST_SECONDS = 0.05
"""Programs that compile faster are not kept."""


def keep_programs(folder: Path | None = None) -> Path:
    """Has JAX keep what it compiles from now on in a folder, and take it from there: the same bits, without the wait.

    The folder is `programs` in the user's cache for mesalens, where none is given; a folder that JAX was told of already (in
    `JAX_COMPILATION_CACHE_DIR`) stays as it is, with its own rules. JAX tells programs apart by what they compute, its version, the machine and
    its flags. Returns the folder; raises `ValueError` where one that was given cannot be written.
    """
    config: Any = jax.config
    if folder is None and (known := config.jax_compilation_cache_dir):
        jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
        return Path(known)
    chosen = platformdirs.user_cache_path("mesalens") / "programs" if folder is None else Path(folder)
    require_writable(chosen)
    for name, value in {
        "jax_compilation_cache_dir": str(chosen),
        "jax_persistent_cache_min_compile_time_secs": LEAST_SECONDS,
        "jax_compilation_cache_max_size": MOST_BYTES,
    }.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # or JAX would stay with a folder that it has used before
    return chosen


def keep_programs_if_possible() -> None:
    """`keep_programs`, but for `MESALENS_PROGRAMS=off`, and where nothing can be written: then everything is compiled anew."""
    if os.environ.get("MESALENS_PROGRAMS") == "off":
        return
    with contextlib.suppress(ValueError):
        keep_programs()
