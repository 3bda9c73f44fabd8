"""The command line: `mesalens list`, `reproduce`, `train`, `compare`.

Exit codes: 0 all as asked; 1 a claim failed; 2 wrong input, with one sentence on standard error.
"""

import contextlib
import functools
import io
import json
import re
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import matplotlib
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from mesalens import random
from mesalens.analysis import alignment, risks
from mesalens.checks import InputError, count
from mesalens.learners import GradientDescent
from mesalens.progress import ProgressReport
from mesalens.report import examine, summary, write_report
from mesalens.report.write import number
from mesalens.storage import new_folder
from mesalens.studies import STUDIES, study
from mesalens.tasks import read_matrix
from mesalens.theory import one_step_risk
from mesalens.training import TrainingDivergedError, TrainingSettings, load_run, save_run
from mesalens.training.settings import Matrix

Positional = tyro.conf.Positional
Json = Annotated[bool, tyro.conf.FlagCreatePairsOff]


def list_studies(*, json: Json = False) -> int:
    """Lists the studies, their parts and claims, with the place of each claim in its paper.

    Args:
        json: print JSON alone on standard output
    """
    if json:
        _print_json(
            [
                {
                    "study": s.name,
                    "title": s.title,
                    "citation": s.citation,
                    "parts": [
                        {
                            "part": f"{s.name}/{part.name}",
                            "claims": [
                                {
                                    "claim": claim.name,
                                    "statement": claim.statement,
                                    "source": claim.source,
                                    "criterion": claim.criterion.words,
                                }
                                for claim in part.claims
                            ],
                        }
                        for part in s.parts
                    ],
                }
                for s in STUDIES.values()
            ]
        )
        return 0
    for s in STUDIES.values():
        print(f"{s.name}: {s.title}\n  {s.citation}")
        for part in s.parts:
            print(f"\n  {s.name}/{part.name}")
            for claim in part.claims:
                print(f"    {claim.name}: {claim.statement}\n      {claim.source}; {claim.criterion.words}")
    return 0


def reproduce(
    name: Positional[str] = "von-oswald-2023",
    /,
    *,
    budget: Literal["quick", "paper"] = "quick",
    seeds: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    json: Json = False,
    device: str | None = None,
) -> int:
    """Checks the claims of a study and leaves a page with verdicts and figures.

    Args:
        name: a study, or STUDY/PART for one of its parts, or STUDY/CLAIM
        budget: quick (a minute or two on a laptop) or the paper's own settings
        seeds: independent trainings (the budget's number by default)
        seed: where all random numbers come from
        out: a new folder for the results (results/STUDY-BUDGET-TIME by default)
        json: print the verdicts as JSON alone on standard output
        device: where to compute: cpu, gpu, … (JAX's choice by default)
    """
    study_name, _, part = name.partition("/")
    chosen = study(study_name)
    chosen.select(part or None)
    if seeds is not None:
        count("seeds", seeds)
    if out is None:
        out = Path("results") / f"{name.replace('/', '-')}-{budget}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    with new_folder(out) as folder, _on(device):
        with ProgressReport() as progress:
            examination = examine(chosen, part or None, budget, seeds=seeds, seed=seed, progress=progress)
        write_report(examination, folder)
    if json:
        _print_json(summary(examination) | {"out": str(out)})
    else:
        _print_verdicts(examination)
        print("\n" + "\n".join(examination.remarks))
        print(f"\n{examination.tally()}, in {examination.seconds:.0f} s.\nThe report: {out / 'index.html'}")
    return int(any(verdict.judgement.outcome == "FAIL" for verdict in examination.verdicts))


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
    with new_folder(out) as folder, _on(device):
        with ProgressReport() as progress:
            title = f"training L = {settings.layers}, d = {settings.dim}, n = {settings.context_length}, {settings.seeds} seeds"
            training = settings.train(progress=progress.start(title, settings.steps))
        save_run(folder, settings, training)
    losses = training.metrics.loss.isel(step=-1).values.tolist()
    if json:
        _print_json({"out": str(out), "loss": losses, "settings": settings.model_dump()})
    else:
        print(
            f"loss of the last {min(settings.every, settings.steps)} steps: {', '.join(f'{loss:.4f}' for loss in losses)}"
        )
        print(f"The run: {out}. Next: mesalens compare {out}")
    return 0


