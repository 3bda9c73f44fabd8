"""Trainings of settings: all combinations of some settings' values, in few compiled programs."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
import xarray as xr

from mesalens.checks import InputError
from mesalens.training._train import train
from mesalens.training.checkpoint import PART
from mesalens.training.grid import combinations, stackable
from mesalens.training.settings import TrainingSettings, full_path
from mesalens.training.training import Training, in_words

Point = dict[str, Any]
Axes = Mapping[str, list[Any]]
"""The values of each setting that is varied, by the name given for it."""
Place = tuple[int, tuple[int, ...]]
"""The number of a program, and the index of a point in its results."""

SHARED = ("seed", "seeds", "steps", "every", "generator", "objective", "stop", "vary")
"""Settings that are the same in all runs."""


class Program(NamedTuple):
    """One compiled program: what its runs share, the other settings at each task, what is traced.

    JAX traces numbers of the optimiser and the initial scale, whatever else varies.
    """

    settings: TrainingSettings
    points: list[Point]
    traced: Axes


def sweep(
    settings: TrainingSettings,
    *,
    progress: Callable[[int], object] | None = None,
    checkpoint: Path | None = None,
    **options: Any,
) -> Training:
    """Trains all combinations of the values in `settings.vary`, from each seed.

    Numbers of the optimiser and the initial scale are axes of one compiled program, and so are
    tasks that differ only in numbers (noise, scales, covariances). Other settings get a program
    each, one after the other; weights must have the same shapes in all. `progress` is called with
    the steps done, of all programs together. Other options are those of `train`.

    Raises:
        ValueError: for unknown settings or values, or weights of different shapes.
    """
    axes, programs = plan(settings)
    trainings: list[Training] = []
    places: dict[tuple[Any, ...], Place] = {}
    for number, program in enumerate(programs):

        def report(steps, done=number * settings.steps):
            if progress is not None:
                progress(done + steps)

        folder = checkpoint
        if checkpoint is not None and axes:
            folder = Path(checkpoint) / f"{PART}{number + 1}-of-{len(programs)}"
        training = _train(program, progress=report, checkpoint=folder, **options)
        report(settings.steps)  # the runs may all have ended before
        if not axes:
            return training
        trainings.append(training)
        points = itertools.product(program.points, combinations(program.traced))
        indices = np.ndindex(training.metrics["ending"].shape[:-1])
        for (point, values), index in zip(points, indices, strict=True):
            everywhere = point | values
            places[tuple(everywhere[name] for name in axes)] = number, index
    return _together(axes, trainings, places)


def plan(settings: TrainingSettings) -> tuple[Axes, list[Program]]:
    """The values of each setting that is varied, by the name given, and the programs.

    Raises:
        ValueError: if a sweep of these settings cannot be carried out.
    """
    paths = {name: full_path(name) for name in settings.vary}
    for path in paths.values():
        top = path.split(".")[0]
        if [*paths.values()].count(path) > 1:
            raise InputError(f"vary has {path} twice.")
        if top in SHARED:
            raise InputError(f"all runs share {top}; vary something else.")
    axes = {name: _values(settings, name) for name in settings.vary}
    settings = settings.model_copy(update={"vary": {}})
    tasks, traced, others = {}, {}, {}
    for name, path in paths.items():
        number = isinstance(settings.value(path), float)
        group = others
        if path.startswith("task."):
            group = tasks
        elif number and (path.startswith("optimiser.") or path == "model.init_scale"):
            group = traced
        group[name] = axes[name]
    programs: list[Program] = []
    for shape in combinations(others):
        shared = _with(settings, shape)
        for name in traced:
            shared.value(name)  # which another kind may not have
        exact = shared.objective.build().exact or shared.stop.kind == "near-optimum"
        alike: list[Program] = []
        for point in combinations(tasks):
            changed = _with(shared, point)
            task = changed.sampled_task()
            for program in [] if exact else alike:
                if stackable([program.settings.sampled_task(), task]):
                    program.points.append(shape | point)
                    break
            else:
                alike.append(Program(changed, [shape | point], traced))
        programs += alike
    first, *rest = (jax.eval_shape(p.settings.initialise, jax.random.key(0)) for p in programs)
    for program, learner in zip(programs[1:], rest, strict=True):
        if not eqx.tree_equal(first, learner):
            one, other = (in_words(p.points[0]) for p in (programs[0], program))
            raise InputError(f"weights have other shapes with {one} than with {other}.")
    return axes, programs


def _values(settings: TrainingSettings, name: str) -> list[Any]:
    """The values of a setting that is varied, as the setting takes them."""
    given = settings.vary[name]
    values = [settings.replaced(name, value).value(name) for value in given]
    # In words too: six digits name a point in tables and messages
    if not values or len({in_words({name: value}) for value in values}) < len(values):
        raise InputError(f"{name} must have one or more distinct values; got {list(given)}.")
    return values


def _with(settings: TrainingSettings, point: Point) -> TrainingSettings:
    for name, value in point.items():
        settings = settings.updated(name, value)
    return settings


def _train(program: Program, **options: Any) -> Training:
    """The runs of one program: its tasks × what is traced × seeds."""
    settings = program.settings
    objective = settings.objective.build()
    tasks = {in_words(point): _with(settings, point).sampled_task() for point in program.points}
    if objective.exact:
        tasks = {"": settings.exact_task()}  # theory reads it, and there is one a program
    several: dict[str, Any] = {"task": tasks} if len(tasks) > 1 else {}

    def changed(values: Point) -> TrainingSettings:
        return _with(settings, {name: value for name, value in values.items() if name != "task"})

    described = settings.model_dump(exclude={"steps", "seeds", "seed", "generator", "vary"})
    sizes = settings.model_dump(include={"steps", "batch_size", "microbatches", "seeds", "every"})
    return train(
        lambda key, **values: changed(values).initialise(key),
        (lambda task: task) if several else next(iter(tasks.values())),
        lambda **values: changed(values).optimiser.build(),
        vary={**several, **program.traced},
        key=settings.key(),
        objective=objective,
        stop=settings.stopping_rule(),
        description=described | {"points": [repr(point) for point in program.points]},
        **sizes,
        **options,
    )


def _together(
    axes: Axes, trainings: list[Training], places: Mapping[tuple[Any, ...], Place]
) -> Training:
    """All points in one result; a run that ended before others keeps its last values."""
    ordered = [places[point] for point in itertools.product(*axes.values())]
    steps = max((training.metrics.step.values for training in trainings), key=len)
    metrics = [training.metrics.reindex(step=steps, method="ffill") for training in trainings]
    shape = tuple(len(values) for values in axes.values())

    def stacked(*of_programs):
        if not eqx.is_array(of_programs[0]):
            return of_programs[0]
        chosen = [np.asarray(of_programs[number])[index] for number, index in ordered]
        return np.stack(chosen).reshape(*shape, *chosen[0].shape)

    def variables(names, *dims):
        return {
            name: ((*axes, *dims), stacked(*(one[name].values for one in metrics)))
            for name in names
        }

    # Labels are numbers and words; others are put in words
    labels = {
        name: [value if isinstance(value, int | float | str) else str(value) for value in values]
        for name, values in axes.items()
    }
    coordinates = {**labels, "seed": metrics[0].seed.values, "step": steps}
    coordinates |= variables(("ending", "steps_taken"), "seed")
    measured = variables(metrics[0].data_vars, "seed", "step")
    dataset = xr.Dataset(measured, coordinates, metrics[0].attrs)
    return Training(jax.tree.map(stacked, *(one.learners for one in trainings)), dataset)
