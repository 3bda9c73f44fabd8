"""`Criterion`: whether the evidence confirms a claim, at each look as seeds are added.

A claim is judged at looks that are fixed in advance, each with more seeds than the one before. With
two-sided intervals of level 1 - α_k at look k, the probability that the interval misses the mean at
any look is at most Σ α_k (Boole), for any dependence between looks. A verdict is wrong only if an
interval misses the mean. So Σ α_k = 0.05 bounds the probability of a wrong verdict, even if the
number of looks depends on the values. A claim about several settings passes only if every interval
lies inside, so a wrong PASS needs one particular interval to miss. For a wrong FAIL any one of K
intervals may miss, so FAIL is decided with intervals of level 1 - α_k / K.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import scipy.special
import xarray as xr
from jaxtyping import Float

from mesalens.checks import InputError
from mesalens.display import Described, Summary

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]

ERROR = 0.05
"""The probability of a wrong verdict about a claim, over all looks."""

MOST_SEEDS = 10**6


class Evidence(NamedTuple):
    """Measured values, with the dimension `seed` and perhaps dimensions of settings.

    `counted` is boolean, over `seed` and perhaps settings: whether a value counts.
    """

    values: xr.DataArray
    counted: xr.DataArray


@dataclass(frozen=True, repr=False)
class Judgement(Described):
    """The outcome of a criterion, with the numbers of the setting that decides it.

    Attributes:
        outcome: "PASS", "FAIL" or "INCONCLUSIVE".
        value: The mean over seeds.
        low: The lower end of its interval; for a universal claim, the least value.
        high: The upper end of its interval; for a universal claim, the largest value.
        level: The confidence level of the interval; 1 for a universal claim.
        seeds: The number of seeds that count.
        seeds_run: The number of seeds that were computed.
        where: The setting, by dimension; empty if the claim has no settings.
        values: The value of each seed that counts.
        why: Why the outcome is not PASS, in words.
        seeds_to_decide: The number of seeds that would probably decide an inconclusive claim.
    """

    outcome: Outcome
    value: float
    low: float
    high: float
    level: float
    seeds: int
    seeds_run: int
    where: dict[str, str]
    values: dict[int, float]
    why: str = ""
    seeds_to_decide: int | None = None

    def _summary(self) -> Summary:
        ends = f"[{number(self.low)}, {number(self.high)}]"
        counted = f"{self.seeds} of {self.seeds_run} seeds"
        title = f"{self.outcome}, {number(self.value)} {ends}, {counted}"
        rows = {"value": number(self.value), "interval": ends, "level": f"{self.level:.4g}"}
        rows |= {"setting": ", ".join(f"{name}: {value}" for name, value in self.where.items())}
        rows |= {"seeds": ", ".join(f"{seed}: {number(x)}" for seed, x in self.values.items())}
        return Summary(title, rows | {"why": self.why})


@dataclass(frozen=True)
class Criterion:
    """What confirms a claim: the interval over seeds lies inside (low, high) in every setting.

    The outcome is PASS if it does, FAIL if the interval lies outside in some setting or a value is
    not finite, and INCONCLUSIVE otherwise. A universal claim is about every seed instead of the
    mean: it passes if all values lie inside, and one value outside is a counterexample. Of several
    settings with this outcome, the one whose interval reaches farthest out is reported.

    Usually made by `within`, `above`, `below` or `every_seed_below`.

    Attributes:
        low: The lower bound.
        high: The upper bound.
        words: The criterion in words.
        universal: Whether the claim is about every seed.

    Raises:
        ValueError: if every value would pass, or none could.
    """

    low: float
    high: float
    words: str
    universal: bool = False

    def __post_init__(self):
        bounds = self.low, self.high
        if any(map(math.isnan, bounds)) or not self.low < self.high or bounds == (-np.inf, np.inf):
            raise InputError(
                "the bounds of a criterion must be low < high, and not both infinite; got "
                f"{self.words}."
            )

    def judge(self, evidence: Evidence, error: float = ERROR) -> Judgement:
        """The judgement of the evidence.

        Args:
            evidence: The values, and which of them count.
            error: Intervals have the level 1 - error.
        """
        values, counted = xr.broadcast(*evidence)
        values = values.transpose("seed", ...)
        counted = counted.transpose(*values.dims).astype(bool)
        settings = [str(dimension) for dimension in values.dims if dimension != "seed"]
        shape = [values.sizes[name] for name in settings]
        judgements = []
        for place in np.ndindex(*shape):
            at = dict(zip(settings, place, strict=True))
            where = {name: str(values[name].values[index]) for name, index in at.items()}
            chosen = counted[at].values
            seeds = dict(
                zip(
                    values.seed.values[chosen].tolist(),
                    values[at].values[chosen].astype(float).tolist(),
                    strict=True,
                )
            )
            judgements.append(self._judge(seeds, len(chosen), where, error, math.prod(shape)))
        severity = ("FAIL", "INCONCLUSIVE", "PASS").index
        return min(judgements, key=lambda each: (severity(each.outcome), self._margin(each)))

    def _judge(
        self, seeds: dict[int, float], run: int, where: dict[str, str], error: float, settings: int
    ) -> Judgement:
        values = np.array(list(seeds.values()), np.float64)
        finite, outcome, needed, level = bool(np.isfinite(values).all()), "INCONCLUSIVE", None, 1.0
        low, high = -np.inf, np.inf
        if self.universal:
            if len(values):
                low, high = values.min(), values.max()
                inside = finite and low > self.low and high < self.high
                outcome = "PASS" if inside else "FAIL"
        elif not finite:
            outcome = "FAIL"
        else:
            level = 1 - error
            low, high = interval(values, error)
            widest = interval(values, error / settings)
            if low > self.low and high < self.high:
                outcome = "PASS"
            elif widest[0] >= self.high or widest[1] <= self.low:
                outcome, level, (low, high) = "FAIL", 1 - error / settings, widest
            else:
                needed = self._seeds_to_decide(values, run, error / settings)
        mean = float(values.mean()) if len(values) else np.nan
        judged = Judgement(
            outcome, mean, float(low), float(high), level, len(values), run, where, seeds
        )
        why = "" if outcome == "PASS" else self._why(judged, needed)
        return Judgement(**(vars(judged) | {"why": why, "seeds_to_decide": needed}))

    def _seeds_to_decide(self, values: np.ndarray, run: int, error: float) -> int | None:
        """The number of seeds with which the interval would end at the nearest bound, if mean and
        standard deviation stay the same.
        """
        if len(values) < 2:
            return None
        mean, spread = values.mean(), values.std(ddof=1)
        distance = min(abs(mean - self.low), abs(mean - self.high))
        for counted in _growing(len(values) + 1):
            if _half(spread, counted, error) <= distance:
                return math.ceil(counted * run / len(values))
        return None

    def _why(self, judged: Judgement, needed: int | None) -> str:
        """Why the outcome is not PASS, in words."""
        values = ", ".join(f"seed {seed}: {number(v)}" for seed, v in [*judged.values.items()][:12])
        more = f", and {judged.seeds - 12} more" if judged.seeds > 12 else ""
        shown = f" ({values}{more})" if values else ""
        if not judged.seeds:
            return f"No seed counts ({judged.seeds_run} computed)."
        if not all(map(math.isfinite, judged.values.values())):
            return f"A value is not finite{shown}."
        if self.universal:
            bad = {s: v for s, v in judged.values.items() if not self.low < v < self.high}
            seed, value = next(iter(bad.items()))
            others = f"; so are {len(bad) - 1} others" if len(bad) > 1 else ""
            return f"Seed {seed} is a counterexample: {number(value)} is not {self.words}{others}."
        ends = f"[{number(judged.low)}, {number(judged.high)}]"
        if judged.outcome == "FAIL":
            return f"The interval {ends} lies outside the criterion, {self.words}{shown}."
        if judged.seeds < 2:
            return f"One seed counts ({judged.seeds_run} computed); an interval needs two{shown}."
        asked = f"--seeds {needed}, or seeds={needed} in Python"
        advice = f" About {needed} seeds would probably decide it: {asked}." if needed else ""
        return f"The interval {ends} contains a bound{shown}.{advice}"

    def _margin(self, judgement: Judgement) -> float:
        """How far the interval is inside the bounds; negative if it reaches out."""
        # If both are infinite, the difference is NaN, and nothing reaches out
        return np.nanmin([judgement.low - self.low, self.high - judgement.high])


def interval(values: Float[np.ndarray, " seeds"], error: float = ERROR) -> tuple[float, float]:
    """Student's interval for the mean over independent seeds, of level 1 - error.

        mean ± t(n - 1, 1 - error / 2) · s / √n

    For fewer than two seeds it is the whole line.
    """
    if len(values) < 2:
        return -np.inf, np.inf
    half = _half(values.std(ddof=1), len(values), error)
    return float(values.mean() - half), float(values.mean() + half)


def _growing(first: int) -> list[int]:
    """Numbers of seeds up to the largest, each a few percent more than the one before."""
    return np.unique(np.geomspace(first, MOST_SEEDS, 400).astype(int)).tolist()


def _half(spread: float, seeds: int, error: float) -> float:
    return float(scipy.special.stdtrit(seeds - 1, 1 - error / 2) * spread / np.sqrt(seeds))


def spending(looks: Sequence[int], error: float = ERROR) -> dict[int, float]:
    """The error α_k of each look, by its number of seeds.

    Each look spends half of what is left, and the last look all of it, because most claims are
    decided at the first look.
    """
    shares, left = {}, error
    for seeds in looks[:-1]:
        shares[seeds] = left / 2
        left -= left / 2
    return shares | {looks[-1]: left}


def number(value: float) -> str:
    """A number for people: three significant digits, with the signs − and ∞."""
    return f"{value:.3g}".replace("inf", "∞").replace("-", "−")


def within(margin: float) -> Criterion:
    """Criterion of equivalence: the interval of the mean lies inside (-margin, margin).

    Args:
        margin: The largest difference that counts as equal, positive, in units of the estimator.

    Returns:
        The criterion.

    Examples:
        >>> from mesalens.atlas import within
        >>> within(0.01).words
        'within ±0.01'
    """
    return Criterion(-margin, margin, f"within ±{margin:g}")


def above(threshold: float) -> Criterion:
    """Criterion of order: the interval of the mean lies above a threshold.

    Args:
        threshold: The threshold, in units of the estimator.

    Returns:
        The criterion.
    """
    return Criterion(threshold, np.inf, f"above {threshold:g}")


def below(threshold: float) -> Criterion:
    """Criterion of order: the interval of the mean lies below a threshold.

    Args:
        threshold: The threshold, in units of the estimator.

    Returns:
        The criterion.
    """
    return Criterion(-np.inf, threshold, f"below {threshold:g}")


def every_seed_below(threshold: float) -> Criterion:
    """Universal criterion: every seed is below a threshold; one counterexample is a FAIL.

    Args:
        threshold: The threshold, in units of the estimator.

    Returns:
        The criterion.
    """
    return Criterion(-np.inf, threshold, f"below {threshold:g} for every seed", universal=True)
