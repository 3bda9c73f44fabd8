"""What a result was made with: versions and machine."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import jax


def environment() -> dict[str, str]:
    """Versions of mesalens and what it computes with, and the machine, as text."""
    device = jax.devices()[0]
    return {
        "mesalens": version("mesalens"),
        "Python": platform.python_version(),
        "JAX": version("jax"),
        "NumPy": version("numpy"),
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}, {os.cpu_count()} CPU cores",
        "device": f"{device.platform} ({device.device_kind})",
    }


def _processor() -> str:
    try:  # platform.processor() is empty on Linux
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"
