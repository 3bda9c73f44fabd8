"""A training run on disk: settings, states while it is on its way, weights and metrics once it is finished."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import equinox as eqx
import jax
import pydantic

from mesalens.checks import InputError
from mesalens.storage import (
    load_arrays,
    load_dataset,
    load_text,
    replace_file,
    require_writable,
    save_arrays,
    save_dataset,
)
from mesalens.tasks.settings import TaskSettings
from mesalens.training.checkpoint import differences, steps_done
from mesalens.training.settings import TrainingSettings
from mesalens.training.training import Training

SETTINGS, WEIGHTS, METRICS = "settings.json", "weights.safetensors", "metrics.nc"

Model = TypeVar("Model", bound=TaskSettings)


def states_of(folder: Path) -> Path:
    """Where a run keeps its states."""
    return Path(folder) / "state"


def begin_run(folder: Path, settings: TrainingSettings) -> None:
    """Writes the settings into a new folder, or into that of the same run, whose steps may grow.

    Raises `ValueError` where it cannot be written, or holds something else or a run with other settings, which are named.
    """
    folder = Path(folder)
    require_writable(folder)
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / SETTINGS).is_file():
            raise InputError(f"{folder} is not empty; give the name of a new folder, so that nothing is lost.")
        stored = load_settings(folder, type(settings))
        found = differences(stored.model_dump(exclude={"steps"}), settings.model_dump(exclude={"steps"}))
        if settings.steps < stored.steps:
            found.append(f"steps is {stored.steps} there and {settings.steps} here")
        if found:
            raise InputError(
                f"{folder} keeps a run with other settings ({'; '.join(found)}); give another folder, or the same settings to go on with it."
            )
    folder.mkdir(parents=True, exist_ok=True)
    with _writing(folder):
        replace_file(folder / SETTINGS, (settings.model_dump_json(indent=2) + "\n").encode())


@contextmanager
def begun(folder: Path, settings: TrainingSettings) -> Iterator[None]:
    """`begin_run`; where the block raises `ValueError` before it has kept a further step, all is as it was."""
    folder = Path(folder)
    require_writable(folder)
    file, missing = folder / SETTINGS, [place for place in (folder, *folder.parents) if not place.exists()]
    before, done = file.read_bytes() if file.is_file() else None, steps_done(states_of(folder))
    begin_run(folder, settings)
    try:
        yield
    except InputError:
        if steps_done(states_of(folder)) == done:
            with suppress(OSError):
                if before is None:
                    file.unlink(missing_ok=True)
                    for place in missing:
                        place.rmdir()
                else:
                    replace_file(file, before)
        raise


def finished(folder: Path, steps: int) -> bool:
    """Whether weights and metrics of so many steps lie in a folder."""
    folder = Path(folder)
    if not (folder / WEIGHTS).is_file() or not (folder / METRICS).is_file():
        return False
    metrics = load_dataset(folder / METRICS)
    ended = "ending" in metrics.coords and bool((metrics.ending != "all steps").all())
    return ended or int(metrics.step.values[-1]) >= steps


def save_run(folder: Path, settings: TrainingSettings, training: Training) -> None:
    """Writes `settings.json`, `weights.safetensors` (leading axis: seeds) and `metrics.nc`, each whole or not at all.

    Raises `ValueError` where they cannot be written.
    """
    with _writing(folder):
        replace_file(folder / SETTINGS, (settings.model_dump_json(indent=2) + "\n").encode())
        save_arrays(training.learners, folder / WEIGHTS)
        save_dataset(training.metrics, folder / METRICS)  # the last, as they say that the run is finished


def load_settings(folder: Path, model: type[Model] = TrainingSettings) -> Model:
    """The settings of a run; raises `ValueError` where there are none, or they are damaged."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give one that `mesalens train --out` wrote.")
    text = load_text(folder / SETTINGS)
    try:
        return model.model_validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole file"
        raise InputError(
            f"{folder / SETTINGS} is damaged ({place}: {first['msg']}); restore the file or train again."
        ) from None


def load_run(folder: Path) -> tuple[TrainingSettings, Training]:
    """Reads back what `save_run` wrote; raises `ValueError` where the folder is incomplete or damaged, or the run is not finished."""
    folder = Path(folder)
    settings = load_settings(folder)
    settings.task()
    if not finished(folder, settings.steps) and (done := steps_done(states_of(folder))):
        raise InputError(
            f"the run in {folder} is not finished (step {done} of {settings.steps}); go on with: mesalens train --resume {folder}"
        )
    template = eqx.filter_eval_shape(
        lambda: eqx.filter_vmap(settings.initialise)(jax.random.split(jax.random.key(0), settings.seeds))
    )
    learners = load_arrays(template, folder / WEIGHTS)
    return settings, Training(learners, load_dataset(folder / METRICS))


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # netCDF's is a RuntimeError
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{folder} cannot be written ({reason}); mend that, and give the same command again."
        ) from None
