"""Regimes: the distributions of prompts on which an algorithm must agree, fixed in advance.

Each is a change of prompts that are drawn from the task, so it is defined for any task.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mesalens.identification.prompts import Prompts, Source, has_classes

OUTLIER = 5.0
"""The displacement of the outlying label, in standard deviations of labels."""

CONDITION = 10.0
"""The condition number to which inputs are stretched."""

Change = Callable[[Prompts, np.random.Generator], Prompts]


@dataclass(frozen=True)
class Regime:
    """A distribution of prompts.

    `times` is the context length as a multiple of the task's. If `tied`, the query depends on its
    context, and the two prompts of a pair have different queries. `for_classes` says whether the
    regime is defined if labels are classes.
    """

    name: str
    words: str
    change: Change = lambda prompts, rng: prompts
    times: int = 1
    tied: bool = False
    for_classes: bool = True


def _scaled(inputs: float = 1.0, labels: float = 1.0) -> Change:
    return lambda p, rng: Prompts(inputs * p.xs, labels * p.ys, inputs * p.queries)


def _half(p: Prompts, rng: np.random.Generator) -> Prompts:
    kept = max(p.context_length // 2, 1)
    return Prompts(p.xs[:, :kept], p.ys[:, :kept], p.queries)


def _lengths(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """½ or √(7/4), equally likely: their mean square is 1."""
    return np.where(rng.random(shape) < 0.5, 0.5, np.sqrt(1.75))


def _mixed_lengths(p: Prompts, rng: np.random.Generator) -> Prompts:
    lengths = _lengths(rng, (*p.xs.shape[:2], 1))
    of_query = np.repeat(_lengths(rng, (len(p) // 2, 1)), 2, axis=0)
    return Prompts(lengths * p.xs, lengths * p.ys, of_query * p.queries)


def _ill_conditioned(p: Prompts, rng: np.random.Generator) -> Prompts:
    d = p.xs.shape[-1]
    # Each pair has its own stretch, so that pairs are independent
    axes, _ = np.linalg.qr(rng.standard_normal((len(p) // 2, d, d)))
    variances = np.geomspace(1, CONDITION, d)
    stretch = (axes * np.sqrt(variances / variances.mean())) @ axes.mT
    stretch = np.repeat(stretch, 2, axis=0)
    return Prompts(p.xs @ stretch, p.ys, np.einsum("bd,bde->be", p.queries, stretch))


def _outlier(p: Prompts, rng: np.random.Generator) -> Prompts:
    rows, n = np.arange(len(p)), p.context_length
    ys = p.ys.copy()
    signs = rng.choice([-1.0, 1.0], (len(p), ys.shape[-1]))
    ys[rows, rng.integers(n, size=len(p))] += OUTLIER * ys.std() * signs
    return Prompts(p.xs, ys, p.queries)


def _duplicate(p: Prompts, rng: np.random.Generator) -> Prompts:
    rows, n = np.arange(len(p)), p.context_length
    xs, ys = p.xs.copy(), p.ys.copy()
    first = rng.integers(n, size=len(p))
    second = (first + rng.integers(1, max(n, 2), size=len(p))) % n
    xs[rows, second], ys[rows, second] = xs[rows, first], ys[rows, first]
    return Prompts(xs, ys, p.queries)


def _query_in_context(p: Prompts, rng: np.random.Generator) -> Prompts:
    chosen = rng.integers(p.context_length, size=len(p))
    return Prompts(p.xs, p.ys, p.xs[np.arange(len(p)), chosen])


SHORT, LONG = "short", "long"

TASK = Regime("task", "the task itself")

REGIMES = (
    TASK,
    Regime("inputs-halved", "inputs × ½", _scaled(inputs=0.5)),
    Regime("inputs-doubled", "inputs × 2", _scaled(inputs=2.0)),
    Regime("labels-tripled", "labels × 3", _scaled(labels=3.0), for_classes=False),
    Regime(SHORT, "half of the examples", _half),
    Regime(LONG, "twice as many examples", times=2),
    Regime(
        "mixed-lengths",
        "another distribution of the inputs with the same covariance: examples (x, y) and query "
        "× ½ or √1.75",
        _mixed_lengths,
        for_classes=False,
    ),
    Regime(
        "ill-conditioned", f"inputs stretched to condition number {CONDITION:g}", _ill_conditioned
    ),
    Regime(
        "outlier",
        f"one label displaced by {OUTLIER:g} standard deviations",
        _outlier,
        for_classes=False,
    ),
    Regime("duplicate", "one example replaced by a copy of another", _duplicate),
    Regime(
        "query-in-context",
        "the query equals the input of an example",
        _query_in_context,
        tied=True,
    ),
)
"""All regimes, in the order in which they are reported."""


def draw(regime: Regime, source: Source, count: int, place: tuple[int, ...]) -> Prompts:
    """Prompts of a regime.

    Raises:
        ValueError: if the regime is not defined for the task.
    """
    prompts = source.draw(count, place, regime.times)
    return regime.change(prompts, source.rng(*place))


def missing(regime: Regime, source: Source) -> str | None:
    """Why a regime is not defined for a task, or None if it is."""
    task = source.task
    if has_classes(task) and not regime.for_classes:
        return "labels are classes"
    if regime.name in (SHORT, "duplicate") and task.context_length < 2:
        return "contexts have a single example"
    return None
