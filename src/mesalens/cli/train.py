"""`mesalens train`."""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import equinox as eqx
import tyro

from mesalens import random
from mesalens.checks import InputError
from mesalens.cli.device import on
from mesalens.cli.output import Json, print_json
from mesalens.progress import ProgressReport
from mesalens.storage import new_folder
from mesalens.training import Training, TrainingDivergedError, TrainingSettings, save_run
from mesalens.training.checkpoint import report_rest, steps_done


def train(
    settings: Annotated[TrainingSettings, tyro.conf.arg(name="")],
    *,
    out: Path,
    json: Json = False,
    device: str | None = None,
) -> int:
    """Trains transformers, linear ones by default, and keeps settings, weights and metrics in a folder.

    A run that is stopped goes on where it was when the same command is given again: until it is finished, its state is in a hidden
    folder beside `out`.

    Args:
        settings: the run
        out: a new folder for the run
        json: print a summary as JSON alone on standard output
        device: where to compute: cpu, gpu, … (JAX's choice by default)
    """
    # Say what is wrong before anything is computed
    settings.task()
    eqx.filter_eval_shape(settings.initialise, random.key(settings.seed))
    unfinished = out.absolute().parent / f".{out.absolute().name}.unfinished"
    try:
        with new_folder(out) as folder, on(device):
            training = _train(settings, unfinished)
            save_run(folder, settings, training)
    except KeyboardInterrupt:
        if not (done := steps_done(unfinished)):
            raise
        print(f"mesalens: interrupted; run the same command again to go on from step {done}.", file=sys.stderr)
        return 130
    shutil.rmtree(unfinished)
    losses = training.metrics.loss.isel(step=-1).values.tolist()
    if json:
        print_json({"out": str(out), "loss": losses, "settings": settings.model_dump()})
    else:
        print(
            f"loss of the last {min(settings.every, settings.steps)} steps: {', '.join(f'{loss:.4f}' for loss in losses)}"
        )
        print(f"The run: {out}. Next: mesalens compare {out}")
    return 0


def _train(settings: TrainingSettings, unfinished: Path) -> Training:
    """Trains, or goes on from the state in a folder."""
    title = f"training L = {settings.layers}, d = {settings.dim}, n = {settings.context_length}, {settings.seeds} seeds"
    with ProgressReport() as progress:
        if done := steps_done(unfinished):
            progress.say(f"going on from step {done} of {settings.steps}, where the run was stopped")
        report = report_rest(progress.start, title, settings.steps, unfinished)
        try:
            return settings.train(progress=report, checkpoint=unfinished)
        except TrainingDivergedError as error:
            shutil.rmtree(unfinished, ignore_errors=True)  # going on would end there again
            raise InputError(str(error)) from None
