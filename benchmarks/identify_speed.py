"""How long `mesalens identify` takes, from the start of the process to its end, and its memory.

Each learner is identified on a task with d = 5 and n = 12 by whole commands, one at a time: with an
empty cache of compiled programs, and again with the cache that this left. Printed are medians over
the rounds, with the smallest and the largest; memory is the most that a process and its workers
have together. Learners whose package is not installed are left out.

    python benchmarks/identify_speed.py [--rounds N] [--only LEARNER ...]
"""

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from mesalens.environment import environment

NEEDS = {"scikit-learn": "sklearn", "PyTorch": "torch"}

LEARNERS = {
    "NumPy function": ["learners.py:predict"],
    "scikit-learn Ridge": [
        "sklearn.linear_model:Ridge",
        "--set",
        "alpha=0.7",
        "fit_intercept=false",
    ],
    "scikit-learn KNeighborsRegressor": [
        "sklearn.neighbors:KNeighborsRegressor",
        "--set",
        "n_neighbors=3",
    ],
    "PyTorch GPT-2, 6 layers, width 64": ["gpt2.py:model", "--adapter", "torch"],
}

FILES = {
    "learners.py": """
import numpy as np

def predict(xs, ys, queries):
    gram = xs.mT @ xs + 0.7 * np.eye(xs.shape[-1])
    return np.einsum("bd,bdm->bm", queries, np.linalg.solve(gram, xs.mT @ ys))
""",
    "gpt2.py": """
import sys
sys.path.insert(0, {tests!r})
import torch
from small_gpt2 import SmallGPT2

torch.manual_seed(0)
model = SmallGPT2(dim=5, width=64, layers=6, heads=4, positions=64).eval()
""",
}


def main() -> None:
    """Prints the table, and where it was made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=LEARNERS, nargs="+", default=list(LEARNERS))
    options = parser.parse_args()
    print(", ".join(f"{name}: {value}" for name, value in environment().items()))
    print(f"{'learner':<36} {'cache':<7} {'seconds':>20}   {'MB':>5}  answer")
    tests = str(Path(__file__).parent.parent / "tests")
    with tempfile.TemporaryDirectory() as folder:
        for name, text in FILES.items():
            Path(folder, name).write_text(text.replace("{tests!r}", repr(tests)))
        for name in options.only:
            package = NEEDS.get(name.split()[0])
            if package is not None and importlib.util.find_spec(package) is None:
                print(f"{name:<36} left out: {package} is not installed")
                continue
            runs: dict[str, list[dict[str, Any]]] = {"empty": [], "filled": []}
            for number in range(options.rounds):
                cache = Path(folder) / f"cache {name} {number}"
                for found in runs.values():
                    found.append(_run(folder, cache, LEARNERS[name]))
            for state, found in runs.items():
                seconds = sorted(run["seconds"] for run in found)
                middle, memory = statistics.median(seconds), max(r["megabytes"] for r in found)
                taken = f"{middle:.1f} [{seconds[0]:.1f}..{seconds[-1]:.1f}]"
                answers = {run["name"] or run["verdict"] for run in found}
                print(
                    f"{name:<36} {state:<7} {taken:>20}   {memory:>5.0f}  {', '.join(answers)}",
                    flush=True,
                )


def _run(folder: str, cache: Path, words: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "mesalens", "identify", *words, "--json"]
    command += ["--dim", "5", "--context-length", "12", "--noise-variance", "0.25"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    began = time.perf_counter()
    with subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        most: list[float] = [0.0]
        watch = threading.Thread(target=_watch, args=(process, most))
        watch.start()
        output, errors = process.communicate()
        seconds = time.perf_counter() - began
        watch.join()
        if process.returncode:
            raise RuntimeError(errors.decode())
    answer = json.loads(output)
    found = {"seconds": seconds, "megabytes": most[0]}
    return found | {"verdict": answer["verdict"], "name": answer["name"]}


def _watch(process: subprocess.Popen[bytes], most: list[float]) -> None:
    """Keeps the most memory of a process and its workers together; what they share counts once."""
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(process.pid)
            parts = [parent, *parent.children(recursive=True)]
            most[0] = max(most[0], sum(part.memory_full_info().pss for part in parts) / 1e6)
        time.sleep(0.5)


if __name__ == "__main__":
    main()
