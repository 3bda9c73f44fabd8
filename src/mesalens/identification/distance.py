"""Distances between learners, in units of what the context explains, with intervals.

The unit of a learner f is the part of its predictions that depends on the context,

    V = E‖f(C, x) - E[f(C, x) | x]‖² = ½ E‖f(C, x) - f(C', x)‖²

for independent contexts C and C' and the same query x, and the distance of an algorithm A is

    D = E‖f(C, x) - A(C, x)‖² / V.

D is 0 for the same function, and about 1 for the best guess that knows f but not the context.
Targets do not enter, so two good learners are not near just because both miss the same noise.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.special
from jaxtyping import Bool, Float

ROUNDING = 1e-8
"""Smaller distances are due to rounding errors, and comparing them is meaningless."""

MOST = 25.0
"""For the lower end of a distance, squared differences are cut at this multiple of V, or of their
median."""

FARTHEST = 1e6
"""Candidates farther than this multiple of the learner's mean square have no weight in a mixture,
and no larger lower end."""

HEAVY, DOUBT = 0.5, 4.0
"""If the largest 1% of the terms make up more than the share `HEAVY` of their sum, others as large
may be missing, and the upper end is multiplied by `DOUBT`."""

Pairs = Float[np.ndarray, " pairs"]
"""A number for each pair of prompts; pairs are independent."""


class Interval(NamedTuple):
    """A number with the ends of its confidence interval."""

    value: float
    low: float
    high: float

    def __repr__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def quantile(error: float, count: int) -> float:
    """The quantile of Student's t at 1 - error / 2, for a mean of `count` terms.

    From scipy.special, because importing scipy.stats is slow.
    """
    return float(scipy.special.stdtrit(count - 1, 1 - error / 2))


def squares(difference: Float[np.ndarray, "batch m"]) -> Pairs:
    """The mean of ‖difference‖² over the two prompts of each pair."""
    with np.errstate(over="ignore"):
        return np.sum(difference**2, axis=-1).reshape(-1, 2).mean(axis=1)


def units(
    answers: Float[np.ndarray, "batch m"], swapped: Float[np.ndarray, "batch m"] | None = None
) -> Pairs:
    """Terms whose mean is V, for pairs of prompts with the same query.

    If the prompts of a pair have different queries, `swapped` has the predictions for each query
    with the context of its partner.
    """
    if swapped is not None:
        return squares(answers - swapped) / 2
    first, second = answers[::2], answers[1::2]
    with np.errstate(over="ignore", invalid="ignore"):
        return np.sum((first - second) ** 2, axis=-1) / 2


def ratio(numerators: Pairs, denominators: Pairs, error: float) -> Interval:
    """The interval of level 1 - error for a ratio of means, E[a] / E[v].

    To first order in 1/pairs, the standard error s of the ratio D is that of the mean of
    (a - D v) / v̄, and log D has the standard error s/D. Terms are squares, so they are skewed: the
    interval of D is too short upwards, and that of log D too short downwards. The interval is

        [D - t s, D exp(t s / D)].

    If algorithms diverge, a few terms can be larger than all others together. For the lower end,
    terms are cut at `MOST` v̄, or at that multiple of their median if it is larger; this makes their
    mean smaller, so it remains a lower end. If the largest 1% of the terms make up more than half
    of their sum, the upper end would be too small too often, and is multiplied by `DOUBT`.
    """
    with np.errstate(over="ignore"):
        a, v = numerators.mean(), denominators.mean()
    if not np.isfinite(v):
        return Interval(np.inf, 0.0, np.inf)
    if v == 0 or a == 0:
        value = 0.0 if a == 0 else np.inf
        return Interval(value, value, value)
    middle = min(float(np.median(numerators)), FARTHEST * v)
    cut = np.minimum(numerators, MOST * max(v, middle))
    low = float(cut.mean() / v * max(1 - _reach(cut, denominators, error), 0.0))
    if not np.isfinite(a):
        return Interval(np.inf, low, np.inf)
    value = float(a / v)
    few = max(len(numerators) // 100, 1)
    with np.errstate(over="ignore"):
        high = value * float(np.exp(min(_reach(numerators, denominators, error), 700.0)))
        if np.partition(numerators, -few)[-few:].sum() > HEAVY * numerators.sum():
            high *= DOUBT
    return Interval(value, low, high)


def _reach(numerators: Pairs, denominators: Pairs, error: float) -> float:
    """The half width of the interval of a ratio, relative to the ratio: `t s / D`."""
    terms = numerators / numerators.mean() - denominators / denominators.mean()
    return float(quantile(error, len(terms)) * terms.std(ddof=1) / np.sqrt(len(terms)))


def mean_interval(terms: Pairs, error: float) -> Interval:
    """The interval of level 1 - error for a mean."""
    mean, pairs = float(terms.mean()), len(terms)
    half = float(quantile(error, pairs) * terms.std(ddof=1) / np.sqrt(pairs))
    return Interval(mean, mean - half, mean + half)


def farther(squares_: Pairs, others: Pairs, factor: float, error: float) -> bool:
    """Whether one distance exceeds `factor` times another, at level 1 - error (one-sided)."""
    if not (np.isfinite(squares_).all() and np.isfinite(others).all()):
        return not np.isfinite(squares_).all() and bool(np.isfinite(others).all())
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(mean_interval(squares_ - factor * others, 2 * error).low > 0)


def pairs_to_decide(numerators: Pairs, denominators: Pairs, bound: float, error: float) -> int:
    """The number of pairs for which the interval of a ratio would probably end at a bound."""
    if not np.isfinite(numerators).all():
        return 0
    terms = numerators - bound * denominators
    mean, spread = terms.mean(), terms.std(ddof=1)
    if not np.isfinite(mean) or mean == 0:
        return 0
    return int(np.ceil((scipy.special.ndtri(1 - error / 2) * spread / mean) ** 2))


def confidence_set(
    losses: Float[np.ndarray, "pairs learners"],
    rng: np.random.Generator,
    error: float = 0.05,
    draws: int = 500,
) -> Bool[np.ndarray, " learners"]:
    """Which learners may be the nearest: a model confidence set of level 1 - error.

    The learner whose mean loss is farthest above that of another one, in standard errors of the
    difference, is dropped. This is repeated until the largest such difference is one that equal
    means would give with a probability above `error`, by a bootstrap over pairs.

    Source: Hansen, Lunde and Nason, Econometrica 79 (2011), Section 3.1.2, with T_R.
    """
    finite = np.isfinite(losses).all(axis=0)
    pairs = len(losses)
    counts = rng.multinomial(pairs, np.full(pairs, 1 / pairs), size=draws) / pairs
    losses = np.where(finite, losses, 0)
    means, resampled = losses.mean(0), counts @ losses
    apart = means[:, None] - means
    drawn = resampled[:, :, None] - resampled[:, None] - apart
    spread = np.sqrt(np.mean(drawn**2, axis=0))
    spread = np.where(spread > 0, spread, np.inf)
    statistics, by_chance = apart / spread, np.abs(drawn) / spread
    left = np.flatnonzero(finite)
    while len(left) > 1:
        among = np.ix_(left, left)
        largest = by_chance[:, *among].max(axis=(1, 2))
        if np.mean(largest >= statistics[among].max()) > error:
            break
        left = np.delete(left, statistics[among].max(axis=1).argmax())
    return np.isin(np.arange(losses.shape[1]), left)


def mixture(
    answers: Float[np.ndarray, "batch m"], candidates: Sequence[Float[np.ndarray, "batch m"]]
) -> Float[np.ndarray, " candidates"]:
    """The weights of the nearest convex combination of candidates to the answers."""
    import scipy.optimize

    size = np.mean(answers**2) or 1.0
    # Far candidates get no weight, and would cause rounding errors for the others
    near = [i for i, c in enumerate(candidates) if np.mean((c - answers) ** 2) <= FARTHEST * size]
    weights = np.zeros(len(candidates))
    if not near:
        return weights
    columns = np.stack([candidates[i].ravel() for i in near], axis=1)
    gram = columns.T @ columns / (size * len(columns))
    root = np.linalg.cholesky(gram + 1e-12 * np.trace(gram) * np.eye(len(gram)))
    right = np.linalg.solve(root, columns.T @ answers.ravel() / (size * len(columns)))
    # A row that outweighs all others keeps the sum at 1
    heavy = 1e4 * max(float(np.abs(root).max()), 1.0)
    rows = np.vstack([root.T, np.full(len(gram), heavy)])
    found, _ = scipy.optimize.nnls(rows, np.append(right, heavy))
    weights[near] = found / found.sum()
    return weights
