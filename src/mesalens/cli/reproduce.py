"""`mesalens reproduce`."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import matplotlib
from rich.table import Table

from mesalens import random
from mesalens.checks import InputError, count
from mesalens.cli.device import on
from mesalens.cli.interruption import StoppedError, stoppable
from mesalens.cli.output import Json, Positional, console, print_json
from mesalens.progress import ProgressReport
from mesalens.report import examine, summary, write_report
from mesalens.report.write import number
from mesalens.storage import new_folder
from mesalens.studies import study
from mesalens.training import TrainingDivergedError


def reproduce(
    name: Positional[str] = "von-oswald-2023",
    /,
    *,
    budget: Literal["quick", "paper"] = "quick",
    seeds: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    checkpoints: Path | None = None,
    json: Json = False,
    device: str | None = None,
) -> int:
    """Checks the claims of a study and leaves a page with verdicts and figures.

    Args:
        name: a study, or STUDY/PART for one of its parts, or STUDY/CLAIM
        budget: quick (minutes on a laptop) or the paper's own settings
        seeds: independent trainings (the budget's number by default)
        seed: where all random numbers come from
        out: a new folder for the results (results/STUDY-BUDGET-TIME by default)
        checkpoints: a folder where trainings keep their state, so that a study that was stopped goes on from there
        json: print the verdicts as JSON alone on standard output
        device: where to compute: cpu, gpu, … (JAX's choice by default)
    """
    matplotlib.use("agg")  # figures go to files; no window is opened where there is none
    study_name, _, part = name.partition("/")
    chosen = study(study_name)
    chosen.select(part or None)
    if seeds is not None:
        count("seeds", seeds)
    random.key(seed)  # says what is wrong before anything is computed
    if out is None:
        out = Path("results") / f"{name.replace('/', '-')}-{budget}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    if checkpoints is not None and checkpoints.resolve().is_relative_to(out.resolve()):
        raise InputError(
            f"the checkpoints {checkpoints} lie in {out}, which must be empty until the report is written; give a folder beside it."
        )
    try:
        with new_folder(out) as folder, on(device):
            with stoppable() as check, ProgressReport(check) as progress:
                examination = examine(
                    chosen, part or None, budget, seeds=seeds, seed=seed, progress=progress, checkpoints=checkpoints
                )
            write_report(examination, folder)
    except (StoppedError, KeyboardInterrupt) as stop:
        word = (
            "nothing was kept; with --checkpoints FOLDER a study goes on where it was."
            if checkpoints is None
            else "run the same command again to go on with its trainings."
        )
        print(f"mesalens: interrupted; {word}", file=sys.stderr)
        return stop.exit_code if isinstance(stop, StoppedError) else 130
    except TrainingDivergedError as error:
        raise InputError(str(error)) from None
    if json:
        print_json(summary(examination) | {"out": str(out)})
    else:
        _print_verdicts(examination)
        print("\n" + "\n".join(examination.remarks))
        print(f"\n{examination.tally()}, in {examination.seconds:.0f} s.\nThe report: {out / 'index.html'}")
    return int(any(verdict.judgement.outcome == "FAIL" for verdict in examination.verdicts))


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
    console().print(table)
