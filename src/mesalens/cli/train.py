"""`mesalens train` and `mesalens sweep`."""

import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import matplotlib
import matplotlib.pyplot as plt
import pydantic
import xarray as xr
from rich.table import Table

from mesalens import plots
from mesalens.checks import InputError
from mesalens.cli.interruption import StoppedError, stoppable
from mesalens.cli.options import Command, Folder, named
from mesalens.cli.output import console, print_json
from mesalens.kinds import overlay
from mesalens.progress import ProgressReport
from mesalens.storage import load_dataset
from mesalens.training import TrainingSettings, run_folder
from mesalens.training.checkpoint import report_rest, steps_done
from mesalens.training.sweeps import plan, steps_of


class Train(Command, TrainingSettings):
    """Trains learners, by default a layer of linear self-attention, and keeps settings, weights and
    metrics in a folder.

    The state is kept there too, every few seconds and when the training is stopped. The same
    command, or `mesalens train --resume FOLDER`, goes on from there to the same weights, bit for
    bit. With --vary all combinations of some settings' values are trained.
    """

    out: Folder | None = None
    """a new folder for the training"""
    resume: Folder | None = None
    """the folder of a training to go on with; of its settings only the steps may grow"""
    config: Folder | None = None
    """a file with settings, as `settings.json` of a folder; options change them"""
    memory: float | None = None
    """GB that may be taken (what is free by default); a training that needs more goes in groups"""
    cluster: str | None = None
    """a Dask cluster to compute on: local:4, tcp://host:8786, or a scheduler file"""
    device: str | None = None
    """where to compute: cpu, gpu, … (JAX's choice by default)"""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _over_stored(cls, content: dict[str, Any]) -> dict[str, Any]:
        """The options over the settings that are resumed or read."""
        base = content.get("resume", content.get("config"))
        if base is None:
            return content
        return overlay(run_folder.load_settings(named(base)).model_dump(), content)

    @functools.cached_property
    def settings(self) -> TrainingSettings:
        """The training alone, without where and how it is run."""
        values = {name: getattr(self, name) for name in TrainingSettings.model_fields}
        return TrainingSettings(**values)

    @functools.cached_property
    def folder(self) -> Path:
        """The folder of the training, new or old."""
        folder = self.resume or self.out
        if folder is None or (self.resume and self.out):
            raise InputError("give a new folder as --out, or one to go on with as --resume.")
        return folder

    def __call__(self) -> int:
        """Runs the training, and says what came out; 1 where every run diverged."""
        metrics = self._metrics()
        if isinstance(metrics, int):
            return metrics
        self._say(metrics)
        return int((metrics.ending == "diverged").all())

    def _metrics(self) -> xr.Dataset | int:
        """The metrics of a finished training, or the exit code of one that was stopped."""
        settings, folder = self.settings, self.folder
        # What is wrong is said before anything is written or computed
        programs = len(plan(settings)[1])
        if self.cluster is not None and self.memory:
            raise InputError("--memory is for this machine; a cluster's workers have theirs.")
        eqx.filter_eval_shape(settings.initialise, jax.random.key(0))
        settings.optimiser.build().transformation(settings.steps)
        settings.key()
        if self.resume:
            run_folder.require_same(folder, settings)
        state = run_folder.states_folder(folder)
        settings.stopping_rule()
        with run_folder.begun(folder, settings):
            if run_folder.finished(folder, settings.steps):
                print(f"mesalens: {folder} is finished; give more --steps.", file=sys.stderr)
                return load_dataset(folder / run_folder.METRICS)
            try:
                with stoppable() as check, ProgressReport(check) as progress:
                    if done := steps_done(state):
                        steps = steps_of(settings, state)
                        progress.say(f"going on from step {done} of {steps}")
                    options = self._where(progress, check, self._title(programs), state)
                    training = settings.train(say=progress.say, checkpoint=state, **options)
                    run_folder.save_run(folder, settings, training)
            except StoppedError as stop:
                steps = steps_of(settings, state)
                print(
                    f"mesalens: stopped after step {steps_done(state)} of {steps}; go on with: "
                    f"mesalens train --resume {folder}{self._again()}",
                    file=sys.stderr,
                )
                return stop.exit_code
            return training.metrics

    def _where(
        self, progress: ProgressReport, check: Callable[[], None], title: str, state: Path
    ) -> dict[str, Any]:
        """Where it is trained, and how progress is shown."""
        if self.cluster is not None:
            return {"cluster": self.cluster, "report": progress.work, "check": check}
        steps = steps_of(self.settings, state)
        memory = {} if self.memory is None else {"memory": self.memory * 1e9}
        return {"progress": report_rest(progress.start, title, steps, state), **memory}

    def _again(self) -> str:
        return "" if self.cluster is None else f" --cluster {self.cluster}"

    def _title(self, programs: int) -> str:
        if not self.vary:
            return f"training {self.model.kind}, seeds {self.seeds}"
        runs = math.prod((self.seeds, *map(len, self.vary.values())))
        return f"training {runs} runs in {programs} program{'s' * (programs > 1)}"

    def _say(self, metrics: xr.Dataset) -> None:
        last = metrics.loss.isel(step=-1, drop=True)
        axes = [axis for axis in last.dims if axis != "seed"]
        if axes:
            _draw(metrics, self.folder)
        if self.json_:
            content = {"out": str(self.folder), **last.to_dict()["coords"], "loss": last}
            content |= {name: metrics[name] for name in ("ending", "steps_taken")}
            print_json(content | {"settings": self.settings.model_dump(mode="json")})
            return
        if axes:
            console().print(_table(last, axes))
            print(f"The sweep: {self.folder} (metrics.nc, weights.safetensors, sweep.png)")
            return
        losses = ", ".join(f"{loss:.4g}" for loss in last.values)
        print(f"loss of the last {min(self.every, self.steps)} steps: {losses}")
        for ending in ("converged", "diverged"):
            runs = metrics.steps_taken.values[metrics.ending.values == ending].tolist()
            if runs:
                print(f"{ending}: {len(runs)} of {self.seeds} seeds, after steps {runs}")
        print(f"The run: {self.folder}. Next: mesalens compare {self.folder}")


class Sweep(Train):
    """Trains all combinations of the values given by --vary, from every seed, and keeps one
    labelled dataset, the weights and a figure.

    All runs go at once where shapes agree: learning rates, initial scales, noise levels, scales of
    a task. It can be stopped and resumed as `mesalens train` can.
    """

    def __call__(self) -> int:
        """Runs the sweep."""
        if not self.vary:
            raise InputError("give settings with values, as --vary learning_rate=1e-3,3e-3.")
        return super().__call__()


def _draw(metrics: xr.Dataset, folder: Path) -> None:
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
