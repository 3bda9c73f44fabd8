"""`Checkpoint`: the states of a training on disk, from which it goes on bit for bit."""

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
from mesalens.storage import named_arrays, remove_unfinished, replace_file, require_writable, with_arrays

LOCK = "in-use.lock"
PART = "program-"
"""So begin the folders of the programs of a sweep, in that of the sweep."""
SECONDS_BETWEEN_SAVES = 5.0
"""States follow each other no faster, unless a training stops; a run that is killed loses no more than this and a chunk of steps."""

Metrics = dict[str, Shaped[np.ndarray, "runs points"]]


class Kept(NamedTuple):
    """All that a training needs to go on: the numbers of steps after which was measured, the last of them the state's; and how many
    runs went at once, as where they share a `vmap` this decides about rounding.
    """

    points: list[int]
    state: PyTree
    metrics: Metrics
    at_once: dict[str, int | None]


@dataclass
class Checkpoint:
    """A folder with the last two states of one training, each in a file that appears whole, with a checksum.

    `training` says which training it is, `environment` on what it runs, by name in values that JSON has. `say` takes the lines that tell what was found.

    The arrays of a file are `state.…`, under their paths in the pytree; `metrics.…`, runs × points; and `points`.
    """

    folder: Path
    training: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)
    say: Callable[[str], object] = print
    _saved: float = field(default=-np.inf, init=False)
    _of_no_use: set[Path] = field(default_factory=set, init=False)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other processes out of the folder in the block; raises `ValueError` where one is in it, or it cannot be written."""
        missing = [place for place in (self.folder, *self.folder.parents) if not _is_there(place)]
        require_writable(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise InputError(
                f"another process is training in {self.folder}; wait until it has ended, or give another folder."
            ) from None
        try:
            remove_unfinished(self.folder)
            yield
        finally:
            lock.release()
            if not states(self.folder):
                with suppress(OSError):
                    (self.folder / LOCK).unlink(missing_ok=True)
                    for place in missing:
                        place.rmdir()

    def load(self, state: PyTree, steps: int) -> Kept | None:
        """The newest state that is whole and of this training, or None where none was kept.

        `state` is any of the same training. A file that is damaged or of another training is passed over, with a line, where the one before it
        is good. Raises `ValueError` where none is, with what is wrong with the newest; and where the training was kept after more than
        `steps` steps.
        """
        found = states(self.folder)
        wrong = []
        for file in found:
            try:
                kept = self._read(file, state)
            except InputError as error:
                wrong.append(str(error))
                continue
            for sentence in wrong:
                self.say(f"{sentence} Going on from the state before it, after {kept.points[-1]} steps.")
            if kept.points[-1] > steps:
                raise InputError(
                    f"{self.folder} keeps a training after {kept.points[-1]} steps; give at least as many, or another folder."
                )
            self._of_no_use = set(found[: len(wrong)])
            return kept
        if wrong:
            raise InputError(
                f"{wrong[0]} Give another folder, or delete {self.folder} to begin anew."
                if len(wrong) == 1
                else f"{wrong[0]} The state before it is of no use either. Give another folder, or delete {self.folder} to begin anew."
            )
        return None

    def save(self, kept: Kept, *, now: bool = False) -> bool:
        """Adds a state, if it is time for one or must be `now`, and drops all but the last two; returns whether it did.

        Raises `ValueError` where it cannot be written, as on a full disk; what was kept stays then.
        """
        if not now and time.monotonic() - self._saved < SECONDS_BETWEEN_SAVES:
            return False
        arrays = named_arrays({"points": np.array(kept.points), "state": kept.state, "metrics": kept.metrics})
        about = {
            "training": dict(self.training),
            "environment": dict(self.environment),
            "metrics": sorted(kept.metrics),
            "at_once": kept.at_once,
        }
        about = json.dumps(about)
        content = safetensors.numpy.save(arrays, {"about": about, "sha256": checksum(arrays, about)})
        file = self.folder / f"{kept.points[-1]:012d}.safetensors"
        try:
            replace_file(file, content)
            self._of_no_use.discard(file)
            # What was passed over is not counted, or a single state would be left beside it
            for old in [other for other in states(self.folder) if other not in self._of_no_use][2:]:
                old.unlink()
        except OSError as error:
            raise InputError(
                f"{self.folder} cannot be written ({error.strerror}); the state before is whole: mend that, and go on from it."
            ) from None
        self._saved = time.monotonic()
        return True

    def _read(self, file: Path, state: PyTree) -> Kept:
        about, arrays = read_state(file)
        with _damage(file):
            different = self._differences(about)
        if different:
            raise InputError(f"{file} is the state of another training ({'; '.join(different)}).")
        with _damage(file):
            points = arrays.pop("points").tolist()
            metrics = {name: arrays.pop(f"metrics.{name}") for name in about["metrics"]}
            return Kept(points, with_arrays({"state": state}, arrays)["state"], metrics, about["at_once"])

    def _differences(self, about: Mapping[str, Any]) -> list[str]:
        """What is other than in this training, one by one; digests of programs where nothing else is and the versions are the same."""
        changed = differences(about["environment"], self.environment)
        there, here = dict(about["training"]), dict(self.training)
        digests = {name: digest for name, digest in here.pop("programs", {}).items()}
        other_programs = [name for name, digest in there.pop("programs", {}).items() if digests.get(name) != digest]
        if found := differences(there, here):
            return found
        if changed:
            self.say(f"The training goes on, but not bit for bit ({'; '.join(changed)}).")
            return []
        return [f"the {name} differ" for name in other_programs]


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs between two settings, each in words: `learning_rate is 0.001 there and 0.002 here`."""
    there, here = (json.loads(json.dumps(dict(of))) for of in (there, here))
    return [
        f"{name} is {there.get(name, 'not set')} there and {here.get(name, 'not set')} here"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]


