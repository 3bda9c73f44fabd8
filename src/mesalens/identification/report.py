"""`Identification`: the answer of `identify`, as text, dataset, figure and folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from pydantic_core import to_jsonable_python

from mesalens._citation import citation, sources
from mesalens.display import Described, Summary
from mesalens.identification import distance
from mesalens.identification.decision import NEARER, Decision
from mesalens.identification.distance import Interval
from mesalens.identification.evidence import Evidence
from mesalens.identification.fingerprint import Fingerprint
from mesalens.identification.fit import Fitted
from mesalens.identification.prompts import MOST_PROMPTS
from mesalens.identification.regimes import TASK
from mesalens.identification.spectral_filter import SpectralFilter, of_candidate

WORDS = {
    "zero": "predicting 0",
    "mean-label": "the mean label of the context",
    "bayes": "the Bayes predictor of the task",
    "discrete-bayes": "the Bayes predictor over the task's pool of functions",
    "least-squares": "least squares",
    "averaging": "averaging y x, which is one step of gradient descent with step size 1",
    "ridge": "ridge regression",
    "least-squares-with-intercept": "least squares with an intercept",
    "ridge-with-intercept": "ridge regression with an intercept",
    "gradient-descent": "gradient descent",
    "gradient-descent-rates": "gradient descent with a rate for each step",
    "descent-from-weights": "gradient descent from initial weights W_0",
    "preconditioned-step": "one step of preconditioned gradient descent",
    "momentum": "gradient descent with momentum",
    "chebyshev-descent": "Chebyshev's descent",
    "gd-plus-plus": "GD++",
    "gd-plus-plus-rates": "GD++ with rates for each step",
    "centred-descent": "gradient descent on centred inputs",
    "conjugate-gradient": "conjugate gradients",
    "newton-schulz": "Newton's iteration",
    "principal-components": "regression on principal components",
    "lasso": "the Lasso",
    "kernel-smoother": "a Gaussian kernel smoother",
    "softmax-head": "a head of softmax attention",
    "kernel-ridge": "kernel ridge regression",
    "nearest-neighbours": "k nearest neighbours",
    "weighted-ridge": "exponentially weighted ridge regression",
    "online-descent": "online gradient descent",
    "logistic-descent": "gradient descent on the cross-entropy",
}
"""The candidates in words."""


@dataclass(frozen=True, eq=False, repr=False)
class Identification(Described):
    """The answer of `identify`: which algorithm a learner runs.

    `str(answer)` is the answer in words.

    Attributes:
        verdict: "named"; "set" (several algorithms that the prompts cannot distinguish);
            "in-distribution-only" (algorithms that agree on the task itself, but not in all other
            regimes); "none"; "context-blind" (the predictions do not depend on the context); or
            "inconclusive" (more prompts are needed).
        names: The candidates that the verdict is about, nearest first.
        about: The task, the learner, the margin and the confidence level.
        dataset: Over candidate and regime: `distance` with the ends `low` and `high` of its
            interval, and `equivalent` (1, 0 or NaN if undecided). Over regime: `explained`, the
            mean square that the context explains. Single intervals have the level
            `interval_level`, so that all looks together have the confidence level.
        fits: The fitted candidates, by name.
        decision: The verdict with its names, and the undecided candidates.
        nearest: The nearest candidate, and the share of what the context explains that it
            reproduces.
        mixture: If no candidate fits, the weights of their nearest convex combination.
        why_not: The regime and the prompt on which the nearest candidate and the learner, or two
            candidates of a set, differ most.
        fingerprint: The properties of the learner; None if it is blind to the context.
        filter: The spectral filter of the learner, or None.
        no_filter: Why there is no spectral filter.
        candidate_filters: The spectral filters of the nearest candidates, at the same eigenvalues.
        noise: How much predictions for the same prompt differ, in units of what the context
            explains.
        steps: The values of an integer parameter, such as the number of steps, that pass too.
        left_out: Candidates and regimes that were left out, with the reason.
        prompts: The number of prompts that the learner answered.
        seconds: How long it took.
        answers: The predictions for the first prompts of the task, of shape (prompts, m).
        exact: Candidates whose distance on the task is exact, from moments.
        confidence_set: Candidates among which the nearest one on the task is with probability
            `level`, even if none is equivalent (the model confidence set of Hansen, Lunde and
            Nason).
    """

    verdict: str
    names: tuple[str, ...]
    about: Mapping[str, Any]
    dataset: xr.Dataset
    fits: Mapping[str, Fitted]
    decision: Decision
    nearest: Mapping[str, Any] | None
    mixture: Mapping[str, Interval]
    why_not: Mapping[str, Any] | None
    fingerprint: Fingerprint | None
    filter: SpectralFilter | None
    no_filter: str
    candidate_filters: Mapping[str, np.ndarray]
    noise: float
    steps: tuple[int, ...]
    left_out: Mapping[str, str]
    prompts: int
    seconds: float
    answers: np.ndarray
    exact: tuple[str, ...] = field(default=())
    confidence_set: tuple[str, ...] = field(default=())

    @classmethod
    def blind(
        cls, about: Mapping[str, Any], answers: np.ndarray, prompts: int, seconds: float
    ) -> "Identification":
        """The answer for a learner whose predictions do not depend on the context.

        Args:
            about: The task, the learner, the margin and the confidence level.
            answers: The predictions.
            prompts: The number of prompts that the learner answered.
            seconds: How long it took.
        """
        empty = xr.Dataset(coords={"candidate": np.array([], str), "regime": np.array([], str)})
        return cls(
            verdict="context-blind",
            names=(),
            about=about,
            dataset=empty,
            fits={},
            decision=Decision("context-blind"),
            nearest=None,
            mixture={},
            why_not=None,
            fingerprint=None,
            filter=None,
            no_filter="predictions do not depend on the context",
            candidate_filters={},
            noise=0.0,
            steps=(),
            left_out={},
            prompts=prompts,
            seconds=seconds,
            answers=answers,
        )

    @classmethod
    def made(
        cls,
        about: Mapping[str, Any],
        *,
        evidence: Evidence,
        decision: Decision,
        error: float,
        left_out: Mapping[str, str],
        fingerprint: Fingerprint,
        filters: tuple[SpectralFilter | None, str],
        noise: float,
        seconds: float,
        exact: Mapping[str, float] | None = None,
    ) -> "Identification":
        """The answer from the evidence.

        Args:
            about: The task, the learner, the margin and the confidence level.
            evidence: The predictions of learner and candidates in all regimes.
            decision: What they show.
            error: Intervals have the level 1 - error.
            left_out: Candidates that were left out, with the reason.
            fingerprint: The properties of the learner.
            filters: Its spectral filter, or None with the reason.
            noise: How much predictions for the same prompt differ.
            seconds: How long it took.
            exact: Exact distances on the task, by candidate.
        """
        margin = about["margin"]
        table = _table(evidence, margin, error, exact or {}).assign_attrs(level=about["level"])
        task = evidence.task
        on_task = table.distance.sel(regime=TASK.name)
        ranked = [str(n) for n in on_task.candidate.values[np.argsort(on_task.values)]]
        best = decision.names[0] if decision.names else ranked[0]
        interval = task.interval(best, error)
        nearest = {
            "name": best,
            "share": Interval(1 - interval.value, 1 - interval.high, 1 - interval.low),
        }
        spectral, why = filters
        shown = dict.fromkeys([*decision.names, *ranked[:3]])
        drawn = {}
        if spectral is not None:
            for name in shown:
                g = of_candidate(evidence.fits[name], evidence.source, spectral.eigenvalues)
                if g is not None:
                    drawn[name] = g
        return cls(
            verdict=decision.verdict,
            names=decision.names,
            about=about,
            dataset=table,
            fits=evidence.fits,
            decision=decision,
            nearest=nearest,
            mixture=_mixture(evidence, ranked, error) if decision.verdict == "none" else {},
            why_not=_why_not(evidence, table, decision, best),
            fingerprint=fingerprint,
            filter=spectral,
            no_filter=why,
            candidate_filters=drawn,
            noise=noise,
            steps=_choices(evidence, best, margin, error) if decision.verdict == "named" else (),
            left_out={**left_out, **{f"regime {k}": v for k, v in evidence.left_out.items()}},
            prompts=evidence.subject.asked,
            seconds=seconds,
            answers=task.answers[0],
            exact=tuple(exact or ()),
            confidence_set=_confidence_set(evidence, 1 - about["level"]),
        )

    @property
    def deterministic(self) -> bool:
        """Whether predictions for the same prompt are equal up to rounding."""
        return bool(self.noise <= distance.ROUNDING)

    @property
    def name(self) -> str | None:
        """The name of the algorithm if the verdict is "named", else None."""
        return self.names[0] if self.verdict == "named" else None

    @property
    def references(self) -> tuple[str, ...]:
        """What `mesalens.citation` cites of it: its methods, and what it names or finds nearest."""
        nearest = [self.nearest["name"]] if self.nearest else []
        methods = ["identification", *(["confidence-set"] if self.confidence_set else [])]
        return sources(dict.fromkeys([*methods, *self.names, *nearest]))

    @property
    def prompts_needed(self) -> int | None:
        """How many prompts in each regime may decide it; None if it is decided, or none would.

        At least twice as many as were used, because an estimate from few prompts is often too low,
        and one of 1024, 2048, 4096, …, because `identify` uses no other numbers.
        """
        if self.verdict != "inconclusive":
            return None
        used = 2 * int(self.dataset.pairs.max())
        needed = used * 2
        while needed < 2 * self.decision.pairs:
            needed *= 2
        return needed if needed <= MOST_PROMPTS else None

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the named algorithm, each with `value` and 95% `interval`."""
        return {} if self.name is None else self.parameters_of(self.name)

    def parameters_of(self, name: str) -> dict[str, Any]:
        """The parameters of a candidate, each with `value` and 95% `interval`.

        Args:
            name: The name of the candidate.
        """
        fitted = self.fits[name]
        found: dict[str, Any] = {}
        if fitted.choice is not None:
            ends = (self.steps[0], self.steps[-1]) if self.steps and name == self.name else None
            found[fitted.candidate.choice] = {
                "value": fitted.choice,
                "interval": list(ends or (fitted.choice, fitted.choice)),
            }
        for parameter, value in fitted.parameters.items():
            low, high = fitted.interval(parameter)
            found[parameter] = {
                "value": np.asarray(value).tolist(),
                "interval": [np.asarray(low).tolist(), np.asarray(high).tolist()],
            }
        return found

    def describe(self, name: str) -> str:
        """A candidate in words, with its parameters: "ridge regression, penalty 0.25".

        Args:
            name: The name of the candidate.
        """
        words, fitted = [WORDS.get(name, name)], self.fits[name]
        powers = (fitted.candidate.lengths or {}) if fitted.grows else {}
        for parameter, found in self.parameters_of(name).items():
            value = np.asarray(found["value"])
            numbers = ", ".join(f"{number:.4g}" for number in value.ravel())
            if value.ndim == 2:
                numbers = f"of size {' × '.join(map(str, value.shape))}"
            growth = {1: " ∝ n", -1: " ∝ 1/n"}.get(powers.get(parameter, 0), "")
            words.append(f"{parameter.replace('_', ' ')} {numbers}{growth}")
        return ", ".join(words)

    def content(self) -> dict[str, Any]:
        """The answer as plain values, as in `identification.json`; NaN and infinity are None."""
        margin, table = self.about["margin"], self.dataset
        candidates = []
        for name in table.candidate.values.tolist():
            rows = table.sel(candidate=name)
            distances = {
                str(regime): {
                    "distance": float(rows.distance.sel(regime=regime)),
                    "interval": [float(rows[end].sel(regime=regime)) for end in ("low", "high")],
                    "equivalent": _truth(rows.equivalent.sel(regime=regime)),
                }
                for regime in table.regime.values
                if np.isfinite(rows.low.sel(regime=regime))
                or rows.distance.sel(regime=regime) == np.inf
            }
            candidates.append(
                {
                    "name": name,
                    "parameters": self.parameters_of(name),
                    "grow_with_length": self.fits[name].grows,
                    "regimes": distances,
                }
            )
        found = self.fingerprint
        content = {
            "verdict": self.verdict,
            "name": self.name,
            "parameters": self.parameters,
            "set": [{"name": name, "parameters": self.parameters_of(name)} for name in self.names]
            if self.verdict in ("set", "in-distribution-only")
            else [],
            "also": {name: list(others) for name, others in self.decision.also.items()},
            "confidence_set": list(self.confidence_set),
            "nearest": self.nearest
            and {
                "name": self.nearest["name"],
                "share": self.nearest["share"].value,
                "interval": [self.nearest["share"].low, self.nearest["share"].high],
            },
            "mixture": {
                n: {"weight": w.value, "interval": [w.low, w.high]} for n, w in self.mixture.items()
            },
            "why_not": self.why_not,
            "candidates": candidates,
            "fingerprint": None
            if found is None
            else {
                each.name: {
                    "holds": each.holds,
                    "deviation": each.deviation.value,
                    "interval": [each.deviation.low, each.deviation.high],
                    **({"why": each.why} if each.why else {}),
                }
                for each in found.properties
            }
            | {
                "positions": found.positions.tolist(),
                "influence": found.influence.tolist(),
                "decay": found.decay,
            },
            "filter": {"reason": self.no_filter}
            if self.filter is None
            else {
                "eigenvalues": self.filter.eigenvalues.tolist(),
                "g": self.filter.values.tolist(),
                "pointwise": self.filter.pointwise.tolist(),
                "simultaneous": self.filter.simultaneous.tolist(),
                "across": self.filter.across.tolist(),
                "candidates": {n: g.tolist() for n, g in self.candidate_filters.items()},
            },
            "deterministic": self.deterministic,
            "prompts": self.prompts,
            "prompts_needed": self.prompts_needed,
            "margin": margin,
            "level": self.about["level"],
            "exact": list(self.exact),
            "left_out": dict(self.left_out),
            "task": repr(self.about["task"]),
            "model": repr(self.about["model"]),
            "seconds": round(self.seconds, 2),
            "references": list(self.references),
        }
        return to_jsonable_python(content, inf_nan_mode="null", fallback=_plain)

    def __str__(self) -> str:
        from mesalens.identification.words import text

        return text(self)

    def _summary(self) -> Summary:
        from mesalens.identification.words import summary

        return summary(self)

    def plot(self) -> Any:
        """A Matplotlib figure: distances by candidate and regime, spectral filter, properties."""
        from mesalens.identification.figure import figure

        return figure(self)

    def save(self, folder: Path | str) -> None:
        """Saves the answer: `index.html`, `identification.json`, `distances.nc`, and the figure.

        Args:
            folder: A new folder.

        Raises:
            ValueError: if the folder cannot be written, or is not empty.
        """
        from mesalens.files import new_folder
        from mesalens.identification.page import page
        from mesalens.identification.words import title
        from mesalens.manifest import write_manifest
        from mesalens.storage import save_dataset

        content = self.content()
        drawn = self.plot()
        with new_folder(Path(folder)) as out:
            names = [
                "identification.json",
                "distances.nc",
                "figure.png",
                "figure.pdf",
                "index.html",
            ]
            (out / names[0]).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            save_dataset(_storable(self.dataset), out / names[1])
            for name in names[2:4]:
                drawn.savefig(out / name)
            figure = (out / names[2]).read_bytes()
            text = page(title(self), str(self), content, figure, citation(self))
            (out / names[4]).write_text(text, encoding="utf-8")
            write_manifest(out, "identification", {}, names)


