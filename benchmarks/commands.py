"""How long whole commands take, from the start of their process to its end, and their memory.

Each run has caches of its own. `empty` is the first run with them: no compiled program and no
result is stored. `filled` is the same command again, with the compiled programs that the first has
left, and without its results.

- `cold start`: from the call of `train` to its first steps, by `cold_start.py`, and the whole
  command `mesalens train --steps 1`, always with empty caches;
- `optimum`: `mesalens optimum --dim 20`;
- `nonlinear parts`: the parts `sine` and `teachers` of `von-oswald-2023` with the budget quick,
  once, empty;
- `verdict`: the part `training` of the same, once;
- `identify`: four learners; those whose package is not installed are left out.

Memory is the most that a process and its workers have together, looked at four times a second.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import limits
import psutil

COLD_START = Path(__file__).parent / "cold_start.py"
MESALENS = ("-m", "mesalens")
STUDY = "von-oswald-2023"

LEARNERS = {
    "NumPy function": (None, ["learners.py:predict"]),
    "scikit-learn Ridge": (
        "sklearn",
        ["sklearn.linear_model:Ridge", "--set", "alpha=0.7", "fit_intercept=false"],
    ),
    "scikit-learn KNeighborsRegressor": (
        "sklearn",
        ["sklearn.neighbors:KNeighborsRegressor", "--set", "n_neighbors=3"],
    ),
    "PyTorch GPT-2, 6 layers, width 64": ("torch", ["gpt2.py:model", "--adapter", "torch"]),
}
"""The package that a learner needs, and its words for `mesalens identify`."""

TASK = ["--dim", "5", "--context-length", "12", "--noise-variance", "0.25"]

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


class Run:
    """A process that has ended: its seconds, its memory in bytes, and what it printed."""

    def __init__(self, words: Sequence[str], folder: Path, caches: Path):
        environment = os.environ | {"XDG_CACHE_HOME": str(caches)}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        command = [sys.executable, *words]
        started = time.perf_counter()
        with subprocess.Popen(
            command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            self.memory = 0
            watch = threading.Thread(target=self._watch, args=(process,))
            watch.start()
            output, errors = process.communicate()
            self.seconds = time.perf_counter() - started
            watch.join()
        if process.returncode not in (0, 1):  # 1: a claim failed, which is an answer too
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {errors!r}")
        self.output = output.decode()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Keeps the most memory of a process and its workers; what they share counts once."""
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                parent = psutil.Process(process.pid)
                parts = [parent, *parent.children(recursive=True)]
                memory = sum(part.memory_full_info().pss for part in parts)
                self.memory = max(self.memory, memory)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.25)


@contextlib.contextmanager
def new_folder() -> Iterator[Path]:
    """An empty folder, which is removed."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def row(name: str, runs: dict[str, list[Run]], **more: Any) -> dict[str, Any]:
    """The numbers of a command in each of its ways."""
    ways = {
        way: {
            "seconds": [run.seconds for run in of_way],
            "memory": max(run.memory for run in of_way),
        }
        for way, of_way in runs.items()
        if of_way
    }
    return {"name": name, "ways": ways} | more


def empty_and_filled(words: Sequence[str], folder: Path, *, store: bool = False) -> dict[str, Run]:
    """The command with new caches, and again with the programs that are there then."""
    caches = folder / "caches"
    found = {}
    for state in ("empty", "filled"):
        options = ["--store", str(folder / f"store {state}")] if store else []
        found[state] = Run([*MESALENS, *words, *options], folder, caches)
    return found


def rounds_of(name: str, words: Sequence[str], rounds: int, **files: str) -> dict[str, Any]:
    """A command with empty and filled caches, in each round."""
    runs: dict[str, list[Run]] = {"empty": [], "filled": []}
    for _ in range(rounds):
        with new_folder() as folder:
            for file, text in files.items():
                (folder / file).write_text(text)
            for state, run in empty_and_filled(words, folder).items():
                runs[state].append(run)
    return row(name, runs, output=runs["filled"][-1].output)


def cold_start(rounds: int) -> dict[str, Any]:
    """The first steps of one layer and of five."""
    rows = []
    for layers in (1, 5):
        inside: dict[str, list[float]] = {"mesalens": [], "textbook": []}
        whole: list[Run] = []
        for _ in range(rounds):
            for way, seconds in inside.items():
                with new_folder() as folder:
                    words = [str(COLD_START), way, str(layers)]
                    seconds.append(float(Run(words, folder, folder / "caches").output))
            with new_folder() as folder:
                words = ["train", "--layers", str(layers), "--covariates", "uniform"]
                words += ["--steps", "1", "--out", "run", "--json"]
                whole.append(Run([*MESALENS, *words], folder, folder / "caches"))
        ways = {way: {"seconds": seconds} for way, seconds in inside.items()}
        found = row(f"L = {layers}", {"whole command": whole})
        rows.append(found | {"ways": ways | found["ways"]})
    return {"rows": rows}


def optimum(rounds: int) -> dict[str, Any]:
    """`mesalens optimum --dim 20`."""
    found = rounds_of("optimum --dim 20", ["optimum", "--dim", "20"], rounds)
    return {"rows": [found]}


def nonlinear_parts(rounds: int) -> dict[str, Any]:
    """`sine` and `teachers` in one command, once, with empty caches."""
    parts = [f"{STUDY}/{part}" for part in ("sine", "teachers")]
    with new_folder() as folder:
        words = ["reproduce", *parts, "--out", "report", "--json"]
        run = Run([*MESALENS, *words], folder, folder / "caches")
    return {"rows": [row("sine and teachers", {"empty": [run]}, outcomes=outcomes(run.output))]}


def verdict(rounds: int) -> dict[str, Any]:
    """The part `training`, once with empty caches and once with filled ones."""
    with new_folder() as folder:
        words = ["reproduce", f"{STUDY}/training", "--json"]
        runs = empty_and_filled(words, folder, store=True)
    found = row("training", {state: [run] for state, run in runs.items()})
    return {"rows": [found | {"outcomes": outcomes(runs["filled"].output)}]}


def outcomes(output: str) -> dict[str, str]:
    """The outcome of each claim, from what `mesalens reproduce --json` prints."""
    studies = json.loads(output)["studies"]
    parts = [part for study in studies for part in study["parts"]]
    return {claim["claim"]: claim["outcome"] for part in parts for claim in part["claims"]}


def identify(rounds: int) -> dict[str, Any]:
    """`mesalens identify` for each learner, in half of the rounds, as one takes minutes."""
    tests = str(Path(__file__).parents[1] / "tests")
    files = {name: text.replace("{tests!r}", repr(tests)) for name, text in FILES.items()}
    rows, half = [], (rounds + 1) // 2
    for name, (package, words) in LEARNERS.items():
        limits.say(f"  {name}")
        if package is not None and importlib.util.find_spec(package) is None:
            reason = {"not_run": f"not run: {package} is not installed"}
            rows.append({"name": name, "ways": {"empty": reason, "filled": reason}})
            continue
        found = rounds_of(name, ["identify", *words, *TASK, "--json"], half, **files)
        answer = json.loads(found.pop("output"))
        rows.append(found | {"answer": answer["name"] or answer["verdict"]})
    return {"rows": rows}


PARTS = {
    "cold start": cold_start,
    "optimum": optimum,
    "nonlinear parts": nonlinear_parts,
    "verdict": verdict,
    "identify": identify,
}
"""What measures each part, from the number of rounds."""
