"""`decide`: what the evidence says, with its errors under control.

*Equivalence.* A candidate passes in a regime if its interval lies below the margin, and fails if it
lies above. It is equivalent to the learner if it passes in all regimes. Each regime is a separate
test, and a wrong name needs an error in every one, so no correction for their number is needed. By
the same argument, no candidate fits if every candidate fails on the task itself.

*Uniqueness.* A candidate that passes is dropped if it contains a simpler one that passes too,
unless only the richer one agrees with the learner up to rounding. A candidate is set aside if its
distance is at least four times that of another one (twice in root mean square) in some regime, and
nowhere smaller in this sense. Candidates that give the same answers up to rounding are one
algorithm with several names. If one candidate is left, it is named; otherwise the answer is a set.

*Looks.* Prompts are added until the answer is decided, at looks that are fixed in advance.
Intervals at look k have the level 1 - α_k with Σ α_k = 1 - level, so the probability that an
interval misses its value at any look is at most 1 - level (Boole). Each look spends half of what is
left.
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
"""A learner is blind to the context if it explains less than this share of the mean square of the
predictions."""

NEARER = 4.0
"""A candidate is set aside if another is nearer by this factor in mean square."""

SAME = 1e-4
"""Candidates are the same function if they differ by at most this share of their distance from the
learner, or by rounding only."""


@dataclass(frozen=True)
class Decision:
    """An answer: the verdict and the candidates that it is about.

    `names` are the candidates that are named, in the set, or pass on the task. `also` has other
    names of the same function and richer families, by name. `open` are undecided candidates, and
    `pairs` is the number of pairs of prompts that would probably decide them.
    """

    verdict: Verdict
    names: tuple[str, ...] = ()
    also: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    open: tuple[str, ...] = ()
    pairs: int = 0


def spend(looks: int, total: float) -> list[float]:
    """The error of each look: half of what is left; the last look spends all of it."""
    errors = [total / 2**k for k in range(1, looks + 1)]
    return [*errors[:-1], total - sum(errors[:-1])]


def contains(fits: Mapping[str, Fitted], name: str, other: str) -> bool:
    """Whether all members of another family are members of this one."""
    parts = fits[name].candidate.extends
    return other in parts or any(contains(fits, p, other) for p in parts if p in fits)


def decide(
    evidence: Evidence, margin: float, error: float, refits: Mapping[str, Interval]
) -> Decision:
    """The answer, at a look that spends `error`.

    Args:
        evidence: The evidence of all regimes.
        margin: The distance below which a candidate is equivalent to the learner.
        error: The level of intervals is 1 - error.
        refits: The distances of candidates fitted again on the same prompts on which they are
            judged; the verdict `none` requires them to fail too.
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
        """Whether another candidate is clearly nearer, and nowhere clearly farther."""
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
        """Whether a family is dropped for the simplest one that it contains.

        It is not if it agrees with the learner up to rounding and the simpler one does not.
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
        """The names left of the candidates that pass, their other names, and undecided rivals."""
        also: dict[str, list[str]] = {}
        kept = []
        for name in candidates:
            simpler = next((c for c in candidates if swallows(c, name, candidates, where)), None)
            if simpler is None:
                kept.append(name)
            else:
                also.setdefault(simpler, []).append(name)

        # A family counts as near as the nearest family that contains it
        lines = {name: [name, *also.get(name, ())] for name in kept}

        def beaten(name: str, other: str) -> bool:
            mine = lines.get(name, [name])
            return all(any(set_aside(m, o, where) for o in lines[other]) for m in mine)

        left = [n for n in kept if not any(beaten(n, o) for o in kept if o != n)]
        kept = left or kept  # each may be beaten by another one, in different regimes
        # Of equal functions the one with the fewest parameters is named, or the first
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
    """Whether two candidates give the same predictions in every regime."""
    for regime in where or evidence.samples:
        sample = evidence.samples[regime]
        mine, its = sample.squares(name).mean(), sample.squares(other).mean()
        most = max(SAME * max(mine, its), distance.ROUNDING * sample.units.mean())
        if not sample.squares(name, other).mean() <= most:
            return False
    return True