def _table(
    evidence: Evidence, margin: float, error: float, exact: Mapping[str, float]
) -> xr.Dataset:
    names, regimes = list(evidence.fits), list(evidence.samples)
    shape = len(names), len(regimes)
    distances, low, high = (np.full(shape, np.nan) for _ in range(3))
    for j, sample in enumerate(evidence.samples.values()):
        for i, name in enumerate(names):
            if name in sample.candidates:
                interval = sample.interval(name, error)
                if sample.regime is TASK and name in exact:
                    interval = Interval(*[exact[name]] * 3)
                distances[i, j], low[i, j], high[i, j] = interval
    both = ("candidate", "regime")
    equivalent = np.where(high < margin, 1.0, np.where(low > margin, 0.0, np.nan))
    fits = evidence.fits.values()
    variables = {
        "distance": (both, distances),
        "low": (both, low),
        "high": (both, high),
        "equivalent": (both, equivalent),
        "explained": ("regime", [s.units.mean() for s in evidence.samples.values()]),
        "pairs": ("regime", [s.pairs for s in evidence.samples.values()]),
    }
    coordinates = {
        "candidate": names,
        "regime": regimes,
        "words": ("regime", [s.regime.words for s in evidence.samples.values()]),
        "parameters": ("candidate", [_parameters_text(fitted) for fitted in fits]),
    }
    return xr.Dataset(variables, coordinates, {"margin": margin, "interval_level": 1 - error})


