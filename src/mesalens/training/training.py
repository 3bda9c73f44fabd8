"""`Training`: what trained runs leave."""

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
    """The loss, gradient or weights of a run were not finite; the message has run and step."""


@dataclass(frozen=True, repr=False)
class Training(Described):
    """Trained learners, and what was measured during training.

    `learners` is one pytree whose trained arrays have the leading axes of the runs: what was
    varied, then seeds. `learner(i)` takes one out, `eqx.filter_vmap` maps over all.

    `metrics` has the dimensions of the runs, then `step`. `loss` is the mean loss of the batches
    since the step before (NaN at step 0); beside it is whatever was measured. A run that has
    converged keeps its last values; one that has diverged has NaN. The coordinates `ending` ("all
    steps", "converged", "diverged") and `steps_taken` say how each run ended; a learner that
    diverged is as after its last finite step. The attributes record what the bits depend on:
    versions, machine, device, generator.
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
            seed: The place of the seed, from 0.
            **values: The value of each other axis, by its name.

        Raises:
            ValueError: if the seed does not exist, or an axis is missing, is unknown or lacks the
                value.
        """
        dims = self.metrics["ending"].dims if "ending" in self.metrics.coords else ("seed",)
        axes = [axis for axis in dims if axis != "seed"]
        if set(values) != set(axes):
            names = ", ".join(map(str, ["seed", *axes]))
            raise InputError(f"learner needs a value for each of {names}; got {[*values]}.")
        count("seed", seed, at_least=0, at_most=self.metrics.sizes["seed"] - 1)
        place = tuple(_place(self.metrics[axis], values[str(axis)]) for axis in axes)
        return jax.tree.map(
            lambda leaf: leaf[(*place, seed)] if eqx.is_array(leaf) else leaf, self.learners
        )

    def diverged(self) -> list[str]:
        """A line for each run that has diverged: which one, and after which step."""
        ending = self.metrics["ending"]
        runs = [ending[tuple(at)] for at in np.argwhere(ending.values == "diverged").tolist()]
        return [
            f"{in_words({axis: run[axis].item() for axis in ending.dims})} after step "
            f"{run.steps_taken.item()}"
            for run in runs
        ]

    def require_finite(self) -> "Training":
        """The training itself; raises `TrainingDivergedError` if a run has diverged."""
        if lines := self.diverged():
            raise TrainingDivergedError(f"training diverged: {'; '.join(lines)}. {ADVICE}")
        return self


ADVICE = "Lower the learning rate, the initial scale or the scale of the task."


def in_words(values: dict[Any, Any]) -> str:
    """The place of a run in words: `learning_rate 0.001, seed 3`."""
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
