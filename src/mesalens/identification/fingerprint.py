"""The fingerprint: properties of a learner that can be tested on prompts, each with a deviation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mesalens.checks import InputError
from mesalens.identification import distance
from mesalens.identification.distance import Interval, Pairs
from mesalens.identification.evidence import Evidence
from mesalens.identification.prompts import Prompts, Source, has_classes
from mesalens.identification.subject import Subject

PROMPTS = 512
"""The number of prompts for each 8192 that a regime may use, and the smallest number."""

POSITIONS = 16
"""The largest number of positions whose influence is measured."""


@dataclass(frozen=True)
class Property:
    """A property: whether it `holds` (None if undecided), and by which share of V it is violated.

    The `deviation` is NaN if the property was not tested; `why` says why.
    """

    name: str
    words: str
    holds: bool | None
    deviation: Interval
    why: str = ""


@dataclass(frozen=True)
class Fingerprint:
    """All properties, and the influence of each position.

    `influence` is the mean squared change of the prediction with the label at a position, in units
    of its mean over positions. If it is geometric in the position, `decay` is the ratio of root
    mean squares at neighbouring positions, the earlier over the later.
    """

    properties: tuple[Property, ...]
    positions: Int[np.ndarray, " positions"]
    influence: Float[np.ndarray, " positions"]
    decay: float | None

    def __getitem__(self, name: str) -> Property:
        """A property by its name."""
        return next(each for each in self.properties if each.name == name)

    def holds(self, *names: str) -> bool:
        """Whether all of these properties hold."""
        return all(self[name].holds for name in names)


@dataclass(frozen=True)
class Trial:
    """What a property is tested with: the learner, prompts, and its predictions for them."""

    subject: Callable[[Prompts], np.ndarray]
    prompts: Prompts
    answers: np.ndarray
    rng: np.random.Generator

    def ask(self, xs: Any = None, ys: Any = None, queries: Any = None) -> np.ndarray:
        """The predictions for the prompts with some parts replaced."""
        p = self.prompts
        return self.subject(
            Prompts(
                p.xs if xs is None else xs,
                p.ys if ys is None else ys,
                p.queries if queries is None else queries,
            )
        )


Test = Callable[[Trial], np.ndarray]
"""The deviations from a property, of shape (batch, m), in the units of predictions."""


def _order(t: Trial) -> np.ndarray:
    order = t.rng.permuted(
        np.tile(np.arange(t.prompts.context_length), (len(t.prompts), 1)), axis=1
    )
    rows = np.arange(len(t.prompts))[:, None]
    return t.ask(t.prompts.xs[rows, order], t.prompts.ys[rows, order]) - t.answers


def _sum_only(t: Trial) -> np.ndarray:
    Q = _orthogonal(t.rng, len(t.prompts), t.prompts.context_length)
    return t.ask(Q @ t.prompts.xs, Q @ t.prompts.ys) - t.answers


def _affine_in_labels(t: Trial) -> np.ndarray:
    others = t.prompts.ys[np.arange(len(t.prompts)) ^ 1]
    middle = t.ask(ys=(t.prompts.ys + others) / 2)
    return t.answers + t.ask(ys=others) - 2 * middle


def _affine_in_query(t: Trial) -> np.ndarray:
    others = np.roll(t.prompts.queries, 2, axis=0)
    middle = t.ask(queries=(t.prompts.queries + others) / 2)
    return t.answers + t.ask(queries=others) - 2 * middle


def _label_scale(t: Trial) -> np.ndarray:
    return t.ask(ys=2 * t.prompts.ys) / 2 - t.answers


def _input_scale(t: Trial) -> np.ndarray:
    return t.ask(2 * t.prompts.xs, queries=2 * t.prompts.queries) - t.answers


def _rotation(t: Trial) -> np.ndarray:
    R = np.repeat(_orthogonal(t.rng, len(t.prompts) // 2, t.prompts.xs.shape[-1]), 2, axis=0)
    queries = np.einsum("bd,bde->be", t.prompts.queries, R)
    return t.ask(t.prompts.xs @ R, queries=queries) - t.answers


def _hull(t: Trial) -> np.ndarray:
    low, high = t.prompts.ys.min(axis=1), t.prompts.ys.max(axis=1)
    return t.answers - np.clip(t.answers, low, high)


def _shift(t: Trial) -> np.ndarray:
    shift = t.prompts.ys.std()
    return t.ask(ys=t.prompts.ys + shift) - t.answers - shift


def _no_shift(t: Trial) -> np.ndarray:
    return t.ask(ys=t.prompts.ys + t.prompts.ys.std()) - t.answers


TESTS: dict[str, tuple[str, Test]] = {
    "order-free": ("the order of examples does not matter", _order),
    "sum-only": (
        "the prediction depends on the context through S alone (rotating the examples does not "
        "change it)",
        _sum_only,
    ),
    "affine-in-labels": ("the prediction is affine in the labels", _affine_in_labels),
    "affine-in-query": ("the prediction is affine in the query", _affine_in_query),
    "label-scale": ("the prediction scales with the labels", _label_scale),
    "input-scale": ("the prediction does not change with the scale of the inputs", _input_scale),
    "rotation": ("rotating the inputs does not change the prediction", _rotation),
    "hull": ("the prediction lies within the range of the context's labels", _hull),
    "keeps-shift": ("the prediction shifts with the labels, as with an intercept", _shift),
    "ignores-shift": ("a shift of all labels does not change the prediction", _no_shift),
}

OF_LABELS = ("affine-in-labels", "label-scale", "keeps-shift", "ignores-shift", "sum-only", "hull")
"""Properties that are not defined if labels are classes."""


def fingerprint(
    subject: Subject, source: Source, evidence: Evidence, margin: float, error: float, most: int
) -> Fingerprint:
    """The properties of a learner on a task, each with its deviation in units of V.

    Args:
        subject: The learner.
        source: Where prompts come from.
        evidence: Distances on the task, whose V is the unit.
        margin: The deviation below which a property holds.
        error: The probability that an interval misses its value.
        most: The largest number of prompts in a regime.
    """
    batches = range(max(most // 8192, 1))
    prompts = Prompts.joined([source.draw(PROMPTS, (2, k) if k else (2,)) for k in batches])
    answers = subject(prompts)
    unit = float(evidence.task.units.mean())
    trial = Trial(lambda p: subject(p, keep=False), prompts, answers, source.rng(2))
    properties = []
    for name, (words, test) in TESTS.items():
        if why := _too_small(name, source):
            nothing = Interval(np.nan, np.nan, np.nan)
            properties.append(Property(name, words, None, nothing, why))
            continue
        try:
            deviation = _ratio(distance.squares(test(trial)), unit, error)
        except InputError as failure:
            nothing, why = Interval(np.nan, np.nan, np.nan), str(failure).rstrip(".")
            properties.append(Property(name, words, None, nothing, why))
            continue
        holds = None if deviation.low <= margin <= deviation.high else bool(deviation.high < margin)
        properties.append(Property(name, words, holds, deviation))
    return Fingerprint(tuple(properties), *_positions(trial, properties, has_classes(source.task)))


def prompts_asked(source: Source, most: int) -> int:
    """The number of prompts that `fingerprint` asks the learner.

    Args:
        source: Where prompts come from.
        most: The largest number of prompts in a regime.
    """
    few, asked = source.draw(4, (2,)), 0

    def count(prompts: Prompts) -> np.ndarray:
        nonlocal asked
        asked += len(prompts)
        return nothing

    nothing = np.zeros((len(few), few.ys.shape[-1]))
    trial = Trial(count, few, nothing, source.rng(2))
    for name, (_, test) in TESTS.items():
        if not _too_small(name, source):
            test(trial)
    size = max(most // 8192, 1) * PROMPTS
    places = len(_places(few.context_length)) * (PROMPTS // 4)
    return size + asked // len(few) * size + places


def _places(context_length: int) -> np.ndarray:
    """The positions whose influence is measured."""
    n = context_length
    return np.unique(np.linspace(0, n - 1, min(n, POSITIONS)).round().astype(int))


def _ratio(numerators: Pairs, unit: float, error: float) -> Interval:
    """A ratio whose unit is known from other prompts, so that its error is negligible."""
    return distance.ratio(numerators, np.full(len(numerators), unit), error)


def _too_small(name: str, source: Source) -> str:
    task = source.task
    if has_classes(task) and name in OF_LABELS:
        return "labels are classes"
    if name in ("order-free", "sum-only") and task.context_length < 2:
        return "contexts have a single example"
    return ""


def _positions(
    trial: Trial, properties: list[Property], classes: bool
) -> tuple[np.ndarray, np.ndarray, float | None]:
    places = _places(trial.prompts.context_length)
    few = trial.prompts[: PROMPTS // 4]
    answers, moved = trial.answers[: len(few)], []
    size = few.ys.std() / 2
    for place in places:
        ys = few.ys.copy()
        ys[:, place] = np.roll(ys[:, place], 1, axis=0) if classes else ys[:, place] + size
        try:
            moved.append(np.mean((trial.subject(Prompts(few.xs, ys, few.queries)) - answers) ** 2))
        except InputError:
            moved.append(np.nan)
    influence = np.array(moved) / max(np.nanmean(moved), 1e-300)
    order_free = next(p.holds for p in properties if p.name == "order-free")
    if order_free is not False or len(places) < 4 or not (influence > 0).all():
        return places + 1, influence, None
    slope, offset = np.polyfit(places, np.log(influence), 1)
    rest = np.log(influence) - slope * places - offset
    geometric = rest.var() < 0.1 * np.log(influence).var()
    return places + 1, influence, float(np.exp(-slope / 2)) if geometric else None


def _orthogonal(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Uniformly random orthogonal matrices."""
    Q, R = np.linalg.qr(rng.standard_normal((count, size, size)))
    return Q * np.sign(np.diagonal(R, axis1=1, axis2=2))[:, None, :]
