"""Trainings of settings: all combinations of some settings' values, in few compiled programs."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from mesalens.checks import InputError
from mesalens.training._train import train, warn
from mesalens.training.checkpoint import PART
from mesalens.training.grid import stackable
from mesalens.training.problem import Measure
from mesalens.training.settings import TrainingSettings, full_path, require_axes
from mesalens.training.training import Training, in_words

Point = dict[str, Any]
Axes = Mapping[str, list[Any]]
"""The values of each setting that is varied, by the name given for it."""


class Program(NamedTuple):
    """One compiled program: what its runs share, and the other settings at each of its tasks."""

    settings: TrainingSettings
    points: list[Point]


def sweep(
    settings: TrainingSettings,
    *,
    measure: Measure | None = None,
    progress: Callable[[int], object] | None = None,
    say: Callable[[str], object] = warn,
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
    trainings: dict[tuple[Any, ...], Training] = {}
    for number, program in enumerate(programs):
        done = number * settings.steps

        def report(steps, done=done):
            if progress is not None:
                progress(done + steps)

        folder = checkpoint
        if checkpoint is not None and axes:
            folder = Path(checkpoint) / f"{PART}{number + 1}-of-{len(programs)}"
        options |= {"progress": report, "say": say, "checkpoint": folder}
        training = _train(program, axes, measure, **options)
        report(settings.steps)  # the runs may all have ended before
        if not axes:
            return training
        for point in program.points:
            for values in _combinations(_traced(program.settings, axes)):
                everywhere = point | values
                key = tuple(everywhere[name] for name in axes)
                trainings[key] = _at(training, point, values)
    return _together(axes, trainings)


def plan(settings: TrainingSettings) -> tuple[Axes, list[Program]]:
    """The values of each setting that is varied, by the name given, and the programs.

    Raises:
        ValueError: if a sweep of these settings cannot be carried out.
    """
    require_axes(settings.vary)
    axes = {name: _values(settings, name) for name in settings.vary}
    settings = settings.model_copy(update={"vary": {}})
    tasks = {name: axes[name] for name in axes if full_path(name).startswith("task.")}
    shapes = {n: axes[n] for n in axes if n not in tasks and n not in _traced(settings, axes)}
    programs: list[Program] = []
    for shape in _combinations(shapes):
        shared = _with(settings, shape)
        exact = shared.objective.build().exact or shared.stop.kind == "near-optimum"
        groups: list[list[Point]] = []
        for point in _combinations(tasks):
            task = _with(shared, point).sampled_task()
            for group in [] if exact else groups:
                if stackable([_with(shared, group[0]).sampled_task(), task]):
                    group.append(point)
                    break
            else:
                groups.append([point])
        programs += [
            Program(_with(shared, group[0]), [shape | point for point in group]) for group in groups
        ]
    _require_equal_shapes(programs)
    return axes, programs


def _traced(settings: TrainingSettings, axes: Axes) -> Axes:
    """The axes that JAX traces, part of one program whatever else varies."""

    def traced(path: str) -> bool:
        number = isinstance(settings.value(path), float)
        return number and (path.startswith("optimiser.") or path == "model.init_scale")

    return {name: values for name, values in axes.items() if traced(full_path(name))}


def _values(settings: TrainingSettings, name: str) -> list[Any]:
    """The values of a setting that is varied, as the setting takes them."""
    given = settings.vary[name]
    values = [settings.replaced(name, value).value(name) for value in given]
    if not values or any(value in values[:place] for place, value in enumerate(values)):
        raise InputError(f"{name} must have one or more distinct values; got {list(given)}.")
    return values


def _combinations(axes: Axes) -> list[Point]:
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _with(settings: TrainingSettings, point: Point) -> TrainingSettings:
    for name, value in point.items():
        settings = settings.updated(name, value)
    return settings


def _train(program: Program, axes: Axes, measure: Measure | None, **options: Any) -> Training:
    """The runs of one program: its tasks × what is traced × seeds."""
    settings, traced = program.settings, _traced(program.settings, axes)
    objective = settings.objective.build()
    tasks = {in_words(point): _with(settings, point).sampled_task() for point in program.points}
    if objective.exact:
        tasks = {"": settings.exact_task()}  # theory reads it, and there is one a program
    several: dict[str, Any] = {"task": tasks} if len(tasks) > 1 else {}

    def changed(values: Point) -> TrainingSettings:
        return _with(settings, {name: value for name, value in values.items() if name != "task"})

    described = settings.model_dump(exclude={"steps", "seeds", "seed", "generator", "vary"})
    return train(
        lambda key, **values: changed(values).initialise(key),
        (lambda task: task) if several else next(iter(tasks.values())),
        lambda **values: changed(values).optimiser.build(),
        vary={**several, **traced},
        steps=settings.steps,
        batch_size=settings.batch_size,
        microbatches=settings.microbatches,
        seeds=settings.seeds,
        key=settings.key(),
        every=settings.every,
        objective=objective,
        stop=settings.stopping_rule(),
        measure=measure,
        description=described | {"points": [repr(point) for point in program.points]},
        **options,
    )


def _require_equal_shapes(programs: list[Program]) -> None:
    """Raises if the weights of the programs do not fit into one array."""
    shapes = [jax.eval_shape(p.settings.initialise, jax.random.key(0)) for p in programs]
    for program, shape in zip(programs, shapes, strict=True):
        alike = jax.tree.structure(shape) == jax.tree.structure(shapes[0])
        if not alike or jax.tree.leaves(shape) != jax.tree.leaves(shapes[0]):
            first, other = (in_words(p.points[0]) for p in (programs[0], program))
            raise InputError(f"weights have other shapes with {first} than with {other}.")


def _at(training: Training, point: Point, values: Point) -> Training:
    """All seeds of one point of a program."""
    chosen = {"task": in_words(point)} | values if "task" in training.metrics.dims else values
    labels = {axis: training.metrics[axis].values.tolist() for axis in chosen}
    place = tuple(labels[axis].index(value) for axis, value in chosen.items())
    metrics = training.metrics.isel(dict(zip(chosen, place, strict=True)), drop=True)
    learners = jax.tree.map(
        lambda leaf: np.asarray(leaf)[place] if _is_array(leaf) else leaf, training.learners
    )
    return Training(learners, metrics)


def _together(axes: Axes, trainings: dict[tuple[Any, ...], Training]) -> Training:
    """All points in one result; a run that ended before others keeps its last values."""
    ordered = [trainings[point] for point in itertools.product(*axes.values())]
    steps = max((training.metrics.step.values for training in ordered), key=len)
    metrics = [training.metrics.reindex(step=steps, method="ffill") for training in ordered]
    shape = tuple(len(values) for values in axes.values())

    def stacked(*leaves):
        if not _is_array(leaves[0]):
            return leaves[0]
        return np.stack(leaves).reshape(*shape, *np.shape(leaves[0]))

    def variables(names):
        return {
            name: ((*axes, *metrics[0][name].dims), stacked(*(one[name].values for one in metrics)))
            for name in names
        }

    labels = {name: [_label(value) for value in values] for name, values in axes.items()}
    coordinates = {**labels, "seed": metrics[0].seed, "step": steps}
    coordinates |= variables(("ending", "steps_taken"))
    dataset = xr.Dataset(variables(metrics[0].data_vars), coordinates, metrics[0].attrs)
    return Training(jax.tree.map(stacked, *(one.learners for one in ordered)), dataset)


def _label(value: Any) -> Any:
    """A value as a label of an axis: numbers and words as they are, others in words."""
    return value if isinstance(value, int | float | str) else str(value)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)
