"""`decide`: what the evidence says, with its errors under control.

*Equivalence.* A candidate passes in a regime if its interval lies below the margin, and fails if it
lies above. It runs in the subject if it passes in all regimes: each is a test of its own, and a
wrong name needs an error in every one, so that nothing has to be corrected for their number. None
fits if every candidate fails on the task itself, by the same argument.

*Uniqueness.* Of candidates that pass, one that contains a simpler one which passes too says nothing
more, and is dropped, unless it alone gives the very answers. One that is at least four times as far
as another (twice in root mean square) in some regime, and nowhere nearer in this sense, is set
aside. Those that give the same answers to rounding are one algorithm with several names. If one is
left it is the name, else the set.

*Looking repeatedly.* Prompts are added until the answer is decided, at looks that are fixed
beforehand. Intervals at look k have the level 1 - α_k, Σ α_k = 1 - level, so that the chance that
an interval misses at any look is at most 1 - level (Boole). Each look spends half of what is left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mesalens.identification import distance
from mesalens.identification.distance import Interval
from mesalens.identification.evidence import Evidence
from mesalens.identification.fit import Fitted
from mesalens.identification.regimes import TASK

Verdict = Literal["named", "set", "in-distribution-only", "none", "context-blind", "inconclusive"]

BLIND = 1e-6
"""A learner whose predictions depend on the context for less than this share of their mean square
is blind to it."""

NEARER = 4.0
"""A candidate is set aside if another is nearer by this factor, in mean square."""

SAME = 1e-4
"""Candidates are one function if they differ by at most this share of their distance from the
subject, or by less than what rounding makes."""


@dataclass(frozen=True)
class Decision:
    """An answer: the verdict and the names that it is about.

    `names` are those named, or in the set, or that pass on the task. `also` has other names of the
    same function, and richer families that contain a name, by name. `open` are candidates that are
    not decided, and `pairs` how many pairs of prompts would probably decide them.
    """

    verdict: Verdict
    names: tuple[str, ...] = ()
    also: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    open: tuple[str, ...] = ()
    pairs: int = 0


def spend(looks: int, total: float) -> list[float]:
    """The error of each look: half of what is left, and the last look all of it."""
    errors = [total / 2**k for k in range(1, looks + 1)]
    return [*errors[:-1], total - sum(errors[:-1])]


def contains(fits: Mapping[str, Fitted], name: str, other: str) -> bool:
    """Whether another family has only members of this one, or of one that it contains."""
    parts = fits[name].candidate.extends
    return other in parts or any(contains(fits, p, other) for p in parts if p in fits)


def decide(
    evidence: Evidence, margin: float, error: float, refits: Mapping[str, Interval]
) -> Decision:
    """The answer, at a look that spends `error`.

    Args:
        evidence: Of all regimes.
        margin: The distance below which a candidate is equivalent to the subject.
        error: The level of intervals is 1 - error.
        refits: The distances of candidates that were fitted again on the very prompts of the task
            that they are judged on, which `none` requires to fail as well.
    """
    fits, samples = evidence.fits, evidence.samples
    table = {
        (name, regime): sample.interval(name, error)
        for regime, sample in samples.items()
        for name in sample.candidates
    }

    def passes(name: str, regime: str) -> bool:
        return (name, regime) in table and table[name, regime].high < margin

    def fails(name: str, regime: str) -> bool:
        return (name, regime) in table and table[name, regime].low > margin

    rejected = {n for n in fits if any(fails(n, regime) for regime in samples)}
    passed = [n for n in fits if all(passes(n, regime) for regime in samples)]
    undecided = [n for n in fits if n not in rejected and n not in passed]

    def regimes_of(*names: str) -> list[str]:
        return [r for r in samples if all((name, r) in table for name in names)]

    def set_aside(name: str, other: str, where: Sequence[str] | None = None) -> bool:
        """Whether another candidate is nearer, decidedly, and nowhere decidedly farther."""
        nearer = False
        for regime in where or regimes_of(name, other):
            sample = samples[regime]
            mine, its = sample.squares(name), sample.squares(other)
            unit = sample.units.mean()
            if its.mean() > distance.ROUNDING * unit and distance.farther(its, mine, NEARER, error):
                return False
            if mine.mean() > distance.ROUNDING * unit and distance.farther(
                mine, its, NEARER, error
            ):
                nearer = True
        return nearer

    def exact(name: str, where: Sequence[str] | None) -> bool:
        return all(
            samples[r].squares(name).mean() <= distance.ROUNDING * samples[r].units.mean()
            for r in where or samples
        )

    def swallows(
        simpler: str, name: str, candidates: Sequence[str], where: Sequence[str] | None
    ) -> bool:
        """Whether a family is dropped for the simplest that it contains.

        It is not where it gives the very answers of the subject and the simpler one does not.
        """
        if not contains(fits, name, simpler) or (exact(name, where) and not exact(simpler, where)):
            return False
        return not any(
            contains(fits, simpler, c) and not (exact(name, where) and not exact(c, where))
            for c in candidates
        )

    def settle(
        candidates: Sequence[str], rivals: Sequence[str], where: Sequence[str] | None = None
    ) -> tuple[list[str], dict[str, tuple[str, ...]], list[str]]:
        """Names that are left of candidates that pass, what else they are, and open rivals."""
        also: dict[str, list[str]] = {}
        kept = []
        for name in candidates:
            simpler = next((c for c in candidates if swallows(c, name, candidates, where)), None)
            if simpler is None:
                kept.append(name)
            else:
                also.setdefault(simpler, []).append(name)

        # A family is as near as the nearest that contains it
        lines = {name: [name, *also.get(name, ())] for name in kept}

        def beaten(name: str, other: str) -> bool:
            mine = lines.get(name, [name])
            return all(any(set_aside(m, o, where) for o in lines[other]) for m in mine)

        left = [n for n in kept if not any(beaten(n, o) for o in kept if o != n)]
        kept = left or kept  # each may be beaten by another, in another regime
        # Of equals the one with the fewest parameters is the name, or the first
        kept.sort(key=lambda name: fits[name].free)
        names: list[str] = []
        for name in kept:
            equal = next((n for n in names if _same(evidence, name, n, where)), None)
            if equal is None:
                names.append(name)
            else:
                also.setdefault(equal, []).append(name)
        others = [
            rival
            for rival in rivals
            if not any(contains(fits, rival, n) or beaten(rival, n) for n in kept)
        ]
        return names, {n: tuple(also[n]) for n in names if n in also}, others

    names, also, rivals = settle(passed, undecided)
    if names and not rivals:
        return Decision("named" if len(names) == 1 else "set", tuple(names), also)
    if rivals:
        return _open(evidence, table, rivals, names, margin, error)
    on_task = [n for n in fits if passes(n, TASK.name)]
    unsure = [n for n in fits if not passes(n, TASK.name) and not fails(n, TASK.name)]
    names, also, rivals = settle(on_task, unsure, [TASK.name])
    if names and not rivals:
        return Decision("in-distribution-only", tuple(names), also)
    unsure = rivals or [n for n in fits if n in refits and refits[n].low <= margin]
    if unsure:
        return _open(evidence, table, unsure, names, margin, error)
    return Decision("none")


def _open(
    evidence: Evidence,
    table: Mapping[tuple[str, str], Interval],
    rivals: Sequence[str],
    names: Sequence[str],
    margin: float,
    error: float,
) -> Decision:
    needed = 0
    for regime, sample in evidence.samples.items():
        for name in rivals:
            interval = table.get((name, regime))
            if interval and interval.low <= margin <= interval.high:
                pairs = distance.pairs_to_decide(sample.squares(name), sample.units, margin, error)
                needed = max(needed, pairs)
    return Decision("inconclusive", tuple(names), {}, tuple(rivals), needed)


def _same(evidence: Evidence, name: str, other: str, where: Sequence[str] | None) -> bool:
    """Whether two candidates give the same answers in every regime."""
    for regime in where or evidence.samples:
        sample = evidence.samples[regime]
        mine, its = sample.squares(name).mean(), sample.squares(other).mean()
        most = max(SAME * max(mine, its), distance.ROUNDING * sample.units.mean())
        if not sample.squares(name, other).mean() <= most:
            return False
    return True
