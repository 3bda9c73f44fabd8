"""How long `mesalens identify` takes, from the start of the process to its end, and its memory."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
    """Runs each learner with an empty cache of compiled programs, and again."""
    tests = str(Path(__file__).parent.parent / "tests")
    with tempfile.TemporaryDirectory() as folder:
        for name, text in FILES.items():
            Path(folder, name).write_text(text.replace("{tests!r}", repr(tests)))
        for name, words in LEARNERS.items():
            cache = Path(folder) / f"cache {name}"
            for state in ("empty", "filled"):
                print(json.dumps({"learner": name, "cache": state} | _run(folder, cache, words)))


def _run(folder: str, cache: Path, words: list[str]) -> dict[str, object]:
    command = [sys.executable, "-m", "mesalens", "identify", *words, "--json"]
    command += ["--dim", "5", "--context-length", "12", "--noise-variance", "0.25"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    began = time.perf_counter()
    with subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        output, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(errors.decode())
    seconds = time.perf_counter() - began
    answer = json.loads(output)
    return {"seconds": round(seconds, 1), "verdict": answer["verdict"], "name": answer["name"]}


if __name__ == "__main__":
    main()
