"""`Criterion`: whether the evidence confirms a claim."""

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
    """Measured values, with the dimension `seed` and one for each kind of setting.

    `counted` is boolean, over `seed` and perhaps settings, and says which values count; by default
    all do.
    """

    values: xr.DataArray
    counted: xr.DataArray | None = None


@dataclass(frozen=True)
class Judgement:
    """An outcome and the setting that decides it.

    `value` is the mean over seeds in that setting, [`low`, `high`] its interval, and `where` the
    setting. `seeds` of `seeds_run` seeds counted there.
    """

    outcome: Outcome
    value: float
    low: float
    high: float
    seeds: int
    seeds_run: int
    where: dict[str, str]


@dataclass(frozen=True)
class Criterion:
    """The interval over seeds must lie inside [low, high] in every setting.

    PASS if it does. FAIL if, in some setting, the two do not overlap or a value is not finite.
    INCONCLUSIVE otherwise. Among the settings with that outcome, the one whose interval reaches
    farthest out decides.
    """

    low: float
    high: float
    words: str
    interval: Callable[[Float[np.ndarray, " seeds"]], tuple[float, float]]

    def judge(self, evidence: Evidence) -> Judgement:
        """The judgement of the evidence. It depends on nothing else."""
        counted = True if evidence.counted is None else evidence.counted
        values, counted = xr.broadcast(evidence.values, xr.DataArray(counted))
        settings = [str(dimension) for dimension in values.dims if dimension != "seed"]
        judgements = []
        for place in np.ndindex(*(values.sizes[name] for name in settings)):
            at = dict(zip(settings, place, strict=True))
            where = {name: str(values[name].values[index]) for name, index in at.items()}
            judgements.append(self._judge_setting(values[at].values, counted[at].values, where))
        severity = ("FAIL", "INCONCLUSIVE", "PASS").index
        return min(judgements, key=lambda each: (severity(each.outcome), self._margin(each)))

    def _judge_setting(self, values, counted, where: dict[str, str]) -> Judgement:
        chosen = values[counted].astype(np.float64)
        finite = bool(np.isfinite(chosen).all())
        low, high = self.interval(chosen) if finite and len(chosen) else (-np.inf, np.inf)
        outcome: Outcome = "INCONCLUSIVE"
        if not finite or low > self.high or high < self.low:
            outcome = "FAIL"
        elif low >= self.low and high <= self.high:
            outcome = "PASS"
        mean = float(chosen.mean()) if len(chosen) else np.nan
        return Judgement(outcome, mean, float(low), float(high), len(chosen), len(values), where)

    def _margin(self, judgement: Judgement) -> float:
        """How far inside the criterion the interval ends; negative if it reaches out."""
        # Where both ends are infinite, the difference is NaN: nothing reaches out there
        return np.nanmin([judgement.low - self.low, self.high - judgement.high])


def confidence_interval(values: Float[np.ndarray, " seeds"]) -> tuple[float, float]:
    """Student's 95% interval of the mean over independent seeds; the whole line for one seed."""
    if len(values) < 2:
        return -np.inf, np.inf
    quantile = scipy.special.stdtrit(len(values) - 1, 0.975)
    half = quantile * values.std(ddof=1) / np.sqrt(len(values))
    return values.mean() - half, values.mean() + half


def seed_range(values: Float[np.ndarray, " seeds"]) -> tuple[float, float]:
    """The least and the greatest seed, for claims about each seed rather than about their mean."""
    return values.min(), values.max()


def within(margin: float) -> Criterion:
    """Equivalence: the 95% interval lies inside ±margin."""
    return Criterion(-margin, margin, f"95% interval inside ±{margin:g}", confidence_interval)


def above(threshold: float) -> Criterion:
    """Order: the 95% interval lies above a threshold."""
    return Criterion(threshold, np.inf, f"95% interval above {threshold:g}", confidence_interval)


def below(threshold: float) -> Criterion:
    """Order: the 95% interval lies below a threshold."""
    return Criterion(-np.inf, threshold, f"95% interval below {threshold:g}", confidence_interval)


def every_seed_below(threshold: float) -> Criterion:
    """Identity: every seed is below a threshold; the interval is the range over seeds."""
    return Criterion(-np.inf, threshold, f"every seed below {threshold:g}", seed_range)
