"""`Experiment`: a training as a frozen value, and `Trained`, what one seed of it leaves."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import numpy as np
import xarray as xr
from jaxtyping import PyTree

from mesalens import kinds
from mesalens.display import Described, Summary
from mesalens.learners import Learner
from mesalens.tasks import Task
from mesalens.theory import one_step_risk
from mesalens.training.problem import Measure

Seeded = Callable[[np.random.Generator], Task]
"""Draws a task, one for each seed."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is trained, on which task, and how: everything but the seeds.

    Members of open axes are given as objects, by name, or as a mapping of `kind` and parameters, as
    in `TrainingSettings`; `model` may also be a function of a key that makes a learner, and `task`
    a function of a NumPy generator, by which each seed draws a task of its own. Such tasks may
    differ in numbers only.

    `measure(task)` gives what is measured during the training, a function of learner and key.
    `counts` says which seeds claims count.
    """

    task: Task | Seeded | Mapping[str, Any]
    model: Callable[..., Learner] | str | Mapping[str, Any] = "linear-transformer"
    optimiser: Any = field(default_factory=lambda: {"kind": "adam"})
    objective: Any = "sampled"
    stop: Any = "never"
    steps: int
    batch_size: int = 2048
    microbatches: int = 1
    every: int | None = None
    measure: Callable[[Any], Measure] | None = None
    counts: "LeftPlateau | None" = None

    def initialise(self, task: Task) -> Callable[..., Learner]:
        """The function of a key that makes the learner before training."""
        if callable(self.model):
            return self.model
        # Read once, because the maker is called while JAX traces
        settings = kinds.checked(lambda: kinds.Member("learner").read(self.model))
        return lambda key: settings.build(dim=task.dim, outputs=task.outputs, key=key)

    def task_of(self, rng: np.random.Generator) -> Task:
        """The task of a seed, from its generator."""
        if isinstance(self.task, Task):
            return self.task
        if isinstance(self.task, Mapping):
            return kinds.build("task", self.task)
        return self.task(rng)

    def describe(self) -> dict[str, Any]:
        """The experiment in plain values, for people."""
        shown = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name in ("measure", "counts"):
            del shown[name]
        return {name: _plain(value) for name, value in shown.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if callable(value) and hasattr(value, "__qualname__"):
        return value.__qualname__.replace(".<locals>.<lambda>", "")
    return repr(value)


@dataclass(frozen=True, repr=False)
class Trained(Described):
    """One seed of an experiment: the learner, its task, and what was measured during training.

    `metrics` has the dimension `step`; its attributes and the coordinates `ending` and
    `steps_taken` are those of `Training`. `settings` are those of the study.
    """

    name: str
    experiment: Experiment
    seed: int
    task: Any
    learner: Any
    metrics: xr.Dataset
    settings: Any = None

    def _summary(self) -> Summary:
        words = f"{self.metrics.ending.item()}, {self.metrics.steps_taken.item():,} steps"
        measured = {str(n): f"{float(x):.4g}" for n, x in self.last.items() if x.ndim == 0}
        rows = {"learner": type(self.learner).__name__, "task": " ".join(repr(self.task).split())}
        return Summary(f"{self.name}, seed {self.seed}: {words}", rows | measured)

    @property
    def last(self) -> xr.Dataset:
        """What was measured at the end."""
        return self.metrics.isel(step=-1, drop=True)

    @property
    def diverged(self) -> bool:
        """Whether the training diverged."""
        return str(self.metrics.ending.item()) == "diverged"

    @functools.cached_property
    def counts(self) -> bool:
        """Whether claims count the seed: it has not diverged, and its experiment's rule holds."""
        rule = self.experiment.counts
        return not self.diverged and (rule is None or bool(rule(self)))


class Runs(tuple[Trained, ...]):
    """All seeds of an experiment, in order; iterable, `runs[i]` is one seed."""

    @functools.cached_property
    def metrics(self) -> xr.Dataset:
        """The metrics of all seeds; one that ended before others has NaN afterwards."""
        return xr.concat(
            [run.metrics.expand_dims(seed=[run.seed]) for run in self],
            "seed",
            join="outer",
            coords=["ending", "steps_taken"],
            data_vars="all",
            compat="override",
            combine_attrs="override",
        )

    @functools.cached_property
    def counted(self) -> xr.DataArray:
        """Which seeds count."""
        return xr.DataArray(
            [run.counts for run in self], {"seed": [run.seed for run in self]}, ("seed",)
        )

    @property
    def shown(self) -> "Runs":
        """The seeds that figures show: those that count, or all where none does."""
        return Runs(run for run in self if run.counts) or self

    @property
    def learners(self) -> PyTree:
        """The learners as one pytree, whose arrays have a leading axis of seeds."""
        return jax.tree.map(
            lambda *leaves: np.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0],
            *(run.learner for run in self),
        )

    def words(self) -> str:
        """How many seeds count, and how the trainings ended."""
        run, first = len(self), self[0]
        rule = first.experiment.counts
        words = [] if rule is None else [f"{sum(r.counts for r in self)} of {run} {rule.words}"]
        for ending in ("converged", "diverged"):
            steps = [r.metrics.steps_taken.item() for r in self if r.metrics.ending == ending]
            if steps:
                words.append(
                    f"{len(steps)} of {run} {ending}, after {min(steps)} to {max(steps)} steps"
                )
        return f"{first.name}: {'; '.join(words)}." if words else ""


@dataclass(frozen=True)
class LeftPlateau:
    """Which seeds count: those that gained more than a `share` of what a reference gains.

        (R_0 - R) / (R_0 - R_ref) > share

    R is the risk `metric` at the end of training. By default R_0 is the risk of predicting 0 and
    R_ref that of one step of gradient descent with the best step size, both exact: a seed that
    stayed on a plateau near 0 does not count.

    Args:
        null: R_0 of a trained seed.
        reference: R_ref of a trained seed.
        share: From which share on a seed counts.
        metric: The name of the risk among the metrics.
        words: What is true of a seed that counts.
    """

    null: Callable[[Trained], float] = lambda run: one_step_risk(run.task).null_risk
    reference: Callable[[Trained], float] = lambda run: one_step_risk(run.task).best_risk
    share: float = 0.5
    metric: str = "risk"
    words: str = "left the plateau"

    def gain(self, run: Trained) -> float:
        """The share (R_0 - R) / (R_0 - R_ref) of a seed."""
        null, risk = self.null(run), float(run.last[self.metric])
        return (null - risk) / (null - self.reference(run))

    def __call__(self, run: Trained) -> bool:
        """Whether the seed counts."""
        return self.gain(run) > self.share
