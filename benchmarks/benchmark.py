"""The benchmark: measures, keeps the numbers as JSON, and writes the page.

    python benchmarks/benchmark.py                       everything
    python benchmarks/benchmark.py depth transformers    these parts; the others stay as they were
    python benchmarks/benchmark.py --page-only           the page, from the numbers that are there

Every part is described in the file that measures it: `commands.py`, `training.py`,
`transformers.py`, `pools.py` and `generators.py`. What is to be reached stands in `targets.py`.
"""

import argparse
import contextlib
import json
import os
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

# A program from a cache would not show what compiling costs, and the commands need memory of a GPU
os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import commands
import generators
import jax
import limits
import page
import pools
import psutil
import training
import transformers
from results import Results

from mesalens.environment import commit, environment

ROOT = Path(__file__).parents[1]
PARTS = commands.PARTS | training.PARTS | transformers.PARTS | pools.PARTS | generators.PARTS
ROUNDS = 5


def conditions(rounds: int, load: float, seconds: float) -> dict[str, Any]:
    """Where, when and with what a part was measured."""
    torch = {}
    with contextlib.suppress(metadata.PackageNotFoundError):
        torch = {"PyTorch": metadata.version("torch")}
    return (
        environment()
        | torch
        | {
            "commit": (commit() or "")[:12],
            "rounds": rounds,
            "load before": round(load, 1),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "seconds": round(seconds, 1),
        }
    )


def main() -> None:
    """Measures the parts that are asked for, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)} (all)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of each part ({ROUNDS})")
    parser.add_argument("--json", type=Path, default=ROOT / "docs" / "data" / "benchmarks.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "pages" / "benchmarks.md")
    parser.add_argument("--page-only", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {min(unknown)!r}; the parts are {', '.join(PARTS)}")

    found = json.loads(options.json.read_text()) if options.json.is_file() else {}
    load = psutil.getloadavg()[0]  # of other work; later it is that of the benchmark
    jax.config.update("jax_enable_compilation_cache", False)
    for name in () if options.page_only else options.parts or PARTS:
        limits.say(name)
        started = time.perf_counter()
        measured = PARTS[name](options.rounds)
        seconds = time.perf_counter() - started
        found[name] = measured | {"conditions": conditions(options.rounds, load, seconds)}
        found = {name: found[name] for name in PARTS if name in found}
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    written = page.Page(Results(found))
    options.page.write_text(written.text(), encoding="utf-8")
    limits.say(f"{options.page}: {written.missed()}")


if __name__ == "__main__":
    main()
