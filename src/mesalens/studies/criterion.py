"""`Criterion`: when the evidence for a claim is enough, and what the verdict is where it is not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.special
import xarray as xr
from jaxtyping import Float

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]


@dataclass(frozen=True)
class Evidence:
    """Measured values with the dimension `seed` and, where there are several settings, others; and which of them count.

    `counted` is a boolean array over `seed` (and others); where it is not given, every seed counts in every setting.
    """

    values: xr.DataArray
    counted: xr.DataArray | None = None


@dataclass(frozen=True)
class Judgement:
    """The outcome, with the setting that decides it: the mean over seeds there, its interval, and which setting it is.

    `seeds` counted in that setting, of `of` that were run.
    """

    outcome: Outcome
    value: float
    low: float
    high: float
    seeds: int
    of: int
    where: dict[str, str]


@dataclass(frozen=True)
class Criterion:
    """An interval over seeds has to lie inside [low, high], in every setting that was tried.

    PASS where it does; FAIL where in some setting the two have no point in common, or a value is not finite; else
    INCONCLUSIVE. The setting that decides is, among those with the outcome, the one whose interval reaches farthest out.
    """

    low: float
    high: float
    words: str
    interval: Callable[[Float[np.ndarray, " seeds"]], tuple[float, float]]

    def judge(self, evidence: Evidence) -> Judgement:
        """The verdict on the evidence, from its numbers alone."""
        counted = xr.full_like(evidence.values, True, dtype=bool) if evidence.counted is None else evidence.counted
        values, counted = xr.broadcast(evidence.values, counted)
        settings = [str(dimension) for dimension in values.dims if dimension != "seed"]
        values, counted = values.transpose(*settings, "seed"), counted.transpose(*settings, "seed")
        judgements = []
        for place in np.ndindex(*(values.sizes[name] for name in settings)):
            where = {name: str(values[name].values[index]) for name, index in zip(settings, place, strict=True)}
            judgements.append(self._judge_setting(values.values[place], counted.values[place], where))
        outcomes = {judgement.outcome for judgement in judgements}
        outcome = next(o for o in ("FAIL", "INCONCLUSIVE", "PASS") if o in outcomes)
        return min((j for j in judgements if j.outcome == outcome), key=self._room)

    def _judge_setting(self, values, counted, where: dict[str, str]) -> Judgement:
        chosen = values[counted].astype(np.float64)
        finite = bool(np.isfinite(chosen).all())
        low, high = self.interval(chosen) if finite and len(chosen) else (-np.inf, np.inf)
        outcome: Outcome
        if not finite or low > self.high or high < self.low:
            outcome = "FAIL"
        else:
            outcome = "PASS" if low >= self.low and high <= self.high and len(chosen) else "INCONCLUSIVE"
        mean = float(chosen.mean()) if len(chosen) else np.nan
        return Judgement(outcome, mean, float(low), float(high), len(chosen), len(values), where)

    def _room(self, judgement: Judgement) -> float:
        """How far inside the criterion the interval ends; negative where it reaches out."""
        if not np.isfinite(judgement.value):
            return -np.inf
        return min(judgement.low - self.low, self.high - judgement.high)


def confidence_interval(values: Float[np.ndarray, " seeds"]) -> tuple[float, float]:
    """Student's 95% interval of the mean over independent seeds; one seed alone has none, so it is the whole line."""
    if len(values) < 2:
        return -np.inf, np.inf
    half = scipy.special.stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def seed_range(values: Float[np.ndarray, " seeds"]) -> tuple[float, float]:
    """From the least seed to the greatest: for what has to hold in each, not on average."""
    return float(values.min()), float(values.max())


def within(margin: float) -> Criterion:
    """Equivalence: the 95% interval inside ±margin."""
    return Criterion(-margin, margin, f"95% interval inside ±{margin:g}", confidence_interval)


def above(threshold: float) -> Criterion:
    """Order: the 95% interval above a threshold."""
    return Criterion(threshold, np.inf, f"95% interval above {threshold:g}", confidence_interval)


def below(threshold: float) -> Criterion:
    """Order: the 95% interval below a threshold."""
    return Criterion(-np.inf, threshold, f"95% interval below {threshold:g}", confidence_interval)


def every_seed_below(threshold: float) -> Criterion:
    """For identities: every seed below a threshold; the interval is the range over seeds."""
    return Criterion(-np.inf, threshold, f"every seed below {threshold:g}", seed_range)
