"""`Study`: the claims of a paper, what would confirm each, and how the evidence is measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import xarray as xr
from jaxtyping import PyTree
from matplotlib.figure import Figure as MatplotlibFigure

from mesalens.checks import one_of
from mesalens.studies.criterion import Criterion, Evidence, Judgement


@dataclass(frozen=True)
class Claim:
    """A statement of a paper, where it is made, what is measured, and what confirms it."""

    name: str
    statement: str
    source: str
    estimator: str
    criterion: Criterion


@dataclass(frozen=True)
class Verdict:
    """A claim and the judgement of its evidence."""

    claim: Claim
    judgement: Judgement


@dataclass(frozen=True)
class Figure:
    """A Matplotlib figure, the name of its files, and a caption that says what it shows."""

    name: str
    caption: str
    figure: MatplotlibFigure


@dataclass
class Findings:
    """The results of a part of a study.

    `evidence` has an entry for each claim, by name. `datasets` and `learners` are stored with the
    report. `remarks` are sentences that readers of the verdicts need.
    """

    evidence: dict[str, Evidence]
    figures: list[Figure] = field(default_factory=list)
    datasets: dict[str, xr.Dataset] = field(default_factory=dict)
    learners: dict[str, PyTree] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """A group of claims and the experiment that decides them; `run` takes the laboratory."""

    name: str
    title: str
    claims: tuple[Claim, ...]
    run: Callable[[Any], Findings]


@dataclass(frozen=True)
class Study:
    """A paper, its parts, and its budgets.

    A budget is the numbers that make a laboratory `quick` or like the `paper`'s own;
    `laboratory(budget, seeds=, seed=, progress=, say=, checkpoints=)` makes the object that the
    parts run in. `note` tells readers of the verdicts where the paper's conventions differ.
    """

    name: str
    title: str
    citation: str
    parts: tuple[Part, ...]
    budgets: Mapping[str, Any]
    laboratory: Callable[..., Any]
    note: str = ""

    def select(self, names: str | None) -> tuple[tuple[Part, tuple[Claim, ...]], ...]:
        """The parts, each with its claims, that a name stands for.

        Args:
            names: a part, a claim, or None for all parts.

        Raises:
            InputError: for an unknown name; the error has the nearest ones.
        """
        if names is not None:
            known = [each.name for part in self.parts for each in (part, *part.claims)]
            one_of(f"part or claim of {self.name}", names, known)
        selected = [
            (part, tuple(c for c in part.claims if names in (None, part.name, c.name)))
            for part in self.parts
        ]
        return tuple((part, claims) for part, claims in selected if claims)


def judge(claims: tuple[Claim, ...], findings: Findings) -> list[Verdict]:
    """A verdict for each claim, from its evidence and its criterion."""
    return [Verdict(each, each.criterion.judge(findings.evidence[each.name])) for each in claims]
