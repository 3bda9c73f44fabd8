"""`mesalens train`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro
import xarray as xr

from mesalens.cli.output import Json, print_json
from mesalens.cli.run import carry_out, folder_of, resumed
from mesalens.training import TrainingSettings


def for_arguments(arguments: list[str]) -> Callable[..., int]:
    """The command, whose settings are by default those of the run that the arguments ask to resume, if they do."""
    defaults = resumed(arguments, TrainingSettings)

    def train(
        settings: Annotated[TrainingSettings, tyro.conf.arg(name="")] = defaults,
        *,
        out: Path | None = None,
        resume: Path | None = None,
        json: Json = False,
        device: str | None = None,
    ) -> int:
        """Trains transformers, linear ones by default, and keeps settings, weights and metrics in a folder.

        Its state is kept there too, every few seconds and when it is stopped (Ctrl-C, SIGTERM, or worse): `mesalens train --resume DIR`, or the
        same command again, goes on from there, and ends with the same weights, bit for bit.

        Args:
            settings: the run
            out: a new folder for the run
            resume: the folder of a run to go on with; of its settings only the steps may grow
            json: print a summary as JSON alone on standard output
            device: where to compute: cpu, gpu, … (JAX's choice by default)
        """
        folder = folder_of(out, resume)
        metrics = carry_out(
            settings,
            defaults if resume else None,
            folder,
            command="train",
            title=f"training L = {settings.layers}, d = {settings.dim}, n = {settings.context_length}, {settings.seeds} seeds",
            steps=settings.steps,
            device=device,
            work=settings.train,
        )
        return metrics if isinstance(metrics, int) else _say(settings, metrics, folder, json)

    return train


def _say(settings: TrainingSettings, metrics: xr.Dataset, folder: Path, json: bool) -> int:
    """Prints what came out; the exit code is 1 where every seed diverged."""
    losses = metrics.loss.isel(step=-1).values.tolist()
    endings, steps = metrics.ending.values.tolist(), metrics.steps_taken.values.tolist()
    if json:
        summary = {"out": str(folder), "loss": losses, "ending": endings, "steps_taken": steps}
        print_json(summary | {"settings": settings.model_dump()})
    else:
        last = min(settings.every, settings.steps)
        print(f"loss of the last {last} steps: {', '.join(f'{loss:.4f}' for loss in losses)}")
        for ending in ("converged", "diverged"):
            where = [f"{n} (seed {i})" for i, (n, how) in enumerate(zip(steps, endings, strict=True)) if how == ending]
            if where:
                print(f"{ending} after steps: {', '.join(where)}")
        print(f"The run: {folder}. Next: mesalens compare {folder}")
    return int(all(ending == "diverged" for ending in endings))
