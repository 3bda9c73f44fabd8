"""`Criterion`: whether the evidence confirms a claim, and looks at the evidence as seeds are added.

A claim is judged at looks that are fixed beforehand, each with more seeds than the one before. With
two-sided intervals of level 1 - α_k at look k, the interval misses the mean at some look with a
probability of at most Σ α_k (Boole), whatever the dependence between looks. A verdict is wrong only
if an interval misses the mean. So Σ α_k = 0.05 bounds the probability of a wrong verdict, also
where the number of looks that are taken depends on the values. A claim about several settings
passes only if each interval lies inside, so that one interval has to miss for a wrong PASS; for a
wrong FAIL any one of K may miss, and FAIL is decided with intervals of level 1 - α_k / K.
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
    """Measured values, with the dimension `seed` and one for each kind of setting.

    `counted` is boolean, over `seed` and perhaps settings, and says which values count.
    """

    values: xr.DataArray
    counted: xr.DataArray


@dataclass(frozen=True, repr=False)
class Judgement(Described):
    """An outcome and the setting that decides it.

    `value` is the mean over seeds in that setting, [`low`, `high`] its interval of the given
    `level` (the range over seeds for a universal claim), and `where` the setting. `seeds` of
    `seeds_run` seeds counted there; `values` has each seed that counted. `why` says in words why
    the outcome is not PASS, and `seeds_to_decide` how many seeds would probably decide it.
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
    """The interval over seeds must lie inside (low, high) in every setting.

    PASS if it does; FAIL if the two do not overlap in some setting, or a value is not finite;
    INCONCLUSIVE otherwise. A universal claim is about each seed instead of the mean: one seed
    outside is a counterexample, and it FAILS. Among the settings with the outcome, the one whose
    interval reaches farthest out decides.

    Raises:
        ValueError: for a criterion that no value could fail, or none could pass.
    """

    low: float
    high: float
    words: str
    universal: bool = False

    def __post_init__(self):
        bounds = self.low, self.high
        if any(map(math.isnan, bounds)) or not self.low < self.high or bounds == (-np.inf, np.inf):
            raise InputError(f"a criterion needs a bound that values can miss; got {self.words}.")

    def judge(self, evidence: Evidence, error: float = ERROR) -> Judgement:
        """The judgement of the evidence with intervals of level 1 - error."""
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
        """The seeds with which the interval would end at the nearest bound, were mean and standard
        deviation what they are now.
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
            return f"No seed counts, of {judged.seeds_run}."
        if not all(map(math.isfinite, judged.values.values())):
            return f"A value is not finite{shown}."
        if self.universal:
            bad = {s: v for s, v in judged.values.items() if not self.low < v < self.high}
            seed, value = next(iter(bad.items()))
            others = f"; so are {len(bad) - 1} others" if len(bad) > 1 else ""
            return f"Seed {seed} is a counterexample: {number(value)} is not {self.words}{others}."
        ends = f"[{number(judged.low)}, {number(judged.high)}]"
        if judged.outcome == "FAIL":
            return f"The interval {ends} lies outside: {self.words}{shown}."
        if judged.seeds < 2:
            return f"One seed counts, of {judged.seeds_run}, and an interval needs two{shown}."
        advice = f" About {needed} seeds would probably decide it." if needed else ""
        return f"The interval {ends} reaches across a bound{shown}.{advice}"

    def _margin(self, judgement: Judgement) -> float:
        """How far inside the criterion the interval ends; negative if it reaches out."""
        # Where both ends are infinite, the difference is NaN: nothing reaches out there
        return np.nanmin([judgement.low - self.low, self.high - judgement.high])


def interval(values: Float[np.ndarray, " seeds"], error: float = ERROR) -> tuple[float, float]:
    """Student's interval of level 1 - error of the mean over independent seeds.

        mean ± t(n - 1, 1 - error / 2) · s / √n

    It is the whole line for fewer than two seeds.
    """
    if len(values) < 2:
        return -np.inf, np.inf
    half = _half(values.std(ddof=1), len(values), error)
    return float(values.mean() - half), float(values.mean() + half)


def _growing(first: int) -> list[int]:
    """Numbers of seeds up to the largest, each a few percent above the one before."""
    return np.unique(np.geomspace(first, MOST_SEEDS, 400).astype(int)).tolist()


def _half(spread: float, seeds: int, error: float) -> float:
    return float(scipy.special.stdtrit(seeds - 1, 1 - error / 2) * spread / np.sqrt(seeds))


def spending(looks: Sequence[int], error: float = ERROR) -> dict[int, float]:
    """The share α_k of the error for each look, by its number of seeds.

    Each look takes half of what is left, and the last one all of it: most claims are decided at the
    first look.
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
    """Equivalence: the interval lies inside ±margin."""
    return Criterion(-margin, margin, f"within ±{margin:g}")


def above(threshold: float) -> Criterion:
    """Order: the interval lies above a threshold."""
    return Criterion(threshold, np.inf, f"above {threshold:g}")


def below(threshold: float) -> Criterion:
    """Order: the interval lies below a threshold."""
    return Criterion(-np.inf, threshold, f"below {threshold:g}")


def every_seed_below(threshold: float) -> Criterion:
    """Universal: every seed is below a threshold."""
    return Criterion(-np.inf, threshold, f"below {threshold:g} for every seed", universal=True)
