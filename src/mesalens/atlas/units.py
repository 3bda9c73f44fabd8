"""`Units`: the units of work of an experiment, one for each seed, which share compiled programs."""

import functools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Key

from mesalens import kinds, random
from mesalens.atlas.experiment import Experiment, Trained
from mesalens.atlas.study import ExperimentNode, Lab, Study, Values, all_nodes
from mesalens.checks import InputError, count
from mesalens.storage import load_arrays, load_dataset, save_arrays, save_dataset
from mesalens.store import digest
from mesalens.tasks import Task
from mesalens.training.engine import Engine, Plan
from mesalens.training.grid import Grid
from mesalens.training.optimisers.base import Optimiser
from mesalens.training.problem import Problem
from mesalens.training.training import Training

WEIGHTS, METRICS = "weights.safetensors", "metrics.nc"


class Units:
    """What the seeds of an experiment have in common: the task or how it is drawn, and programs.

    Args:
        name: The name of the experiment.
        experiment: The experiment.
        key: The key of all trainings of the study, so that a seed starts with the same weights in
            all experiments.
        rng: Returns the generator for the task of a seed.
        settings: The settings of the study.
        study_seed: The seed of all random numbers.
        recipe: The arguments with which `units_at` recreates the units on another machine.
    """

    def __init__(
        self,
        name: str,
        experiment: Experiment,
        key: Key[Array, ""],
        rng: Callable[[int], np.random.Generator],
        settings: Values,
        study_seed: int,
        recipe: tuple[Any, ...] = (),
    ):
        self.name, self.experiment, self._key, self._rng = name, experiment, key, rng
        self._settings, self.study_seed, self._recipe = settings, study_seed, recipe
        self._compiled: set[int] = set()
        self._seeded = callable(experiment.task) and not isinstance(experiment.task, Task)
        self._engines: dict[int, Engine] = {}
        exact = kinds.build("objective", experiment.objective).exact
        # Theory needs the numbers of a task, so they are constants of the program
        self.separate = self._seeded and (exact or _kind(experiment.stop) != "never")
        self._split = self._splitter() if self._seeded and not self.separate else None
        # A step takes some time even with a small batch
        self.cost = float(experiment.steps) * (1e3 + (0 if exact else experiment.batch_size))

    def __reduce__(self) -> tuple[Any, ...]:
        return units_at, self._recipe

    @property
    def bytes(self) -> float:
        """The memory that a run of the compiled programs needs, according to XLA."""
        return max((engine.bytes for engine in self._engines.values()), default=0.0)

    def task(self, seed: int) -> Task:
        """The task of a seed."""
        return self.experiment.task_of(self._rng(seed))

    def compile(self, seed: int, say: Callable[[str], object]) -> None:
        """Compiles the programs, so that the trainings of several seeds need not wait."""
        place = seed if self.separate else 0
        if place not in self._compiled:
            engine, runs = self._engine(seed), self._runs(seed)
            engine.identify(runs)
            engine.compile(runs, say)
            self._compiled.add(place)

    def address(self, seed: int) -> str:
        """A digest of what is computed for a seed."""
        about = self._engine(seed).identify(self._runs(seed))
        return digest({"training": about, "steps": self.experiment.steps})

    def train(
        self,
        seed: int,
        *,
        progress: Callable[[int], object],
        say: Callable[[str], object],
        checkpoint: Path | None,
    ) -> Training:
        """Trains one seed."""
        options: Any = {"progress": progress, "say": say, "checkpoint": checkpoint}
        return self._engine(seed).train(self._runs(seed), **options)

    def save(self, training: Training, folder: Path) -> None:
        """Writes weights and metrics of one seed."""
        learner = training.learner()
        save_arrays(learner, folder / WEIGHTS)
        save_dataset(training.metrics.isel(seed=0), folder / METRICS)

    def load(self, seed: int, folder: Path) -> Trained:
        """Reads one seed from its files."""
        task = self.task(seed)
        make = self.experiment.initialise(task)
        learner = load_arrays(eqx.filter_eval_shape(make, self._key), folder / WEIGHTS)
        metrics: xr.Dataset = load_dataset(folder / METRICS)
        return Trained(self.name, self.experiment, seed, task, learner, metrics, self._settings)

    def _runs(self, seed: int) -> Grid:
        """The grid of one seed; if each seed has its own task, it is an axis without a label."""
        if self._split is None:
            return Grid({"seed": [seed]}, {}, {})
        numbers, rest = self._split(self.task(seed))
        numbers = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], numbers)
        return Grid({"seed": [seed]}, {"task": numbers}, {"task": rest})

    def _engine(self, seed: int) -> Engine:
        place = seed if self.separate else 0
        if place not in self._engines:
            self._engines[place] = Engine(self._plan(seed), divided=False)
        return self._engines[place]

    def _plan(self, seed: int) -> Plan:
        experiment, task = self.experiment, self.task(seed)
        rest = None if self._split is None else self._split(task)[1]
        rule = experiment.optimiser
        if not isinstance(rule, optax.GradientTransformation):
            rule = kinds.build("optimiser", rule)
        if isinstance(rule, Optimiser):
            rule = rule.transformation(experiment.steps)

        def problem_on(task: Task) -> Problem:
            measure = None if experiment.measure is None else experiment.measure(task)
            return Problem(experiment.initialise(task), task, rule, measure)

        fixed = problem_on(task)
        objective = kinds.build("objective", experiment.objective)
        steps, batch, parts = experiment.steps, experiment.batch_size, experiment.microbatches
        every = min(experiment.every or -(-steps // 20), steps)
        for name, value in {"steps": steps, "batch_size": batch, "every": every}.items():
            count(name, value)
        if batch % count("microbatches", parts):
            raise InputError(f"batch_size={batch} is not divisible by microbatches={parts}.")
        loss = objective.loss(task, batch) if objective.exact else None
        return Plan(
            lambda run: problem_on(eqx.combine(run.varied["task"], rest)) if run.varied else fixed,
            lambda problem: loss or objective.loss(problem.task, batch // parts),
            self._key,
            steps,
            batch,
            parts,
            every,
            objective,
            kinds.build("stop", experiment.stop, task=task),
            None,
            None,
            {},
        )

    def _splitter(self) -> Callable[[Task], tuple[Any, Any]]:
        """A function that splits a task into numbers that differ between seeds, and the rest."""
        first, other = self.task(0), self.task(1)
        if jax.tree.structure(first) != jax.tree.structure(other):
            raise InputError(f"{self.name}: the tasks of seeds must differ in numbers only.")
        differs = jax.tree.map(lambda a, b: not eqx.tree_equal(a, b), first, other)
        rest = eqx.partition(first, differs)[1]

        def split(task: Task) -> tuple[Any, Any]:
            numbers, same = eqx.partition(task, differs)
            if not eqx.tree_equal(same, rest):
                raise InputError(f"{self.name}: the tasks of seeds must differ in numbers only.")
            return numbers, same

        return split


def _kind(member: Any) -> Any:
    return member.get("kind") if isinstance(member, dict) else member


def units_of(study: Study, values: Values, study_seed: int) -> dict[str, Units]:
    """The units of all experiments of a study, by their names in reports."""
    found = {}
    for node in all_nodes(study.claims):
        if isinstance(node, ExperimentNode):
            made = node.call(values, {})
            for label in [None] if isinstance(made, Experiment) else made:
                units = make_units(study, node, label, made, values, study_seed)
                found[units.name] = units
    return found


def make_units(
    study: Study, node: ExperimentNode, label: Any, made: Any, values: Values, study_seed: int
) -> Units:
    """The units of an experiment; if the function returns several, of the one with this label."""
    name = node.name if label is None else f"{node.name}, {label}"
    purpose = f"task of {node.identity} {label or ''}"

    def rng(seed: int) -> np.random.Generator:
        return Lab(values, study_seed, purpose, seed).rng()

    return Units(
        name,
        made if label is None else made[label],
        random.key(study_seed),
        rng,
        values,
        study_seed,
        (study, node.identity, label, pickle.dumps(dict(values)), study_seed),
    )


@functools.lru_cache(64)  # keeps their programs for further seeds
def units_at(study: Study, identity: str, label: Any, values: bytes, study_seed: int) -> Units:
    """The units of an experiment of a study, by the identity of its function."""
    node = study.node(identity)
    assert isinstance(node, ExperimentNode)
    settings = Values(pickle.loads(values))
    return make_units(study, node, label, node.call(settings, {}), settings, study_seed)
