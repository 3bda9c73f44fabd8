"""`Training`: what trained runs leave."""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np
import xarray as xr
from jaxtyping import PyTree

from mesalens.checks import InputError


class TrainingDivergedError(ArithmeticError):
    """The loss, the gradient or the weights of a run were not finite; the message names the step and the run."""


@dataclass(frozen=True)
class Training:
    """What training leaves.

    `learners` is one pytree, its trained arrays with the leading axes of the runs: seeds, behind what else was varied;
    `learner(i)` takes one out, `eqx.filter_vmap` maps over all.

    `metrics` has the dimensions of the runs, and step. `loss` is the mean loss of the batches since the step before (at step 0 there is
    none); beside it stands whatever was measured. Of a run that has converged every later value is its last one, of one that has diverged
    there is none (NaN). The coordinates `ending` ("all steps", "converged", "diverged") and `steps_taken` say how each run ended; a learner that
    diverged is as it was after the last step whose loss, gradient and weights were finite. The attributes record what the bits depend
    on: versions, machine, device, generator.
    """

    learners: PyTree
    metrics: xr.Dataset

    def learner(self, seed: int = 0, **where: Any) -> Any:
        """The learner of one seed, by its place; of a sweep, where each other axis has this value.

        Raises `ValueError` for an axis that is not given, is unknown, or has no such value.
        """
        runs = self.metrics["ending"].dims if "ending" in self.metrics.coords else ("seed",)
        axes = [axis for axis in runs if axis != "seed"]
        if set(where) != set(axes):
            raise InputError(
                f"the runs are told apart by {', '.join(map(str, ['seed', *axes]))}; give a value of each, and of no other."
            )
        place = tuple(_place(self.metrics[axis], where[str(axis)]) for axis in axes)
        return jax.tree.map(lambda leaf: leaf[(*place, seed)] if eqx.is_array(leaf) else leaf, self.learners)

    def diverged(self) -> list[str]:
        """A line for each run that has diverged: which one, and after which step."""
        endings = self.metrics["ending"].stack(run=self.metrics["ending"].dims)
        lines = []
        for run in endings.where(endings == "diverged", drop=True).run.values.tolist():
            where = dict(zip(self.metrics["ending"].dims, run, strict=True))
            lines.append(f"{in_words(where)} after step {self.metrics.steps_taken.sel(where).item()}")
        return lines

    def require_finite(self) -> "Training":
        """The training itself; raises `TrainingDivergedError` where a run of it has diverged."""
        if found := self.diverged():
            raise TrainingDivergedError(f"training diverged: {'; '.join(found)}. {ADVICE}")
        return self


ADVICE = "Lower the learning rate, the initial scale or the scale of the task."


def in_words(where: dict[Any, Any]) -> str:
    """The place of a run in words: `learning_rate 0.001, seed 3`."""
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in where.items()
    )


def _place(axis: xr.DataArray, value: Any) -> int:
    values = axis.values.tolist()
    near = [
        place
        for place, other in enumerate(values)
        if other == value or (_is_number(value) and np.isclose(other, value, rtol=1e-6, atol=0))
    ]
    if not near:
        raise InputError(f"{axis.name} has no value {value!r}; give one of {', '.join(map(str, values))}.")
    return near[0]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
