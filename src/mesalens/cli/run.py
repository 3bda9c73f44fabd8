"""What `mesalens train` and `mesalens sweep` share: a run in a folder, that can be stopped and gone on with."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import xarray as xr

from mesalens import random
from mesalens.checks import InputError
from mesalens.cli.device import on
from mesalens.cli.interruption import StoppedError, stoppable
from mesalens.progress import ProgressReport
from mesalens.training import Training, TrainingSettings
from mesalens.training.checkpoint import differences, report_rest, steps_done
from mesalens.training.run_folder import METRICS, begun, finished, load_dataset, load_settings, save_run, states_of

Settings = TypeVar("Settings", bound=TrainingSettings)
Work = Callable[..., Training]


def resumed(arguments: list[str], model: type[Settings]) -> Settings:
    """The settings of the run that a command line asks to resume, or the defaults; so what it gives besides is what it changes."""
    for option, after in zip(arguments, [*arguments[1:], ""], strict=True):
        name, _, value = option.partition("=")
        if name == "--resume" and (value or after):
            return load_settings(Path(value or after), model)
    return model()


def folder_of(out: Path | None, resume: Path | None) -> Path:
    """The folder of the run; raises where there is none, or two."""
    folder = resume or out
    if folder is None or (resume and out):
        raise InputError("give a new folder for the run as --out, or that of one to go on with as --resume.")
    return folder


def carry_out(
    settings: Settings,
    stored: Settings | None,
    folder: Path,
    *,
    command: str,
    title: str,
    steps: int,
    device: str | None,
    work: Work,
) -> xr.Dataset | int:
    """The metrics of a finished run, or the exit code of one that was stopped.

    `stored` are the settings of a run that is resumed. `work` trains, with the `progress`, `say` and `checkpoint` of `train`, in all so many `steps`.
    """
    # Say what is wrong before anything is computed
    settings.task()
    settings.optimiser()
    eqx.filter_eval_shape(settings.initialise, random.key(settings.seed, settings.generator))
    if stored is not None:
        _require_same(settings, stored, folder)
    with on(device):
        settings.stopping_rule()
        with begun(folder, settings):
            if finished(folder, settings.steps):
                print(f"mesalens: {folder} is finished; to go on, give more --steps.", file=sys.stderr)
                return load_dataset(folder / METRICS)
            state = states_of(folder)
            try:
                with stoppable() as check, ProgressReport(check) as progress:
                    if done := steps_done(state):
                        progress.say(f"going on from step {done} of {steps}, where the run was stopped")
                    report = report_rest(progress.start, title, steps, state)
                    training = work(progress=report, say=progress.say, checkpoint=state)
                save_run(folder, settings, training)
            except (StoppedError, KeyboardInterrupt) as stop:
                done = steps_done(state)
                print(
                    f"mesalens: stopped after step {done} of {steps}; go on with: mesalens {command} --resume {folder}",
                    file=sys.stderr,
                )
                return stop.exit_code if isinstance(stop, StoppedError) else 130
            return training.metrics


def _require_same(settings: Settings, stored: Settings, folder: Path) -> None:
    """Raises where the settings are others than those of the run, but for more steps."""

    def but_steps(of: TrainingSettings) -> dict[str, Any]:
        return of.model_dump(exclude={"steps"})

    found = differences(but_steps(stored), but_steps(settings))
    if settings.steps < stored.steps:
        found.append(f"steps is {stored.steps} there and {settings.steps} here")
    if found:
        raise InputError(
            f"{folder} is a run with other settings ({'; '.join(found)}); leave these out, or train anew with --out."
        )
