"""`Training`: the result of a training."""

from dataclasses import dataclass
from math import isclose
from typing import Any

import equinox as eqx
import jax
import numpy as np
import xarray as xr
from jaxtyping import PyTree

from mesalens.checks import InputError, count
from mesalens.display import Described, Summary, spread

MOST_MEASURED = 12
"""So many of the measured numbers are shown."""


class TrainingDivergedError(ArithmeticError):
    """The loss, gradient or weights of a run were not finite; the message names run and step."""


@dataclass(frozen=True, repr=False)
class Training(Described):
    """The result of a training: the learners, and what was measured.

    `metrics` has one dimension for each varied setting, then `seed` and `step`. Its variables are
    `loss`, the mean loss of the batches since the previous measurement (NaN at step 0), and
    everything else that was measured. After a run has converged its last values are repeated; after
    it has diverged they are NaN. The coordinates `ending` ("all steps", "converged" or "diverged")
    and `steps_taken` say how each run ended; a learner that diverged has its last finite weights.
    The attributes record what the bits depend on: versions, machine, device, random generator.

    Attributes:
        learners: One pytree, whose arrays have leading axes for the runs: the varied settings, then
            seeds. `learner(seed)` extracts one learner; `eqx.filter_vmap` maps over all of them.
        metrics: What was measured, as a labelled dataset.
    """

    learners: PyTree
    metrics: xr.Dataset

    def _summary(self) -> Summary:
        name, last = type(self.learners).__name__, self.metrics.isel(step=-1)
        steps = int(last.step)
        axes = {str(axis): size for axis, size in last.sizes.items()}
        words = [f"{size} values of {axis}" for axis, size in axes.items() if axis != "seed"]
        seeds = axes.get("seed", 1)
        runs = " × ".join([*words, f"{seeds} seed{'s' * (seeds != 1)}"])
        rows = {"learners": name, "runs": runs, "steps": f"{steps:,}"}
        if "ending" in last.coords:
            words, counts = np.unique(last.ending.values, return_counts=True)
            pairs = zip(words.tolist(), counts.tolist(), strict=True)
            rows["ended"] = ", ".join(f"{word}: {count}" for word, count in pairs)
        measured = list(map(str, last.data_vars))[:MOST_MEASURED]
        rows |= {each.replace("_", " "): spread(last[each].values) for each in measured}
        rows |= {each: last.attrs.get(each, "") for each in ("device", "generator")}
        title = f"{name}, {runs}, {steps:,} steps"
        return Summary(title + (f", loss {rows['loss']}" if "loss" in rows else ""), rows)

    def learner(self, seed: int = 0, **values: Any) -> Any:
        """The learner of one run.

        Args:
            seed: The index of the seed, from 0.
            **values: The value on each varied axis, by name.

        Raises:
            ValueError: if there is no such seed or value, or an axis is missing or unknown.

        Examples:
            A training with `vary={"rate": [1e-3, 3e-3]}` has `run.learner(2, rate=1e-3)`.
        """
        dims = self.metrics["ending"].dims if "ending" in self.metrics.coords else ("seed",)
        axes = [axis for axis in dims if axis != "seed"]
        if set(values) != set(axes):
            names = ", ".join(map(str, ["seed", *axes]))
            raise InputError(f"learner needs values for {names}; got values for {[*values]}.")
        count("seed", seed, at_least=0, at_most=self.metrics.sizes["seed"] - 1)
        place = tuple(_place(self.metrics[axis], values[str(axis)]) for axis in axes)
        return jax.tree.map(
            lambda leaf: leaf[(*place, seed)] if eqx.is_array(leaf) else leaf, self.learners
        )

    def diverged(self) -> list[str]:
        """The runs that have diverged, each in words with its last finite step."""
        ending = self.metrics["ending"]
        runs = [ending[tuple(at)] for at in np.argwhere(ending.values == "diverged").tolist()]
        return [
            f"{in_words({axis: run[axis].item() for axis in ending.dims})} after step "
            f"{run.steps_taken.item()}"
            for run in runs
        ]

    def require_finite(self) -> "Training":
        """Returns this training if no run has diverged.

        Raises:
            TrainingDivergedError: if a run has diverged.
        """
        if lines := self.diverged():
            raise TrainingDivergedError(f"training diverged: {'; '.join(lines)}. {ADVICE}")
        return self


ADVICE = "Lower the learning rate, the initial scale or the scale of the task."


def in_words(values: dict[Any, Any]) -> str:
    """The values of a run in words: `learning_rate 0.001, seed 3`."""
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )


def _place(axis: xr.DataArray, value: Any) -> int:
    values = axis.values.tolist()
    number = isinstance(value, int | float) and not isinstance(value, bool)
    for place, label in enumerate(values):
        close = number and isinstance(label, int | float) and isclose(label, value, rel_tol=1e-6)
        if label == value or close:
            return place
    raise InputError(f"{axis.name} has no value {value!r}; it has {', '.join(map(str, values))}.")
