"""`Checkpoint`: the state of a training on disk, from which it goes on bit for bit."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import PyTree, Shaped

from mesalens.checks import InputError
from mesalens.storage import named_arrays, replace_file, require_writable, with_arrays

FILE = "state.safetensors"

Metrics = dict[str, Shaped[np.ndarray, "seeds points"]]


@dataclass(frozen=True)
class Checkpoint:
    """A folder with the state of one training, in a file that is replaced whole.

    `training` says which one it is: by name, in values that JSON has. The arrays of the file are `state.…`, under their paths in the
    pytree; `metrics.…`, seeds × points; and `points`, the numbers of steps after which was measured, the last of them the state's.
    """

    folder: Path
    training: Mapping[str, Any]

    def load(self, state: PyTree, steps: int) -> tuple[list[int], PyTree, Metrics] | None:
        """The points, the state and the metrics that were kept, or None where nothing was.

        `state` is any of the same training. Raises `ValueError` where what was kept is damaged, belongs to another training, or is
        of more than `steps` steps; and where there are steps to take, whose states cannot be written.
        """
        file = self.folder / FILE
        if not _is_there(file):
            require_writable(self.folder)
            return None
        with _damage(file):
            with safetensors.safe_open(file, "numpy") as stored:
                training = json.loads(stored.metadata()["training"])
                arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118, no mapping
            difference = [name for name, value in self.training.items() if training.get(name) != value]
            points = arrays.pop("points").tolist()
            metrics = {name: arrays.pop(f"metrics.{name}") for name in training["metrics"]}
            if not difference:
                state = with_arrays({"state": state}, arrays)["state"]
        if difference:
            raise InputError(
                f"{self.folder} keeps the state of another training (the two differ in {difference[0]}); ask for that one to go on with "
                "it, give another name for this one, or delete that folder."
            )
        if points[-1] > steps:
            raise InputError(
                f"{self.folder} keeps a training after {points[-1]} steps; give at least as many, or another name."
            )
        if points[-1] < steps:
            require_writable(self.folder)
        return points, state, metrics

    def save(self, points: list[int], state: PyTree, metrics: Metrics) -> None:
        """Replaces what was kept; raises `ValueError` where the folder cannot be written, and then leaves what was there."""
        arrays = named_arrays({"points": np.array(points), "state": state, "metrics": metrics})
        content = safetensors.numpy.save(arrays, {"training": json.dumps(dict(self.training))})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(self.folder / FILE, content)
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written ({error.strerror}); give another folder.") from None


def fingerprint(function: Callable, *arguments: PyTree) -> str:
    """A digest of the program that JAX compiles of a function, with all sizes and numbers in it: the same in every process."""
    compiled: Any = eqx.filter_jit(function)
    return hashlib.sha256(compiled.lower(*arguments).as_text().encode()).hexdigest()


def steps_done(folder: Path) -> int:
    """The steps after which the state in a checkpoint folder was left, 0 where there is none; raises `ValueError` where it cannot be read."""
    file = folder / FILE
    if not _is_there(file):
        return 0
    with _damage(file), safetensors.safe_open(file, "numpy") as stored:
        return int(stored.get_tensor("points")[-1])


def report_rest(
    start: Callable[[str, int], Callable[[int], object]], title: str, steps: int, checkpoint: Path | None
) -> Callable[[int], object]:
    """`start(title, steps)`, but of the steps that a checkpoint leaves to do, so that rate and time left are those of this run."""
    done = 0 if checkpoint is None else steps_done(checkpoint)
    if not done:
        return start(title, steps)
    report = start(f"{title}, from step {done}", max(steps - done, 0))
    return lambda step: report(step - done)


def _is_there(file: Path) -> bool:
    """Whether a file exists; raises where its name is none, or nobody may look."""
    try:
        return file.exists()
    except OSError as error:
        raise InputError(f"{file.parent} cannot be read ({error.strerror}); give another folder.") from None


@contextmanager
def _damage(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, LookupError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(f"{file} is damaged ({error}); delete {file.parent} to begin anew.") from None
