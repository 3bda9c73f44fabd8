"""`Study`: the claims of one paper, what would confirm each, and how the evidence is made."""

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
    """One statement of a paper: what it says, where, what is measured for it, and when that confirms it."""

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
    """A Matplotlib figure, the name of its files, and a caption that says what to see."""

    name: str
    caption: str
    figure: MatplotlibFigure


@dataclass
class Findings:
    """What a part of a study brings home.

    `evidence` is for each claim, by name; `datasets` and `learners` are kept for the person who wants to go on; `remarks` are
    sentences that a reader of the verdicts needs.
    """

    evidence: dict[str, Evidence]
    figures: list[Figure] = field(default_factory=list)
    datasets: dict[str, xr.Dataset] = field(default_factory=dict)
    learners: dict[str, PyTree] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """Some claims with the one experiment that speaks to them; `run` takes the study's laboratory."""

    name: str
    title: str
    claims: tuple[Claim, ...]
    run: Callable[[Any], Findings]


@dataclass(frozen=True)
class Study:
    """A paper, its parts, and its budgets: the numbers that make a laboratory `quick` or like the `paper`'s own.

    `laboratory(budget, seeds=, seed=, progress=, say=, checkpoints=)` makes what the parts run in. `note` is for readers of the verdicts: the paper's own
    conventions, where they differ.
    """

    name: str
    title: str
    citation: str
    parts: tuple[Part, ...]
    budgets: Mapping[str, Any]
    laboratory: Callable[..., Any]
    note: str = ""

    def select(self, names: str | None) -> tuple[tuple[Part, tuple[Claim, ...]], ...]:
        """The parts, with the claims, that a name asks for: all for None, one part's, or one claim.

        Raises `ValueError` for a name of neither, with the nearest.
        """
        if names is None:
            return tuple((part, part.claims) for part in self.parts)
        known = [part.name for part in self.parts] + [claim.name for part in self.parts for claim in part.claims]
        one_of(f"part or claim of {self.name}", names, known)
        return tuple(
            (part, part.claims if part.name == names else tuple(c for c in part.claims if c.name == names))
            for part in self.parts
            if names == part.name or any(claim.name == names for claim in part.claims)
        )


def judge(claims: tuple[Claim, ...], findings: Findings) -> list[Verdict]:
    """A verdict for each claim, from its evidence and its criterion alone."""
    return [Verdict(claim, claim.criterion.judge(findings.evidence[claim.name])) for claim in claims]
