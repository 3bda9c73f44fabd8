"""`Checkpoint`: the states of a training on disk, from which it continues bit for bit."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import PyTree, Shaped

from mesalens.checks import InputError
from mesalens.files import make_folder, remove_empty, remove_unfinished, replace_file, writing
from mesalens.storage import named_arrays, with_arrays

LOCK = "in-use.lock"
PART, RUN, POINT = "program-", "run-", "point-"
"""Prefixes of the folders of a sweep's programs, and of their parts."""
SECONDS_BETWEEN_SAVES = 5.0
"""The shortest time between two states, unless a training stops: a run that is killed loses at most
this and one chunk of steps."""

Metrics = dict[str, Shaped[np.ndarray, "runs points"]]


class InUseError(InputError):
    """Another process is using the folder."""


class Snapshot(NamedTuple):
    """Everything that a training needs in order to continue.

    `points` are the steps at which was measured; the last one is that of the state. `at_once` is
    the number of runs computed together, which affects rounding in a shared `vmap`.
    """

    points: list[int]
    state: PyTree
    metrics: Metrics
    at_once: dict[str, int | None]


@dataclass
class Checkpoint:
    """A folder with the last two states of one training, each in a file that is written atomically.

    `training` identifies the training, and `environment` the machine and versions, both as JSON
    values by name. `say` gets messages about damaged or unusable files. A file has a checksum and
    the arrays `state.…` (by their paths in the pytree), `metrics.…` (runs × points) and `points`.
    """

    folder: Path
    training: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)
    say: Callable[[str], object] = print
    _saved: float = field(default=-np.inf, init=False)
    _useless: set[Path] = field(default_factory=set, init=False)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A context in which other processes cannot use the folder; see `exclusive`."""
        with exclusive(self.folder, keep=lambda: bool(states(self.folder))):
            remove_unfinished(self.folder)
            yield

    def load(self, state: PyTree, steps: int) -> Snapshot | None:
        """The newest intact state of this training, or None if there is no state.

        If a file is damaged or belongs to another training and the one before it is usable, that
        one is loaded, with a message.

        Args:
            state: Any state of the same training, for its structure.
            steps: The number of steps of the training.

        Raises:
            ValueError: if no file is usable, or the state has more steps.
        """
        files = states(self.folder)
        problems: list[str] = []
        for file in files:
            try:
                snapshot = self._read(file, state)
            except InputError as error:
                problems.append(str(error))
                continue
            done = snapshot.points[-1]
            for problem in problems:
                self.say(f"{problem} Continuing from the state before it, step {done}.")
            if done > steps:
                raise InputError(
                    f"{self.folder} holds a training of {done} steps; steps={steps} is less. Give "
                    "at least as many steps, or another folder."
                )
            self._useless = set(files[: len(problems)])
            return snapshot
        if problems:
            other = " The state before it is unusable too." if len(problems) > 1 else ""
            raise InputError(f"{problems[0]}{other} Give another folder, or delete {self.folder}.")
        return None

    def save(self, snapshot: Snapshot, *, now: bool = False) -> bool:
        """Saves a state if enough time has passed, or `now`; returns whether it did.

        All but the last two states are deleted.

        Raises:
            ValueError: if it cannot be written, for example on a full disk; earlier states remain.
        """
        if not now and time.monotonic() - self._saved < SECONDS_BETWEEN_SAVES:
            return False
        arrays = named_arrays(snapshot._replace(points=np.array(snapshot.points)))
        identity = {"training": self.training, "environment": self.environment}
        contents = {"metrics": sorted(snapshot.metrics), "at_once": snapshot.at_once}
        about = json.dumps(identity | contents)
        metadata = {"about": about, "sha256": checksum(arrays, about)}
        file = self.folder / f"{snapshot.points[-1]:012d}.safetensors"
        advice = "the state before it is whole; fix the cause, and run the same command again"
        with writing(self.folder, advice):
            replace_file(file, safetensors.numpy.save(arrays, metadata))
            self._useless.discard(file)
            # Unusable files do not count, or only one usable state would be left beside them
            good = [other for other in states(self.folder) if other not in self._useless]
            for old in good[2:]:
                old.unlink()
        self._saved = time.monotonic()
        return True

    def _read(self, file: Path, state: PyTree) -> Snapshot:
        about, arrays = read_state(file)
        with _damage(file):
            if changes := self._changes(about):
                raise InputError(f"{file} is the state of another training ({'; '.join(changes)}).")
            points = arrays.pop("points").tolist()
            metrics = {name: arrays.pop(f"metrics.{name}") for name in about["metrics"]}
            state = with_arrays({"state": state}, arrays)["state"]
            return Snapshot(points, state, metrics, about["at_once"])

    def _changes(self, about: Mapping[str, Any]) -> list[str]:
        """What differs from this training: settings, or (if versions agree) programs."""
        versions = differences(about["environment"], self.environment)
        stored, current = dict(about["training"]), dict(self.training)
        before, now = stored.pop("programs", {}), current.pop("programs", {})
        if settings := differences(stored, current):
            return settings
        if versions:
            self.say(f"The training continues, but not bit for bit ({'; '.join(versions)}).")
            return []
        return [f"the {name} differ" for name, digest in before.items() if now.get(name) != digest]


@contextmanager
def exclusive(folder: Path, keep: Callable[[], bool]) -> Iterator[None]:
    """A context that creates a folder, and in which other processes cannot use it.

    If `keep()` is false at the end, the folder is removed if it was created here and is empty.

    Raises:
        ValueError: if another process is using the folder, or it cannot be written.
    """
    missing = make_folder(folder)
    lock = filelock.FileLock(folder / LOCK)
    with writing(folder / LOCK):
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            message = f"another process is training in {folder}; wait until it ends."
            raise InUseError(message) from None
    try:
        yield
    finally:
        lock.release()
        if not keep():
            with suppress(OSError):
                (folder / LOCK).unlink(missing_ok=True)
            remove_empty(missing)


def differences(stored: Mapping[str, Any], current: Mapping[str, Any], path: str = "") -> list[str]:
    """The differences of two settings, such as `task.dim is 3 in the folder and 4 here`."""
    stored, current = (json.loads(json.dumps(dict(settings))) for settings in (stored, current))
    changes: list[str] = []
    for name in {**stored, **current}:
        before, after = stored.get(name, "not set"), current.get(name, "not set")
        if isinstance(before, dict) and isinstance(after, dict):
            changes += differences(before, after, f"{path}{name}.")
        elif before != after:
            changes.append(f"{path}{name} is {before} in the folder and {after} here")
    return changes


def checksum(arrays: Mapping[str, np.ndarray], about: str) -> str:
    """SHA-256 of arrays, with their names, types and shapes, and of a text."""
    digest = hashlib.sha256(about.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def read_state(file: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The description of a state, and its arrays; raises `ValueError` if the file is damaged."""
    with _damage(file):
        with safetensors.safe_open(file, "numpy") as stored:
            metadata = stored.metadata() or {}
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        if "sha256" not in metadata:
            raise ValueError("it is not the state of a training")
        if checksum(arrays, metadata["about"]) != metadata["sha256"]:
            raise ValueError("its checksum does not match")
        return json.loads(metadata["about"]), arrays


