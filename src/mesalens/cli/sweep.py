"""`mesalens sweep`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import tyro
import xarray as xr
from rich.table import Table

from mesalens import plots
from mesalens.checks import InputError
from mesalens.cli.output import Json, console, print_json
from mesalens.cli.run import carry_out, folder_of, resumed
from mesalens.training import TrainingSettings
from mesalens.training.sweep_settings import programs, sweep_settings


class SweepSettings(TrainingSettings):
    """What is varied, and all other settings."""

    vary: tuple[str, ...] = ()
    """settings with their values, as learning_rate=1e-4,1e-3 noise_variance=0,0.1"""

    def axes(self) -> dict[str, list[str]]:
        """The values of each setting that is varied, as words; raises `ValueError` for what is no such list."""
        found: dict[str, list[str]] = {}
        for words in self.vary:
            name, equal, values = words.partition("=")
            name = name.strip().lstrip("-").replace("-", "_")
            if not equal or name in found:
                raise InputError(
                    f"{words!r} names no setting with its values, or one twice; write them as learning_rate=1e-4,1e-3."
                )
            found[name] = [value.strip() for value in values.split(",")]
        return found

    def shared_settings(self) -> TrainingSettings:
        """The settings without what is varied."""
        return TrainingSettings(**self.model_dump(exclude={"vary"}))


def for_arguments(arguments: list[str]) -> Callable[..., int]:
    """The command, whose settings are by default those of the sweep that the arguments ask to resume, if they do."""
    defaults = resumed(arguments, SweepSettings)

    def sweep(
        settings: Annotated[SweepSettings, tyro.conf.arg(name="")] = defaults,
        *,
        out: Path | None = None,
        resume: Path | None = None,
        memory: float | None = None,
        json: Json = False,
        device: str | None = None,
    ) -> int:
        """Trains every combination of some settings' values from every seed, and keeps one labelled dataset, the weights and a figure.

        All runs go at once where shapes agree: learning rates, initial scales, noise levels, scales of a task. It can be stopped and gone on with as
        `mesalens train` can.

        Args:
            settings: what is varied, and what is not
            out: a new folder for the sweep
            resume: the folder of a sweep to go on with; of its settings only the steps may grow
            memory: GB that may be taken; a sweep that needs more goes in groups (all that is free, by default)
            json: print the last losses as JSON alone on standard output
            device: where to compute: cpu, gpu, … (JAX's choice by default)
        """
        folder, axes, shared = folder_of(out, resume), settings.axes(), settings.shared_settings()
        count = programs(shared, axes)
        runs = int(np.prod([len(values) for values in axes.values()])) * settings.seeds
        metrics = carry_out(
            settings,
            defaults if resume else None,
            folder,
            command="sweep",
            title=f"training {runs} runs in {count} program{'s' if count > 1 else ''}",
            steps=settings.steps * count,
            device=device,
            work=lambda **options: sweep_settings(
                shared, axes, memory=None if memory is None else memory * 1e9, **options
            ),
        )
        return metrics if isinstance(metrics, int) else _say(metrics, folder, json)

    return sweep


def _say(metrics: xr.Dataset, folder: Path, json: bool) -> int:
    """Draws and prints what came out; the exit code is 1 where every run diverged."""
    matplotlib.use("agg")  # the figure goes to a file; no window is opened where there is none
    with plots.style():
        figure = plots.sweep_figure(metrics)
        figure.savefig(folder / "sweep.png", bbox_inches="tight")
    plt.close(figure)
    axes = [axis for axis in metrics.ending.dims if axis != "seed"]
    last = metrics.loss.isel(step=-1)
    if json:
        print_json({"out": str(folder), **last.drop_vars("step").to_dict()["coords"], "loss": last.values.tolist()})
    else:
        table = Table(*map(str, axes), "median loss", "least, greatest", "converged", "diverged")
        for point in last.stack(point=axes).transpose("point", "seed"):
            endings = point.ending.values.tolist()
            table.add_row(
                *(str(point[axis].item()) for axis in axes),
                f"{float(point.median()):.4g}",
                f"{float(point.min()):.4g}, {float(point.max()):.4g}",
                *(str(endings.count(ending)) for ending in ("converged", "diverged")),
            )
        console().print(table)
        print(f"The sweep: {folder} (metrics.nc, weights.safetensors, sweep.png)")
    return int((metrics.ending == "diverged").all())
