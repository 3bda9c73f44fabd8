"""What a result was made with: versions and machine."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

NUMBERS = ("mesalens", "JAX", "jaxlib", "Equinox", "Optax", "machine", "device", "cores", "XLA_FLAGS")
"""What in an environment decides about the bits of a training, besides its settings."""


def environment() -> dict[str, str]:
    """Versions of mesalens and what it computes with, and the machine, as text."""
    device = devices()[0]
    return {
        "mesalens": version("mesalens"),
        "Python": platform.python_version(),
        "JAX": version("jax"),
        "jaxlib": version("jaxlib"),
        "Equinox": version("equinox"),
        "Optax": version("optax"),
        "NumPy": version("numpy"),
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}, {os.cpu_count()} CPU cores",
        "cores": str(cores()),
        "device": f"{device.platform} ({device.device_kind})",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


def devices() -> list[Any]:
    """All devices of this process of the kind that JAX computes on; only the one that was asked for where `jax_default_device` is one."""
    config: Any = jax.config
    asked = config.jax_default_device
    if asked is None or isinstance(asked, str):
        return jax.local_devices(backend=asked)
    return [asked]


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:  # platform.processor() is empty on Linux
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"
