"""`mesalens reproduce`."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import matplotlib
from rich.table import Table
from rich.text import Text

from mesalens import random
from mesalens.checks import InputError, count
from mesalens.cli.interruption import StoppedError, stoppable
from mesalens.cli.options import POSITIONAL, Command, Folder
from mesalens.cli.output import console, print_json
from mesalens.files import new_folder
from mesalens.progress import ProgressReport
from mesalens.report import Examination, examine, number, summary, write_report
from mesalens.studies import study
from mesalens.training import TrainingDivergedError

COLORS = {"PASS": "bold green", "FAIL": "bold red", "INCONCLUSIVE": "bold yellow"}


class Reproduce(Command):
    """Checks the claims of a study and leaves a page with verdicts and figures."""

    name: Annotated[str, POSITIONAL] = "von-oswald-2023"
    """a study, or STUDY/PART for one of its parts, or STUDY/CLAIM"""
    budget: Literal["quick", "paper"] = "quick"
    """quick (minutes on a laptop) or the paper's own settings"""
    seeds: int | None = None
    """independent trainings (the budget's number by default)"""
    seed: int = 0
    """where all random numbers come from"""
    out: Folder | None = None
    """a new folder for the results (results/STUDY-BUDGET-TIME by default)"""
    checkpoints: Folder | None = None
    """a folder for the states of trainings, so that a study that was stopped goes on from there"""
    device: str | None = None
    """where to compute: cpu, gpu, … (JAX's choice by default)"""

    def __call__(self) -> int:
        """Carries out the study; 1 if a claim failed."""
        matplotlib.use("agg")  # figures go to files; there may be no display
        study_name, _, part = self.name.partition("/")
        chosen = study(study_name)
        names = part or None
        chosen.select(names)
        if self.seeds is not None:
            count("seeds", self.seeds)
        random.key(self.seed)  # says what is wrong before anything is computed
        default = f"{self.name.replace('/', '-')}-{self.budget}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        out, kept = self.out or Path("results") / default, self.checkpoints
        if kept is not None and kept.resolve().is_relative_to(out.resolve()):
            raise InputError(f"checkpoints must be outside of out; got {kept} in {out}.")
        options: Any = {"seeds": self.seeds, "seed": self.seed, "checkpoints": kept}
        try:
            with new_folder(out) as folder, stoppable() as check, ProgressReport(check) as progress:
                examination = examine(chosen, names, self.budget, progress=progress, **options)
                write_report(examination, folder)
        except StoppedError as stop:
            advice = "nothing was kept; --checkpoints FOLDER keeps trainings."
            if kept is not None:
                advice = "run the same command again to go on with its trainings."
            print(f"mesalens: interrupted; {advice}", file=sys.stderr)
            return stop.exit_code
        except TrainingDivergedError as error:
            raise InputError(str(error)) from None
        if self.json_:
            print_json(summary(examination) | {"out": str(out)})
        else:
            console().print(_table(examination))
            print("\n" + "\n".join(examination.remarks))
            print(f"\n{examination.tally()}, in {examination.seconds:.0f} s.")
            print(f"The report: {out / 'index.html'}")
        return int(any(verdict.judgement.outcome == "FAIL" for verdict in examination.verdicts))


def _table(examination: Examination) -> Table:
    headers = ("claim", "verdict", "value", "95% interval, or range", "criterion", "seeds")
    table = Table(*headers, "decided at")
    for verdict in examination.verdicts:
        judged = verdict.judgement
        table.add_row(
            verdict.claim.name,
            Text(judged.outcome, COLORS[judged.outcome]),
            number(judged.value),
            f"[{number(judged.low)}, {number(judged.high)}]",
            verdict.claim.criterion.words,
            f"{judged.seeds} of {judged.seeds_run}",
            ", ".join(judged.where.values()),
        )
    return table
