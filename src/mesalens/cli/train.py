"""`mesalens train` and `mesalens sweep`."""

import sys
from typing import Annotated, Any

import equinox as eqx
import jax
import matplotlib
import matplotlib.pyplot as plt
import pydantic
import xarray as xr
from rich.table import Table

from mesalens import plots
from mesalens.checks import InputError
from mesalens.cli.device import on
from mesalens.cli.interruption import StoppedError, stoppable
from mesalens.cli.options import Command, Folder, Inline, named
from mesalens.cli.output import console, print_json
from mesalens.kinds import overlay
from mesalens.progress import ProgressReport
from mesalens.storage import load_dataset
from mesalens.training import TrainingSettings
from mesalens.training.checkpoint import report_rest, steps_done
from mesalens.training.run_folder import (
    METRICS,
    begun,
    finished,
    load_settings,
    require_same,
    save_run,
    states_folder,
)
from mesalens.training.sweeps import plan


class Train(Command):
    """Trains learners, by default a layer of linear self-attention, and keeps settings, weights and
    metrics in a folder.

    The state is kept there too, every few seconds and when the training is stopped. The same
    command, or `mesalens train --resume FOLDER`, goes on from there to the same weights, bit for
    bit. With --vary all combinations of some settings' values are trained.
    """

    settings: Annotated[TrainingSettings, Inline()] = pydantic.Field(default={})  # pyright: ignore
    """the training"""
    out: Folder | None = None
    """a new folder for the training"""
    resume: Folder | None = None
    """the folder of a training to go on with; of its settings only the steps may grow"""
    config: Folder | None = None
    """a file with settings, as `settings.json` of a folder; options change them"""
    memory: float | None = None
    """GB that may be taken (what is free by default); a training that needs more goes in groups"""
    json_: bool = False
    """print a summary as JSON alone on standard output"""
    device: str | None = None
    """where to compute: cpu, gpu, … (JAX's choice by default)"""

    @classmethod
    def completed(cls, content: dict[str, Any]) -> dict[str, Any]:
        """The options over the settings that are resumed or read."""
        base = content.get("resume", content.get("config"))
        if base is None:
            return content
        stored = load_settings(named(base)).model_dump()
        return content | {"settings": overlay(stored, content.get("settings", {}))}

    def __call__(self) -> int:
        """Runs the training, and says what came out; 1 where every run diverged."""
        metrics = self._metrics()
        if isinstance(metrics, int):
            return metrics
        self._say(metrics)
        return int((metrics.ending == "diverged").all())

    def _metrics(self) -> xr.Dataset | int:
        """The metrics of a finished training, or the exit code of one that was stopped."""
        settings, folder = self.settings, self.resume or self.out
        if folder is None or (self.resume and self.out):
            raise InputError("give a new folder as --out, or one to go on with as --resume.")
        # What is wrong is said before anything is written or computed
        programs = len(plan(settings)[1])
        eqx.filter_eval_shape(settings.initialise, jax.random.key(0))
        settings.optimiser.build().transformation(settings.steps)
        settings.key()
        if self.resume:
            require_same(folder, load_settings(folder), settings)
        steps, state = settings.steps * programs, states_folder(folder)
        with on(self.device):
            settings.stopping_rule()
            with begun(folder, settings):
                if finished(folder, settings.steps):
                    print(f"mesalens: {folder} is finished; give more --steps.", file=sys.stderr)
                    return load_dataset(folder / METRICS)
                try:
                    with stoppable() as check, ProgressReport(check) as progress:
                        if done := steps_done(state):
                            progress.say(f"going on from step {done} of {steps}")
                        report = report_rest(progress.start, self._title(programs), steps, state)
                        training = settings.train(
                            progress=report,
                            say=progress.say,
                            checkpoint=state,
                            memory=None if self.memory is None else self.memory * 1e9,
                        )
                        save_run(folder, settings, training)
                except StoppedError as stop:
                    print(
                        f"mesalens: stopped after step {steps_done(state)} of {steps}; go on with: "
                        f"mesalens train --resume {folder}",
                        file=sys.stderr,
                    )
                    return stop.exit_code
                return training.metrics

    def _title(self, programs: int) -> str:
        settings = self.settings
        if not settings.vary:
            return f"training {settings.model.kind}, seeds {settings.seeds}"
        runs = settings.seeds
        for values in settings.vary.values():
            runs *= len(values)
        return f"training {runs} runs in {programs} program{'s' * (programs > 1)}"

    def _say(self, metrics: xr.Dataset) -> None:
        folder, settings = self.resume or self.out, self.settings
        last = metrics.loss.isel(step=-1)
        axes = [axis for axis in metrics.ending.dims if axis != "seed"]
        if axes:
            _draw(metrics, folder)
        if self.json_:
            print_json(
                {
                    "out": str(folder),
                    **last.drop_vars("step").to_dict()["coords"],
                    "loss": last.values.tolist(),
                    "ending": metrics.ending.values.tolist(),
                    "steps_taken": metrics.steps_taken.values.tolist(),
                    "settings": settings.model_dump(mode="json"),
                }
            )
            return
        if axes:
            console().print(_table(last, axes))
            print(f"The sweep: {folder} (metrics.nc, weights.safetensors, sweep.png)")
            return
        chunk = min(settings.every, settings.steps)
        losses = ", ".join(f"{loss:.4g}" for loss in last.values.tolist())
        print(f"loss of the last {chunk} steps: {losses}")
        for ending in ("converged", "diverged"):
            runs = metrics.steps_taken.values[metrics.ending.values == ending].tolist()
            if runs:
                print(f"{ending}: {len(runs)} of {settings.seeds} seeds, after steps {runs}")
        print(f"The run: {folder}. Next: mesalens compare {folder}")


class Sweep(Train):
    """Trains all combinations of the values given by --vary, from every seed, and keeps one
    labelled dataset, the weights and a figure.

    All runs go at once where shapes agree: learning rates, initial scales, noise levels, scales of
    a task. It can be stopped and resumed as `mesalens train` can.
    """

    def __call__(self) -> int:
        """Runs the sweep."""
        if not self.settings.vary:
            raise InputError("give settings with values, as --vary learning_rate=1e-3,3e-3.")
        return super().__call__()


def _draw(metrics: xr.Dataset, folder: Any) -> None:
    matplotlib.use("agg")  # figures go to files; there may be no display
    with plots.style():
        figure = plots.sweep_figure(metrics)
        figure.savefig(folder / "sweep.png", bbox_inches="tight")
    plt.close(figure)


def _table(last: xr.DataArray, axes: list[Any]) -> Table:
    table = Table(*map(str, axes), "median loss", "least, greatest", "converged", "diverged")
    for point in last.stack(point=axes).transpose("point", "seed"):
        endings = point.ending.values.tolist()
        table.add_row(
            *(str(point[axis].item()) for axis in axes),
            f"{float(point.median()):.4g}",
            f"{float(point.min()):.4g}, {float(point.max()):.4g}",
            *(str(endings.count(ending)) for ending in ("converged", "diverged")),
        )
    return table
