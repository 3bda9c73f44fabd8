"""`Experiment`: a training as a frozen value, and `Trained`, the result for one seed."""

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
from mesalens.checks import InputError
from mesalens.display import Described, Summary
from mesalens.learners import Learner
from mesalens.tasks import Task
from mesalens.theory import one_step_risk
from mesalens.training.problem import Measure

Seeded = Callable[[np.random.Generator], Task]
"""Draws the task of a seed."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A training in a study: what is trained, on which task, and how.

    Parts are given as objects, by name, or as a mapping of `kind` and parameters, as in
    `mesalens.training.TrainingSettings`.

    Attributes:
        task: The distribution of prompts; or a function of a NumPy generator that draws the task of
            a seed. The tasks of different seeds must differ in numbers only.
        model: The learner; or a function of a key that returns it.
        optimiser: The optimiser, by default Adam with its default settings.
        objective: What is minimised.
        stop: When a run has converged.
        steps: The number of steps.
        batch_size: The number of fresh prompts in a step.
        microbatches: The number of equal parts of a batch; it must divide batch_size.
        every: The number of steps between measurements; by default a twentieth of the steps.
        measure: `measure(task)` returns a function of learner and key that returns more numbers to
            measure, by name.
        counts: Which seeds the claims count; by default all that have not diverged.
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

    def require_settings(self) -> None:
        """Raises `ValueError` if a part that is given as settings has unknown ones."""
        for name in ("task", "model", "optimiser", "objective", "stop"):
            given = getattr(self, name)
            if isinstance(given, str | Mapping):
                member = kinds.Member("learner" if name == "model" else name)
                try:
                    kinds.checked(lambda member=member, given=given: member.read(given))
                except InputError as error:
                    raise InputError(f"{name}: {error}") from None

    def initialise(self, task: Task) -> Callable[..., Learner]:
        """The function of a key that returns the learner before training.

        Args:
            task: The task, which gives the sizes of the learner.
        """
        if callable(self.model):
            return self.model
        # Read once, because the function is called while JAX traces
        settings = kinds.checked(lambda: kinds.Member("learner").read(self.model))
        return lambda key: settings.build(dim=task.dim, outputs=task.outputs, key=key)

    def task_of(self, rng: np.random.Generator) -> Task:
        """The task of a seed.

        Args:
            rng: The NumPy generator of the seed.
        """
        if isinstance(self.task, Task):
            return self.task
        if isinstance(self.task, Mapping):
            return kinds.build("task", self.task)
        return self.task(rng)

    def describe(self) -> dict[str, Any]:
        """The experiment as plain values, for reports."""
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
    """One trained seed of an experiment: the learner, its task, and what was measured.

    Attributes:
        name: The name of the experiment.
        experiment: The experiment.
        seed: The number of the seed.
        task: The task of the seed.
        learner: The trained learner.
        metrics: What was measured, with the dimension `step`; the coordinates `ending` and
            `steps_taken` and the attributes are those of `mesalens.training.Training`.
        settings: The settings of the study.
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
        """The last measurements."""
        return self.metrics.isel(step=-1, drop=True)

    @property
    def diverged(self) -> bool:
        """Whether the training diverged."""
        return str(self.metrics.ending.item()) == "diverged"

    @functools.cached_property
    def counts(self) -> bool:
        """Whether claims count the seed: it has not diverged, and fulfils its experiment's rule."""
        rule = self.experiment.counts
        return not self.diverged and (rule is None or bool(rule(self)))


class Runs(tuple[Trained, ...]):
    """All trained seeds of an experiment: a tuple of `Trained`, in order of the seeds."""

    @functools.cached_property
    def metrics(self) -> xr.Dataset:
        """The metrics of all seeds, with the dimension `seed`; NaN after the end of a run."""
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
        """The seeds that figures show: those that count, or all if none does."""
        return Runs(run for run in self if run.counts) or self

    @property
    def learners(self) -> PyTree:
        """The learners as one pytree, whose arrays have a leading axis of seeds."""
        return jax.tree.map(
            lambda *leaves: np.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0],
            *(run.learner for run in self),
        )

    def words(self) -> str:
        """How many seeds count, and how the runs ended, in words."""
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
    """Rule for which seeds count: those whose risk left the plateau near predicting 0.

    A seed counts if it gained more than a share of what a reference gains,

        (R_0 - R) / (R_0 - R_ref) > share,

    where R is its risk at the end of training. By default R_0 is the risk of predicting 0, and
    R_ref that of one step of gradient descent with the best step size, both exact.

    Args:
        null: A function of a trained seed that returns R_0.
        reference: A function of a trained seed that returns R_ref.
        share: The share above which a seed counts.
        metric: The name of the risk in the metrics.
        words: What is true of seeds that count, in words: "5 of 6 left the plateau".
    """

    null: Callable[[Trained], float] = lambda run: one_step_risk(run.task).null_risk
    reference: Callable[[Trained], float] = lambda run: one_step_risk(run.task).best_risk
    share: float = 0.5
    metric: str = "risk"
    words: str = "left the plateau"

    def gain(self, run: Trained) -> float:
        """The share (R_0 - R) / (R_0 - R_ref).

        Args:
            run: A trained seed.
        """
        null, risk = self.null(run), float(run.last[self.metric])
        return (null - risk) / (null - self.reference(run))

    def __call__(self, run: Trained) -> bool:
        """Whether a seed counts.

        Args:
            run: The trained seed.
        """
        return self.gain(run) > self.share
