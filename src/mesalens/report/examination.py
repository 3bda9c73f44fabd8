"""`Examination`: a study, or a part of it, carried out."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import xarray as xr
from jaxtyping import PyTree

from mesalens import plots
from mesalens.studies import Figure, Part, Study, Verdict, judge


@dataclass(frozen=True)
class Examination:
    """What came out: verdicts by part, figures, labelled data and trained learners; and what went in.

    `seconds_to_verdict` is, for each part, the time from the study's begin until its claims were judged.
    """

    study: Study
    names: str | None
    budget: str
    seeds: int | None
    seed: int
    settings: dict[str, Any]
    parts: list[tuple[Part, list[Verdict]]]
    figures: list[Figure]
    datasets: dict[str, xr.Dataset]
    learners: dict[str, PyTree]
    remarks: list[str]
    started: datetime
    seconds: float
    seconds_to_verdict: dict[str, float]

    @property
    def verdicts(self) -> list[Verdict]:
        """All verdicts, in order."""
        return [verdict for _, verdicts in self.parts for verdict in verdicts]

    def tally(self) -> str:
        """How many claims got which verdict, in words."""
        return tally(self.verdicts)

    def command(self) -> str:
        """The command line that does it again."""
        name = self.study.name if self.names is None else f"{self.study.name}/{self.names}"
        seeds = "" if self.seeds is None else f" --seeds {self.seeds}"
        return f"mesalens reproduce {name} --budget {self.budget}{seeds} --seed {self.seed}"


def examine(
    study: Study,
    names: str | None,
    budget: str,
    *,
    seeds: int | None,
    seed: int,
    progress: Any,
    checkpoints: Path | None = None,
) -> Examination:
    """Runs the parts of a study that a name asks for and judges their claims.

    `progress` has `say(line)` and `start(title, total)`, see `ProgressReport`. In a folder `checkpoints` every training keeps its
    state, under the study and the budget, and goes on from it. Raises `ValueError` for an unknown part or claim.
    """
    selected = study.select(names)
    laboratory = study.laboratory(
        study.budgets[budget],
        seeds=seeds,
        seed=seed,
        progress=progress.start,
        say=progress.say,
        checkpoints=None if checkpoints is None else checkpoints / study.name / budget,
    )
    started, clock = datetime.now(UTC), time.monotonic()
    parts, figures, datasets, learners, remarks, seconds = [], [], {}, {}, [], {}
    for part, claims in selected:
        progress.say(f"{study.name}/{part.name}: {part.title.lower()}")
        with plots.style():
            findings = part.run(laboratory)
        parts.append((part, judge(claims, findings)))
        seconds[part.name] = time.monotonic() - clock
        progress.say(f"{study.name}/{part.name}: {tally(parts[-1][1])}, {seconds[part.name]:.0f} s after the begin")
        figures += findings.figures
        for figure in findings.figures:
            plt.close(figure.figure)  # pyplot would keep it, and warn after twenty; it can still be saved
        datasets |= findings.datasets
        learners |= findings.learners
        remarks += findings.remarks
    return Examination(
        study=study,
        names=names,
        budget=budget,
        seeds=seeds,
        seed=seed,
        settings=laboratory.describe(),
        parts=parts,
        figures=figures,
        datasets=datasets,
        learners=learners,
        remarks=remarks,
        started=started,
        seconds=time.monotonic() - clock,
        seconds_to_verdict=seconds,
    )


def tally(verdicts: list[Verdict]) -> str:
    """How many claims got which verdict, in words."""
    outcomes = [verdict.judgement.outcome for verdict in verdicts]
    counts = [(outcome, outcomes.count(outcome)) for outcome in ("PASS", "FAIL", "INCONCLUSIVE")]
    return f"{len(outcomes)} claim{'s' * (len(outcomes) != 1)}: " + ", ".join(
        f"{number} {name}" for name, number in counts if number
    )