def compare(
    run: Positional[Path],
    /,
    *,
    prompts: int = 10_000,
    seed: int = 1,
    json: Json = False,
    device: str | None = None,
) -> int:
    """Compares the layers of a run with one step of gradient descent, on the task they were trained on.

    Args:
        run: a folder that `mesalens train` wrote
        prompts: fresh prompts for each seed
        seed: where the prompts come from
        json: print JSON alone on standard output
        device: where to compute: cpu, gpu, … (JAX's choice by default)
    """
    count("prompts", prompts, at_least=2)
    with _on(device):
        settings, training = load_run(run)
        task = settings.task()
        theory = one_step_risk(task)
        descent = GradientDescent(theory.best_step_size)

        def measure(layer, key):
            trained, gd = risks((layer, descent), task, key, prompts=prompts)
            alike = alignment(layer, descent, task, key, prompts=prompts)
            return {
                "risk": trained,
                "gradient_descent_risk": gd,
                "prediction_difference": alike.prediction_difference,
                "sensitivity_cosine": alike.sensitivity_cosine,
                "sensitivity_difference": alike.sensitivity_difference,
            }

        keys = jax.random.split(random.measurement_key(seed), settings.seeds)
        measured = eqx.filter_vmap(measure)(training.learners, keys)
        measured = {
            name: measured[name] for name in sorted(measured, key=lambda name: "risk" not in name)
        }  # risks first
    exact = {"step_size": theory.best_step_size, "risk": theory.best_risk, "null_risk": theory.null_risk}
    if json:
        estimates = {
            name: {"value": estimate.value.tolist(), "standard_error": estimate.standard_error.tolist()}
            for name, estimate in measured.items()
        }
        _print_json({"run": str(run), "one_gradient_descent_step": exact, "seeds": estimates})
        return 0
    print(
        f"One step of gradient descent: best step size {theory.best_step_size:.6g}, exact risk {theory.best_risk:.6g} "
        f"(predicting 0: {theory.null_risk:.6g})."
    )
    table = Table("seed", *(name.replace("_", " ") for name in measured))
    for index in range(settings.seeds):
        cells = [f"{e.value[index]:.4f} ± {e.standard_error[index]:.4f}" for e in measured.values()]
        table.add_row(str(index), *cells)
    _console().print(table)
    print("Means over fresh prompts ± standard error; differences are lengths, see mesalens.analysis.Alignment.")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `mesalens list | head` ends quietly
    matplotlib.use("agg")  # figures go to files; no window is opened where there is none
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(_matrix_file)
    commands = {"list": list_studies, "reproduce": reproduce, "train": train, "compare": compare}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            command = tyro.extras.subcommand_cli_from_dict(
                {name: _later(function) for name, function in commands.items()},
                prog="mesalens",
                description=sys.modules["mesalens"].__doc__,
                args=arguments,
                registry=registry,
            )
    except SystemExit as stop:
        if stop.code not in (0, None):
            print(f"mesalens: {_sentence(said.getvalue())}", file=sys.stderr)
        raise
    try:
        return command()
    except (InputError, TrainingDivergedError) as error:
        print(f"mesalens: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mesalens: interrupted; nothing was kept.", file=sys.stderr)
        return 130


def _later(function: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """The command with the same options that, once they are read, waits to be called."""

    @functools.wraps(function)
    def read(*arguments, **options):
        return functools.partial(function, *arguments, **options)

    return read


def _sentence(box: str) -> str:
    """What tyro says in a box, as one line: without its title, and without the help that follows."""
    lines = [line.strip("│|+─ ╭╮╰╯") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()]
    words = " ".join(" ".join(line for line in lines[1:] if line.strip("-")).split())
    return (
        re.split(r" (?:Got errors|Argument helptext|For full helptext)", words)[0].rstrip(".")
        + "; see mesalens --help."
    )


def _matrix_file(
    type_info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """How a matrix is given on the command line: by the name of its file."""
    if type_info.type not in (Matrix, Matrix | None):
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="FILE",
        instance_from_str=_matrix,
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: [str(value)],
    )


def _matrix(names: list[str]) -> Matrix:
    return tuple(map(tuple, read_matrix(Path(names[0])).tolist()))


def _on(device: str | None):
    """Computes on the named kind of device inside the block."""
    if device is None:
        return jax.default_device(None)
    try:
        return jax.default_device(jax.devices(device)[0])
    except RuntimeError:
        there = ", ".join(sorted({d.platform for d in jax.devices()}))
        raise InputError(f"there is no device {device!r} here; choose among: {there}.") from None


def _console() -> Console:
    """Standard output; as wide as the table needs where it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def _print_verdicts(examination) -> None:
    table = Table("claim", "verdict", "value", "95% interval, or range", "criterion", "seeds", "decided at")
    colors = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow"}
    for verdict in examination.verdicts:
        judged = verdict.judgement
        table.add_row(
            verdict.claim.name,
            f"[bold {colors[judged.outcome]}]{judged.outcome}",
            number(judged.value),
            f"\\[{number(judged.low)}, {number(judged.high)}]",
            verdict.claim.criterion.words,
            f"{judged.seeds} of {judged.of}",
            ", ".join(judged.where.values()),
        )
    _console().print(table)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=np.ndarray.tolist))


if __name__ == "__main__":
    sys.exit(main())
