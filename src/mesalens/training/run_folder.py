"""A training on disk: settings, states while it is running, then weights and metrics."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import equinox as eqx
import jax

import mesalens
from mesalens.checks import InputError
from mesalens.files import make_folder, replace_file, writing
from mesalens.manifest import MANIFEST, DamagedError, read_manifest, verify, write_manifest
from mesalens.storage import load_arrays, load_dataset, load_text, save_arrays, save_dataset
from mesalens.training.checkpoint import LOCK, differences, exclusive, steps_done
from mesalens.training.old_settings import is_old, load_old_weights, upgraded
from mesalens.training.settings import TrainingSettings
from mesalens.training.training import Training

ADVICE = "fix that, and run the same command again"
SETTINGS, WEIGHTS, METRICS = "settings.json", "weights.safetensors", "metrics.nc"


def states_folder(folder: Path) -> Path:
    """The folder in which a training saves its states."""
    return Path(folder) / "state"


@contextmanager
def begun(folder: Path, settings: TrainingSettings) -> Iterator[None]:
    """Writes the settings into a new folder, or into that of the same training with fewer steps.

    Other processes cannot use the folder within the block. If the block raises an exception before
    it has saved a further step, the folder is restored.

    Raises:
        ValueError: if the folder cannot be written, is in use, is not a training, or holds a
            training with other settings, which the error names.
    """
    folder, file = Path(folder), Path(folder) / SETTINGS
    with exclusive(folder, keep=file.is_file):
        try:
            if files := {file.name for file in folder.iterdir()} - {LOCK}:
                if SETTINGS not in files:
                    raise InputError(f"{folder} is not empty; give a new folder.")
                require_same(folder, settings)
            before = file.read_bytes() if file.is_file() else None
            done = steps_done(states_folder(folder))
            with writing(folder, ADVICE):
                _write_settings(folder, settings)
            try:
                yield
            except Exception:
                if steps_done(states_folder(folder)) == done:
                    with suppress(OSError):
                        replace_file(file, before) if before is not None else file.unlink()
                raise
        finally:  # before the lock is released: a later lock file may be another process's
            with suppress(OSError):
                (folder / LOCK).unlink()


def require_same(folder: Path, settings: TrainingSettings) -> None:
    """Raises `ValueError` if settings differ from those of a folder, except for more steps."""
    stored = load_settings(folder)
    kept, given = (s.model_dump(mode="json", exclude={"steps"}) for s in (stored, settings))
    changes = differences(kept, given)
    if settings.steps < stored.steps:
        changes.append(f"steps is {stored.steps} in the folder and {settings.steps} here")
    if changes:
        raise InputError(
            f"{folder} holds a training with other settings ({'; '.join(changes)}); give another "
            "folder, or the same settings to continue it."
        )


def _write_settings(folder: Path, settings: TrainingSettings) -> None:
    content = {"mesalens": mesalens.__version__} | settings.model_dump(mode="json")
    replace_file(folder / SETTINGS, (json.dumps(content, indent=2) + "\n").encode())


def finished(folder: Path, steps: int) -> bool:
    """Whether a folder has undamaged weights and metrics of a training of this many steps."""
    if not (folder / WEIGHTS).is_file() or not (folder / METRICS).is_file():
        return False
    try:
        if manifest := read_manifest(folder):
            verify(folder, manifest, (WEIGHTS, METRICS))
    except DamagedError:
        return False
    metrics = load_dataset(folder / METRICS)
    ended = "ending" in metrics.coords and bool((metrics.ending != "all steps").all())
    return ended or int(metrics.step.values[-1]) >= steps


def save_run(folder: Path | str, settings: TrainingSettings, training: Training) -> None:
    """Saves a finished training; `load_run` reads it.

    Writes `settings.json`, `weights.safetensors` (whose arrays have leading axes for the runs),
    `metrics.nc` and `manifest.json`. Each file is written completely or not at all.

    Args:
        folder: The folder, which is created if it does not exist.
        settings: The settings of the training.
        training: Its result.

    Raises:
        ValueError: if the files cannot be written.
    """
    folder = Path(folder)
    make_folder(folder)
    with writing(folder, ADVICE):
        (folder / MANIFEST).unlink(missing_ok=True)  # a folder that has one is complete
        _write_settings(folder, settings)
        save_arrays(training.learners, folder / WEIGHTS)
        save_dataset(training.metrics, folder / METRICS)
        kind = "sweep" if settings.vary else "run"
        write_manifest(folder, kind, {}, (SETTINGS, WEIGHTS, METRICS))


def load_settings(folder: Path | str) -> TrainingSettings:
    """The settings of a training, from its folder or a file such as its `settings.json`.

    Raises:
        ValueError: if there are none, or they are damaged or of an unreadable version.
    """
    return _load_settings(Path(folder))[0]


def _load_settings(folder: Path) -> tuple[TrainingSettings, bool]:
    """The settings of a folder, and whether mesalens 0.1 wrote them."""
    file = folder if folder.is_file() else folder / SETTINGS
    kind = None
    with suppress(DamagedError):
        kind = (read_manifest(folder) or {}).get("kind")
    if kind not in (None, "run", "sweep"):
        raise InputError(
            f"{folder} holds a {kind}, not a training; give a folder that `mesalens train` wrote."
        )
    if not file.is_file() and not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give one that `mesalens train` wrote.")
    text = load_text(file)
    try:
        content: Any = json.loads(text)
    except ValueError as error:
        raise InputError(f"{file} is damaged ({error}).") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} is damaged (it is not a mapping).")
    old = is_old(content)
    writer = content.pop("mesalens", "0.1" if old else None)
    if "verdicts" in content or "study" in content:
        raise InputError(
            f"{folder} holds a report, not a training; give a folder that `mesalens train` wrote."
        )
    if writer is None:
        raise InputError(f"{file} is damaged (it has no version of mesalens).")
    try:
        return TrainingSettings.read(upgraded(content) if old else content), old
    except InputError as error:
        reason = f"{str(error).rstrip('.')}; mesalens {writer} wrote it"
        raise InputError(
            f"{file} cannot be read by mesalens {mesalens.__version__} ({reason})."
        ) from None


def load_run(folder: Path | str) -> tuple[TrainingSettings, Training]:
    """The settings and the result of a finished training, from its folder.

    Args:
        folder: A folder that `save_run`, `mesalens train` or `mesalens sweep` wrote.

    Returns:
        The `TrainingSettings` and the `Training`.

    Raises:
        ValueError: if the folder is incomplete or damaged, or the training is not finished.
    """
    from mesalens.training.sweeps import steps_of  # which needs these settings

    folder = Path(folder)
    settings, old = _load_settings(folder)
    done = steps_done(states_folder(folder))
    again = f"mesalens train --resume {folder}"
    complete = done == settings.steps and (folder / MANIFEST).is_file()
    if done and not complete and not finished(folder, settings.steps):
        raise InputError(
            f"the training in {folder} is not finished (step {done} of "
            f"{steps_of(settings, states_folder(folder))}); continue it with: {again}"
        )
    try:
        if manifest := read_manifest(folder):
            verify(folder, manifest)
    except DamagedError as error:
        advice = f"recreate it with: {again}" if done else "restore it, or train again."
        raise DamagedError(f"{str(error).rstrip('.')}; {advice}") from None
    metrics = load_dataset(folder / METRICS)
    runs = metrics.ending.shape if "ending" in metrics else (settings.seeds,)

    def of_runs(leaf):
        shaped = isinstance(leaf, jax.ShapeDtypeStruct)
        return leaf.update(shape=(*runs, *leaf.shape)) if shaped else leaf

    learner = eqx.filter_eval_shape(settings.initialise, jax.random.key(0))
    load = load_old_weights if old else load_arrays
    return settings, Training(load(jax.tree.map(of_runs, learner), folder / WEIGHTS), metrics)