def _parameters_text(fitted: Fitted) -> str:
    values = {name: np.asarray(v).tolist() for name, v in fitted.parameters.items()}
    if fitted.choice is not None:
        values = {fitted.candidate.choice: fitted.choice} | values
    return json.dumps(values)


def _storable(table: xr.Dataset) -> xr.Dataset:
    """The table, without what netCDF cannot store: strings of size 0."""
    return table if table.candidate.size else xr.Dataset(attrs=table.attrs)


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist()


def _truth(value: Any) -> bool | None:
    return None if np.isnan(value) else bool(value)


def _confidence_set(evidence: Evidence, error: float) -> tuple[str, ...]:
    """The confidence set by distances on the task, cut, as diverging candidates hide all others."""
    names, task = list(evidence.fits), evidence.task
    losses = np.stack([task.squares(name) for name in names], axis=1)
    losses = np.minimum(losses, distance.MOST * task.units.mean())
    kept = distance.confidence_set(losses, evidence.source.rng(5), error)
    return tuple(name for name, holds in zip(names, kept, strict=True) if holds)


def _mixture(evidence: Evidence, ranked: list[str], error: float) -> dict[str, Interval]:
    """The weights of the nearest convex combination, with intervals by a bootstrap over pairs."""
    sample, draws = evidence.task, 100
    finite = [n for n in ranked if np.isfinite(sample.answers_of(n)).all()][:12]
    answers = sample.subject
    columns = [sample.answers_of(name) for name in finite]
    weights = distance.mixture(answers, columns)
    rng, pairs = evidence.source.rng(4), len(answers) // 2
    drawn = []
    for _ in range(draws):
        rows = rng.integers(pairs, size=pairs)
        rows = np.stack([2 * rows, 2 * rows + 1], axis=1).ravel()
        drawn.append(distance.mixture(answers[rows], [column[rows] for column in columns]))
    low, high = np.quantile(drawn, [error / 2, 1 - error / 2], axis=0)
    return {
        name: Interval(float(w), float(a), float(b))
        for name, w, a, b in zip(finite, weights, low, high, strict=True)
        if w > 0.01
    }


