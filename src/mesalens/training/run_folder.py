"""A finished training run on disk: settings, weights, metrics."""

from pathlib import Path

import equinox as eqx
import jax
import pydantic

from mesalens.checks import InputError
from mesalens.storage import load_arrays, load_dataset, load_text, save_arrays, save_dataset
from mesalens.training.settings import TrainingSettings
from mesalens.training.train import Training


def save_run(folder: Path, settings: TrainingSettings, training: Training) -> None:
    """Writes `settings.json`, `weights.safetensors` (leading axis: seeds) and `metrics.nc` into an existing folder."""
    (folder / "settings.json").write_text(settings.model_dump_json(indent=2) + "\n", encoding="utf-8")
    save_arrays(training.learners, folder / "weights.safetensors")
    save_dataset(training.metrics, folder / "metrics.nc")


def load_run(folder: Path) -> tuple[TrainingSettings, Training]:
    """Reads back what `save_run` wrote; raises `ValueError` where the folder is incomplete or damaged."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give one that `mesalens train --out` wrote.")
    text = load_text(folder / "settings.json")
    try:
        settings = TrainingSettings.model_validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole file"
        raise InputError(
            f"{folder / 'settings.json'} is damaged ({place}: {first['msg']}); restore the file or train again."
        ) from None
    settings.task()
    template = eqx.filter_eval_shape(
        lambda: eqx.filter_vmap(settings.initialise)(jax.random.split(jax.random.key(0), settings.seeds))
    )
    learners = load_arrays(template, folder / "weights.safetensors")
    return settings, Training(learners, load_dataset(folder / "metrics.nc"))