def fingerprint(lowered: Any) -> str:
    """A digest of a program that JAX lowered, including all sizes and numbers in it."""
    return hashlib.sha256(lowered.as_text().encode()).hexdigest()


def states(folder: Path) -> list[Path]:
    """The files with states in a folder, newest first; raises `ValueError` if it is unreadable."""
    try:
        files = [file for file in folder.iterdir() if file.suffix == ".safetensors"]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}).") from None
    return sorted((file for file in files if file.stem.isdigit()), reverse=True)


def steps_done(folder: Path) -> int:
    """The steps of the newest intact state in a folder, or 0; of a sweep, the sum over programs."""
    files = states(folder)
    if parts := [part for start in (PART, RUN, POINT) for part in folder.glob(f"{start}*")]:
        return sum(map(steps_done, parts))
    for file in files:
        with suppress(InputError, LookupError):
            return int(read_state(file)[1]["points"][-1])
    return 0


def report_rest(
    start: Callable[[str, int], Callable[[int], object]],
    title: str,
    steps: int,
    checkpoint: Path | None,
) -> Callable[[int], object]:
    """`start(title, steps)` for the steps that are left, so that the rate shown is right."""
    done = 0 if checkpoint is None else steps_done(checkpoint)
    if not done:
        return start(title, steps)
    report = start(f"{title}, from step {done}", max(steps - done, 0))
    return lambda step: report(step - done)


@contextmanager
def _damage(file: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (OSError, LookupError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(f"{file} is damaged ({error}).") from None
