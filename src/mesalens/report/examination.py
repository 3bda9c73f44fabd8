"""`Examination`: a study, or a part of it, that has been carried out."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import xarray as xr
from jaxtyping import PyTree

from mesalens import plots
from mesalens.studies import Figure, Part, Study, Verdict, judge


@dataclass
class Examination:
    """The results of a study (verdicts by part, figures, data, learners) and how they were made.

    `names` is the part or claim that was asked for, or None for all. `seconds` is the time that it
    took, and `seconds_to_verdict` the time until the claims of each part were judged, both from the
    start of the study. `examine` adds part by part.
    """

    study: Study
    names: str | None
    budget: str
    seeds: int | None
    seed: int
    settings: dict[str, Any]
    started: datetime
    parts: list[tuple[Part, list[Verdict]]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    datasets: dict[str, xr.Dataset] = field(default_factory=dict)
    learners: dict[str, PyTree] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0
    seconds_to_verdict: dict[str, float] = field(default_factory=dict)

    @property
    def verdicts(self) -> list[Verdict]:
        """All verdicts, in order."""
        return [verdict for _, verdicts in self.parts for verdict in verdicts]

    def tally(self) -> str:
        """The number of claims with each verdict: "3 claims: 2 PASS, 1 FAIL"."""
        return _tally(self.verdicts)

    def command(self) -> str:
        """The command line that repeats the examination."""
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
    """Runs parts of a study and judges their claims.

    Args:
        study: the study.
        names: a part or a claim; None for all.
        budget: one of `study.budgets`.
        seeds: the number of independent trainings, or None for that of the budget.
        seed: the seed of all random numbers.
        progress: has `say(line)` and `start(title, total)`, such as a `ProgressReport`.
        checkpoints: a folder. Every training stores its state there, under the study and the
            budget, and continues from a state that it finds there.

    Raises:
        InputError: for an unknown part or claim.
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
    examination = Examination(study, names, budget, seeds, seed, laboratory.describe(), started)
    for part, claims in selected:
        title = f"{study.name}/{part.name}"
        progress.say(f"{title}: {part.title.lower()}")
        with plots.style():
            findings = part.run(laboratory)
        examination.parts.append((part, judge(claims, findings)))
        examination.seconds = examination.seconds_to_verdict[part.name] = time.monotonic() - clock
        progress.say(f"{title}: {_tally(examination.parts[-1][1])}, {examination.seconds:.0f} s")
        for figure in findings.figures:
            plt.close(figure.figure)  # or pyplot warns about twenty open figures; it can be saved
        examination.figures += findings.figures
        examination.datasets |= findings.datasets
        examination.learners |= findings.learners
        examination.remarks += findings.remarks
    return examination


def _tally(verdicts: list[Verdict]) -> str:
    outcomes = [verdict.judgement.outcome for verdict in verdicts]
    counts = {name: outcomes.count(name) for name in ("PASS", "FAIL", "INCONCLUSIVE")}
    shown = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
    return f"{len(outcomes)} claim{'s' * (len(outcomes) != 1)}: {shown}"
