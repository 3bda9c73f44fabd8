"""`ProcedureIdentification`: which algorithm models run that were trained in the same way.

The independent unit is the trained model. Each model is identified separately on the same prompts.
Then each family, fitted to every model, is judged by the mean of its distances over models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from pydantic_core import to_jsonable_python

from mesalens._citation import sources
from mesalens.display import Described, Summary
from mesalens.identification import distance
from mesalens.identification.decision import contains
from mesalens.identification.distance import Interval
from mesalens.identification.least_squares import from_coordinate, to_coordinate
from mesalens.identification.regimes import TASK
from mesalens.identification.report import Identification
from mesalens.identification.words import differences


@dataclass(frozen=True, eq=False, repr=False)
class ProcedureIdentification(Described):
    """The answer of `identify` for several models of one training procedure.

    `str(answer)` is the answer in words.

    Attributes:
        verdict: The verdict on the procedure, as in `Identification`, from the intervals of the
            mean distance over seeds.
        names: The families that the verdict is about.
        seeds: The answer for each model.
        dataset: The mean `distance` over seeds, with `low` and `high`, over candidate and regime.
        floor: The distance between models, ½ E‖f - f'‖² / V, a mean over pairs of seeds. No family
            can describe the procedure more closely than its models agree.
    """

    verdict: str
    names: tuple[str, ...]
    seeds: tuple[Identification, ...]
    dataset: xr.Dataset
    floor: Interval

    @property
    def name(self) -> str | None:
        """The name of the family if the verdict is "named", else None."""
        return self.names[0] if self.verdict == "named" else None

    @property
    def references(self) -> tuple[str, ...]:
        """What `mesalens.citation` cites of it: its methods, and the algorithms that it names."""
        return sources(["identification", *self.names])

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the named family: mean over seeds and 95% interval.

        For positive parameters it is the geometric mean.
        """
        if self.name is None:
            return {}
        found: dict[str, Any] = {}
        of_seeds = [seed.parameters_of(self.name) for seed in self.seeds]
        ranges = self.seeds[0].fits[self.name].candidate.ranges or {}
        for parameter in of_seeds[0]:
            values = [np.asarray(each[parameter]["value"], float) for each in of_seeds]
            if len({value.shape for value in values}) == 1:
                kind = ranges.get(parameter, "real")
                there = _student(np.stack([to_coordinate(value, kind) for value in values]), 0.05)
                mean, low, high = (np.asarray(from_coordinate(each, kind)) for each in there)
                found[parameter] = {
                    "value": mean.tolist(),
                    "interval": [low.tolist(), high.tolist()],
                }
        return found

    def content(self) -> dict[str, Any]:
        """The answer as plain values, as in `identification.json`; `seeds` has each model's."""
        first = self.seeds[0].content()
        table = self.dataset
        content = {
            "verdict": self.verdict,
            "name": self.name,
            "parameters": self.parameters,
            "set": list(self.names) if self.verdict != "named" else [],
            "floor": {"distance": self.floor.value, "interval": [self.floor.low, self.floor.high]},
            "candidates": [
                {
                    "name": name,
                    "regimes": {
                        str(regime): {
                            "distance": float(table.distance.sel(candidate=name, regime=regime)),
                            "interval": [
                                float(table[end].sel(candidate=name, regime=regime))
                                for end in ("low", "high")
                            ],
                        }
                        for regime in table.regime.values
                    },
                }
                for name in table.candidate.values.tolist()
            ],
            "margin": first["margin"],
            "level": first["level"],
            "task": first["task"],
            "prompts": sum(seed.prompts for seed in self.seeds),
            "seconds": round(sum(seed.seconds for seed in self.seeds), 2),
            "references": list(self.references),
            "seeds": [seed.content() for seed in self.seeds],
        }
        return to_jsonable_python(content, inf_nan_mode="null")

    def __str__(self) -> str:
        words = {
            "named": "These models run {}.",
            "set": "These models run one of: {}.",
            "in-distribution-only": "These models agree with {} on the task itself only.",
            "none": "These models run none of the known algorithms.",
            "context-blind": "The predictions of these models do not depend on the context.",
            "inconclusive": "Inconclusive: this number of models does not decide it.",
        }
        described = [self.seeds[0].describe(name) for name in self.names]
        lines = [words[self.verdict].format("; ".join(described))]
        if self.name is not None:
            lines[0] = (
                f"These {len(self.seeds)} models run {self.name}."
                if self.agree
                else f"Each of these {len(self.seeds)} models runs a member of the family "
                f"{self.name}, but not all the same one."
            )
            for name, found in self.parameters.items():
                value, (low, high) = found["value"], found["interval"]
                if np.ndim(value) < 2:
                    pairs = zip(*map(np.ravel, (value, low, high)), strict=True)
                    shown = ", ".join(f"{v:.4g} [{a:.4g}, {b:.4g}]" for v, a, b in pairs)
                    lines.append(f"  {name.replace('_', ' ')} {shown} over seeds")
        tally = {
            v: sum(s.verdict == v for s in self.seeds)
            for v in sorted({s.verdict for s in self.seeds})
        }
        lines.append(
            "  by seed: " + ", ".join(f"{count} {verdict}" for verdict, count in tally.items())
        )
        lines += self._distances()
        for seed, verdict, names in self._of_seeds():
            lines.append(f"    seed {seed}: {verdict}; {names}")
        if self.verdict == "inconclusive":
            table, margin = self.dataset, self.dataset.attrs["margin"]
            for name in dict.fromkeys(name for seed in self.seeds for name in seed.names):
                high = table.high.sel(candidate=name)
                where = [str(r) for r in table.regime.values if high.sel(regime=r) >= margin]
                if where:
                    lines.append(f"  {name} is undecided in {', '.join(where)}; use more seeds")
        lines.append(f"  distance between seeds: {self.floor!r} of what the context explains")
        if self.verdict == "named" and not self.agree:
            lines.append(
                f"  That is not below the margin {self._margin:g}: their parameters differ. The "
                "answer for each model is in `seeds`, and with --out in a folder of its own"
            )
        return "\n".join(lines)

    @property
    def agree(self) -> bool:
        """Whether the models are nearer to each other than the margin."""
        return bool(self.floor.value < self._margin)

    @property
    def _margin(self) -> float:
        return self.seeds[0].about["margin"]

    def _distances(self) -> list[str]:
        """Distances, where the verdict is about them: means over seeds."""
        table = self.dataset
        if self.verdict == "in-distribution-only":
            return [f"  {n}: mean {differences(table, n, self._margin)}" for n in self.names]
        if self.verdict in ("none", "inconclusive") and TASK.name in table.regime:
            on_task = table.distance.sel(regime=TASK.name)
            name = str(on_task.candidate.values[int(np.argmin(on_task.values))])
            distance = float(on_task.sel(candidate=name))
            return [f"  nearest: {name}, mean distance {100 * distance:.2g}% on the task itself"]
        return []

    def _summary(self) -> Summary:
        answer, *lines = str(self).splitlines()
        lines = [line.strip() for line in lines if not line.startswith("    ")]
        head = ("seed", "verdict", "names, or the nearest")
        return Summary(answer.rstrip(":."), lines=lines, head=head, body=self._of_seeds())

    def _of_seeds(self) -> list[tuple[str, str, str]]:
        """For each seed its number, the verdict, and the names or the nearest candidate."""
        return [
            (str(place), s.verdict, ", ".join(s.names) or (s.nearest or {}).get("name", ""))
            for place, s in enumerate(self.seeds)
        ]

    def save(self, folder: Any) -> None:
        """Saves the answer, with a subfolder for each seed.

        Args:
            folder: A new folder.

        Raises:
            ValueError: if the folder cannot be written, or is not empty.
        """
        import json
        from pathlib import Path

        from mesalens.files import new_folder
        from mesalens.manifest import write_manifest
        from mesalens.storage import save_dataset

        content = self.content()
        with new_folder(Path(folder)) as out:
            (out / "identification.json").write_text(json.dumps(content, indent=2) + "\n")
            save_dataset(self.dataset, out / "distances.nc")
            for place, seed in enumerate(self.seeds):
                seed.save(out / f"seed-{place}")
            write_manifest(out, "identification", {}, ["identification.json", "distances.nc"])