def _why_not(
    evidence: Evidence, table: xr.Dataset, decision: Decision, best: str
) -> dict[str, Any] | None:
    """Where the best candidate and the learner, or two candidates of a set, differ most."""
    if decision.verdict == "named":
        return None
    other = decision.names[1] if decision.verdict == "set" else None
    apart = {
        name: sample.squares(best, other).mean() / sample.units.mean()
        for name, sample in evidence.samples.items()
        if best in sample.candidates and (other is None or other in sample.candidates)
    }
    regime = max(apart, key=lambda name: apart[name])
    sample = evidence.samples[regime]
    first = sample.answers_of(best)
    second = sample.subject if other is None else sample.answers_of(other)
    row = int(np.nanargmax(np.sum((first - second) ** 2, axis=-1)))
    prompt = _row(sample.prompts, row)
    return {
        "candidate": best,
        "other": other or "the learner",
        "regime": regime,
        "distance": float(apart[regime]),
        "prompt": {"xs": prompt[0].tolist(), "ys": prompt[1].tolist(), "query": prompt[2].tolist()},
        "prediction": sample.subject[row].tolist(),
        "candidate_prediction": first[row].tolist(),
    }


def _row(batches: list[Any], row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    for prompts in batches:
        if row < len(prompts):
            return prompts.xs[row], prompts.ys[row], prompts.queries[row]
        row -= len(prompts)
    raise IndexError(row)


def _choices(evidence: Evidence, name: str, margin: float, error: float) -> tuple[int, ...]:
    """The values of the integer parameter for which the candidate passes too."""
    fitted = evidence.fits[name]
    if fitted.choice is None:
        return ()
    task = evidence.task
    passing = [fitted.choice]
    for choice, other in fitted.others.items():
        if other.square > 4 * margin * task.units.mean():
            continue
        for sample in evidence.samples.values():
            answers = np.concatenate([other.predictions(p) for p in sample.prompts])
            squares = distance.squares(answers - sample.subject)
            if not distance.ratio(squares, sample.units, error).low <= margin:
                break
            decided = squares.mean() > distance.ROUNDING * sample.units.mean()
            if decided and distance.farther(squares, sample.squares(name), NEARER, error):
                break
        else:
            passing.append(choice)
    return tuple(sorted(passing))
