"""The environment of a computation: versions and machine."""

import contextlib
import functools
import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from mesalens import __version__

_LIBRARIES = ("JAX", "jaxlib", "Equinox", "Optax")

NUMBERS = ("mesalens", *_LIBRARIES, "machine", "device", "cores", "XLA_FLAGS")
"""The entries of `environment` on which the bits of a training depend, besides its settings."""

_told: list[int] = []


def environment() -> dict[str, str]:
    """Versions of mesalens and of the libraries it computes with, and the machine, as text."""
    device = devices()[0]
    system = f"{platform.system()} {platform.machine()}"
    return {
        "mesalens": __version__,
        "Python": platform.python_version(),
        **_versions(),
        "machine": f"{system}, {_processor()}, {os.cpu_count()} CPU cores",
        "cores": str(cores()),
        "device": f"{device.platform} ({device.device_kind})",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


@functools.cache
def commit() -> str | None:
    """The commit of the checkout from which mesalens runs, with "+" if files were changed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "src")
        return git("rev-parse", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return None


def devices() -> list[Any]:
    """The devices on which JAX computes; only `jax_default_device` if that is a device."""
    config: Any = jax.config
    default = config.jax_default_device
    if default is None or isinstance(default, str):
        return jax.local_devices(backend=default)
    return [default]


def is_one_cpu() -> bool:
    """Whether JAX computes on one CPU only, so that each run can have its own core."""
    return len(devices()) == 1 and devices()[0].platform == "cpu"


def cores() -> int:
    """The number of CPU cores that this process may use."""
    if _told:
        return _told[0]
    if hasattr(os, "sched_getaffinity"):  # respects taskset and containers, but is not portable
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_cores(number: int) -> None:
    """Makes `cores` return this number; a worker of a cluster has one core for each unit."""
    _told[:] = [number]


@functools.cache  # reading metadata takes milliseconds
def _versions() -> dict[str, str]:
    return {name: version(name) for name in (*_LIBRARIES, "NumPy")}


@functools.cache
def _processor() -> str:
    with contextlib.suppress(OSError):  # platform.processor() is empty on Linux
        if found := re.search(r"^model name.*?:(.+)", Path("/proc/cpuinfo").read_text(), re.M):
            return found[1].strip()
    return platform.processor() or "unknown processor"