def of_seeds(
    seeds: Sequence[Identification], margin: float, error: float
) -> ProcedureIdentification:
    """The answer for a procedure, from the answers for its models."""
    sighted = [seed for seed in seeds if seed.verdict != "context-blind"]
    floor = _floor(seeds, error)
    if len(sighted) < len(seeds):
        verdict = "context-blind" if not sighted else "inconclusive"
        return ProcedureIdentification(verdict, (), tuple(seeds), seeds[0].dataset, floor)
    shared = [
        r for r in seeds[0].dataset.regime.values if all(r in s.dataset.regime for s in seeds)
    ]
    stacked = xr.concat(
        [
            s.dataset[["distance", "low", "high"]].sel(regime=shared).drop_vars("parameters")
            for s in seeds
        ],
        "seed",
    )
    values = stacked.distance.values
    mean, _, high = _student(values, error)
    # As over prompts, large distances are cut for the lower end
    cut, low, _ = _student(np.minimum(values, distance.MOST), error)
    # Seeds share prompts, so the error from the prompts is not in the spread over seeds
    with np.errstate(invalid="ignore"):
        below = cut - np.minimum(stacked.low.values, distance.MOST).mean(0)
        above = stacked.high.values.mean(0) - mean
        low = cut - np.hypot(cut - low, below)
        high = np.where(np.isinf(mean), np.inf, mean + np.hypot(high - mean, above))
    both = ("candidate", "regime")
    table = xr.Dataset(
        {
            "distance": (both, mean),
            "low": (both, low),
            "high": (both, high),
            "by_seed": stacked.distance,
        },
        {"candidate": stacked.candidate, "regime": stacked.regime},
        {"margin": margin, "level": 1 - error},
    )

    def all_of(names: Mapping[str, bool]) -> tuple[str, ...]:
        return tuple(name for name, holds in names.items() if holds)

    named = dict.fromkeys(name for seed in seeds for name in seed.names)
    everywhere = all_of({n: bool((table.high.sel(candidate=n) < margin).all()) for n in named})
    on_task = all_of(
        {n: bool(table.high.sel(candidate=n, regime=TASK.name) < margin) for n in named}
    )
    everywhere = _distinct(everywhere, seeds)
    if everywhere:
        verdict, names = ("named" if len(everywhere) == 1 else "set"), everywhere
    elif on_task and all(bool((table.low.sel(candidate=name) > margin).any()) for name in on_task):
        verdict, names = "in-distribution-only", _distinct(on_task, seeds)
    elif bool((table.low.sel(regime=TASK.name) > margin).all()):
        verdict, names = "none", ()
    else:
        verdict, names = "inconclusive", ()
    return ProcedureIdentification(verdict, names, tuple(seeds), table, floor)


