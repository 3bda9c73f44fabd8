"""`mesalens train` and `mesalens sweep`."""

import functools
import math
import sys
from collections.abc import Callable, Iterator
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
from mesalens.tasks import Mixture, RegressionTask
from mesalens.theory import has_exact_moments
from mesalens.theory._simulated_moments import RELATIVE_ERROR
from mesalens.training import TrainingSettings, run_folder
from mesalens.training.checkpoint import report_rest, steps_done
from mesalens.training.sweeps import plan, steps_of

FLAT = ("converged", "flat")
"""The ending of a run, and the rule, that may be those of a plateau."""


class Train(Command, TrainingSettings):
    """Trains learners, by default one layer of linear self-attention, and saves settings, weights
    in a folder. The task is by default that of `mesalens optimum` and `mesalens identify`.

      mesalens train --dim 5 --context-length 20 --seeds 8 --out runs/d5
      mesalens train --resume runs/d5 --steps 9000
      mesalens train --layers 2 --covariates uniform --out runs/two

    The state of the training is saved every few seconds, and when the training is stopped. The same
    command, or `mesalens train --resume FOLDER`, continues from it and gives the same weights, bit
    for bit. The exit code is 1 if all runs diverge.
    """

    out: Folder | None = None
    """new folder for the training"""
    resume: Folder | None = None
    """folder of a training to continue; of its settings only --steps may change, to more steps"""
    config: Folder | None = None
    """file with settings, such as the settings.json of a folder; other options override it"""
    memory: float | None = None
    """memory to use, in GB; by default what is free; runs that need more are trained in groups"""
    cluster: str | None = None
    """Dask cluster to compute on: local:4, tcp://host:8786 or a scheduler file"""
    device: str | None = None
    """device to compute on: cpu, gpu, …; by default JAX's choice"""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _over_stored(cls, content: dict[str, Any]) -> dict[str, Any]:
        """The settings that are resumed or read, overridden by the options."""
        base = content.get("resume", content.get("config"))
        if base is None:
            return content
        return overlay(run_folder.load_settings(named(base)).model_dump(), content)

    @functools.cached_property
    def settings(self) -> TrainingSettings:
        """The settings of the training, without where and how it runs."""
        values = {name: getattr(self, name) for name in TrainingSettings.model_fields}
        return TrainingSettings(**values)

    @functools.cached_property
    def folder(self) -> Path:
        """The folder of the training, new or existing."""
        folder = self.resume or self.out
        if folder is None or (self.resume and self.out):
            raise InputError("give a new folder as --out, or an existing one as --resume.")
        return folder

    def __call__(self) -> int:
        """Trains, and prints the result; returns 1 if every run diverged."""
        metrics = self._metrics()
        if isinstance(metrics, int):
            return metrics
        self._say(metrics)
        return int((metrics.ending == "diverged").all())

    def _metrics(self) -> xr.Dataset | int:
        """The metrics of a finished training, or the exit code of a stopped one."""
        settings, folder = self.settings, self.folder
        # Fail before anything is written or computed
        programs = len(plan(settings)[1])
        if self.cluster is not None and self.memory:
            raise InputError("--memory is for this machine; omit it with --cluster.")
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
                    if line := _about_moments(settings):
                        progress.say(line)
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
        """Options of `train`: where to compute, and how to show progress."""
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
        for line in _endings(metrics, self.stop.kind):
            print(line)
        print(f"The run: {self.folder}. Next: mesalens compare {self.folder}")


class Sweep(Train):
    """Trains with all combinations of the values given by --vary, for every seed, and saves one
    labelled dataset, the weights and a figure.

      mesalens sweep --vary learning_rate=1e-4,1e-3,1e-2 --seeds 8 --out runs/lr
      mesalens sweep --vary learning_rate=1e-4,1e-3 noise_variance=0,0.1 --out runs/grid

    Runs whose arrays have the same shapes are trained together: different learning rates, initial
    scales, noise levels or scales of a task. A sweep can be stopped and resumed like `mesalens
    train`.
    """

    def __call__(self) -> int:
        """Runs the sweep."""
        if not self.vary:
            raise InputError("sweep needs --vary, such as --vary learning_rate=1e-3,3e-3.")
        return super().__call__()


def _about_moments(settings: TrainingSettings) -> str:
    """That the risk to minimise is a simulated one, and how good it is; "" if it is exact."""
    task = settings.exact_task()
    if settings.objective.kind != "population" or not isinstance(task, RegressionTask | Mixture):
        return ""
    if has_exact_moments(task):
        return ""
    return (
        "the moments of the task are not known, so they are simulated, until the risk of the best "
        f"step of descent has a relative standard error of {100 * RELATIVE_ERROR:g}%"
    )


def _endings(metrics: xr.Dataset, stop: str) -> list[str]:
    """How the seeds ended, and what to do about those that did not reach the optimum."""
    lines = []
    for ending in ("converged", "diverged"):
        runs = metrics.steps_taken.values[metrics.ending.values == ending].tolist()
        # The loss alone cannot tell a plateau from the end
        doubt = "; a loss can be flat on a plateau too" if (ending, stop) == FLAT else ""
        if runs:
            seeds = metrics.sizes["seed"]
            lines.append(f"{ending}: {len(runs)} of {seeds} seeds, after steps {runs}{doubt}")
    if "excess_risk" in metrics:
        above = metrics.excess_risk.isel(step=-1)[metrics.ending.values == "all steps"]
        seeds = [f"seed {seed} by {100 * excess:.3g}%" for seed, excess in _pairs(above)]
        if seeds:
            lines.append(
                f"above the optimum: {', '.join(seeds)}; give more --steps or another --init-scale."
                " A risk that stands still is a plateau (docs: theory/plateaus)."
            )
    return lines


def _pairs(values: xr.DataArray) -> Iterator[tuple[int, float]]:
    """Seeds with their values."""
    return zip(values.seed.values.tolist(), values.values.tolist(), strict=True)


def _draw(metrics: xr.Dataset, folder: Path) -> None:
    matplotlib.use("agg")  # figures go to files; there may be no display
    with plots.style():
        figure = plots.sweep_figure(metrics)
        figure.savefig(folder / "sweep.png", bbox_inches="tight")
    plt.close(figure)


def _table(last: xr.DataArray, axes: list[Any]) -> Table:
    table = Table()
    for name in map(str, axes):
        table.add_column(name, min_width=len(name))  # the names of settings are never cut
    for name in ("median loss", "least, greatest", "converged", "diverged"):
        table.add_column(name)
    for point in last.stack(point=axes).transpose("point", "seed"):
        endings = point.ending.values.tolist()
        table.add_row(
            *(str(point[axis].item()) for axis in axes),
            f"{float(point.median()):.4g}",
            f"{float(point.min()):.4g}, {float(point.max()):.4g}",
            *(str(endings.count(ending)) for ending in ("converged", "diverged")),
        )
    return table
