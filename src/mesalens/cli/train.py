"""`mesalens train`."""

from pathlib import Path
from typing import Annotated

import tyro

from mesalens.checks import InputError
from mesalens.cli.device import on
from mesalens.cli.output import Json, print_json
from mesalens.progress import ProgressReport
from mesalens.storage import new_folder
from mesalens.training import TrainingDivergedError, TrainingSettings, save_run


def train(
    settings: Annotated[TrainingSettings, tyro.conf.arg(name="")],
    *,
    out: Path,
    json: Json = False,
    device: str | None = None,
) -> int:
    """Trains linear transformers and keeps settings, weights and metrics in a folder.

    Args:
        settings: the run
        out: a new folder for the run
        json: print a summary as JSON alone on standard output
        device: where to compute: cpu, gpu, … (JAX's choice by default)
    """
    settings.task()
    with new_folder(out) as folder, on(device):
        with ProgressReport() as progress:
            title = f"training L = {settings.layers}, d = {settings.dim}, n = {settings.context_length}, {settings.seeds} seeds"
            try:
                training = settings.train(progress=progress.start(title, settings.steps))
            except TrainingDivergedError as error:
                raise InputError(str(error)) from None
        save_run(folder, settings, training)
    losses = training.metrics.loss.isel(step=-1).values.tolist()
    if json:
        print_json({"out": str(out), "loss": losses, "settings": settings.model_dump()})
    else:
        print(
            f"loss of the last {min(settings.every, settings.steps)} steps: {', '.join(f'{loss:.4f}' for loss in losses)}"
        )
        print(f"The run: {out}. Next: mesalens compare {out}")
    return 0
