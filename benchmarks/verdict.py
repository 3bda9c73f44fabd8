"""How long a user waits for a verdict: one part of a study in a process of its own, compiled anew
and from a cache.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PART = "von-oswald-2023/training"


def time_to_verdict() -> list[dict[str, Any]]:
    """Seconds of `mesalens reproduce`, quick budget, from the start of the process to its end:
    cache empty, then filled by the first run.

    The cache is the folder that the environment variable JAX_COMPILATION_CACHE_DIR names. Each is
    run once.
    """
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        return [_run(Path(folder) / name, cache) | {"cache": name} for name in ("empty", "filled")]


def _run(out: Path, cache: Path) -> dict[str, Any]:
    """One run: seconds, verdicts by outcome, and the size of the cache after it."""
    command = [sys.executable, "-m", "mesalens", "reproduce", PART, "--out", str(out), "--json"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    started = time.perf_counter()
    process = subprocess.run(
        command, env=environment, cwd=out.parent, capture_output=True, text=True
    )
    seconds = time.perf_counter() - started
    if process.returncode not in (0, 1):  # 1: a claim failed, which is a verdict too
        raise RuntimeError(
            f"{' '.join(command)} ended with {process.returncode}:\n{process.stderr}"
        )
    outcomes = [verdict["outcome"] for verdict in json.loads(process.stdout)["verdicts"]]
    return {
        "seconds": seconds,
        "outcomes": {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))},
        "cache_bytes": sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()),
    }


def sentence(runs: list[dict[str, Any]]) -> str:
    """The runs in words."""
    words = [
        f"{run['seconds']:.0f} s with the cache of compiled programs {run['cache']}" for run in runs
    ]
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in runs[-1]["outcomes"].items())
    cache = f"{runs[0]['cache_bytes'] / 1e6:.1f} MB"
    return f"mesalens reproduce {PART}, once each: {', '.join(words)} ({cache}); {outcomes}."