def _distinct(names: Sequence[str], seeds: Sequence[Identification]) -> tuple[str, ...]:
    """The names, without families that contain another one, and each function once."""
    fits = seeds[0].fits
    simplest = [n for n in names if not any(contains(fits, n, o) for o in names if o != n)]

    def same(name: str, other: str) -> bool:
        also = [seed.decision.also for seed in seeds]
        return all(name in each.get(other, ()) or other in each.get(name, ()) for each in also)

    kept: list[str] = []
    for name in simplest:
        if not any(same(name, other) for other in kept):
            kept.append(name)
    return tuple(kept)


def _student(values: np.ndarray, error: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean over the first axis and the ends of its Student interval."""
    count = len(values)
    mean = np.asarray(values.mean(axis=0))
    if count < 2:
        return mean, np.full_like(mean, -np.inf), np.full_like(mean, np.inf)
    with np.errstate(invalid="ignore", over="ignore"):
        spread = values.std(axis=0, ddof=1) / np.sqrt(count)
        half = distance.quantile(error, count) * spread
        return mean, np.asarray(mean - half), np.asarray(mean + half)


def _floor(seeds: Sequence[Identification], error: float) -> Interval:
    """The distance between models on the same prompts, over pairs of seeds.

    A seed is in many pairs, so the interval is by the jackknife over seeds.
    """
    if len(seeds) < 2:
        return Interval(np.nan, np.nan, np.nan)
    answers = np.stack([seed.answers for seed in seeds])
    units = np.mean([distance.units(each).mean() for each in answers])
    apart = np.mean(np.sum((answers[:, None] - answers[None]) ** 2, axis=-1), axis=-1) / 2 / units
    count = len(seeds)
    total = apart.sum()
    mean = total / (count * (count - 1))
    if count < 3:
        return Interval(float(mean), 0.0, np.inf)
    without = (total - 2 * apart.sum(axis=1)) / ((count - 1) * (count - 2))
    spread = np.sqrt((count - 1) / count * np.sum((without - without.mean()) ** 2))
    half = distance.quantile(error, count) * spread
    return Interval(float(mean), max(float(mean - half), 0.0), float(mean + half))