def checksum(arrays: Mapping[str, np.ndarray], about: str) -> str:
    """SHA-256 of arrays, with their names, types and shapes, and what is said about them."""
    digest = hashlib.sha256(about.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def read_state(file: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What is said about a state, and its arrays; raises `ValueError` where the file is damaged, truncated or none of ours."""
    with _damage(file):
        with safetensors.safe_open(file, "numpy") as stored:
            about = stored.metadata() or {}
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118, no mapping
        if "sha256" not in about:
            raise ValueError("it is no state of a training")
        if checksum(arrays, about["about"]) != about["sha256"]:
            raise ValueError("its checksum does not fit")
        return json.loads(about["about"]), arrays


def fingerprint(lowered: Any) -> str:
    """A digest of a program that JAX lowered, with all sizes and numbers in it: the same in every process."""
    return hashlib.sha256(lowered.as_text().encode()).hexdigest()


def states(folder: Path) -> list[Path]:
    """The files with states in a folder, the newest first."""
    if not _is_there(folder):
        return []
    return sorted((file for file in folder.glob("*.safetensors") if file.stem.isdigit()), reverse=True)


def steps_done(folder: Path) -> int:
    """The steps after which the newest whole state in a checkpoint folder was left, 0 where there is none; of a sweep, of all its programs."""
    if parts := sorted(folder.glob(f"{PART}*")) if _is_there(folder) else []:
        return sum(map(steps_done, parts))
    for file in states(folder):
        with suppress(InputError, LookupError):
            return int(read_state(file)[1]["points"][-1])
    return 0


def report_rest(
    start: Callable[[str, int], Callable[[int], object]], title: str, steps: int, checkpoint: Path | None
) -> Callable[[int], object]:
    """`start(title, steps)`, but of the steps that a checkpoint leaves to do, so that rate and time left are those of this run."""
    done = 0 if checkpoint is None else steps_done(checkpoint)
    if not done:
        return start(title, steps)
    report = start(f"{title}, from step {done}", max(steps - done, 0))
    return lambda step: report(step - done)


def _is_there(place: Path) -> bool:
    """Whether a file or folder exists; raises where its name is none, or nobody may look."""
    try:
        return place.exists()
    except OSError as error:
        raise InputError(f"{place} cannot be read ({error.strerror}); give another folder.") from None


@contextmanager
def _damage(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, LookupError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(f"{file} is damaged ({error}).") from None
