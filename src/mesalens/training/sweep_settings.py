"""`sweep_settings`: a grid over any of the settings of a training, in as few compiled programs as shapes allow."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pydantic
import xarray as xr
from jaxtyping import PyTree

from mesalens.checks import InputError, one_of, positive
from mesalens.tasks.settings import TaskSettings
from mesalens.training.checkpoint import PART
from mesalens.training.problem import Measure, Problem
from mesalens.training.settings import TrainingSettings
from mesalens.training.sweep import stackable, sweep
from mesalens.training.train import warn
from mesalens.training.training import Training

TRACED = ("learning_rate", "b2", "clip", "init_scale")
"""The settings that JAX traces: an axis of the one program, whatever else is varied."""

NOT_VARIED = ("seed", "seeds", "steps", "every", "generator", "objective", "stop", "tolerance")
"""What all runs of a sweep share."""


class _Call(NamedTuple):
    """One compiled program: settings that all its runs share, and the values of the other settings at its tasks."""

    settings: TrainingSettings
    points: list[dict[str, Any]]


def sweep_settings(
    settings: TrainingSettings,
    vary: Mapping[str, Sequence[Any]],
    *,
    measure: Measure | None = None,
    progress: Callable[[int], object] | None = None,
    say: Callable[[str], object] = warn,
    checkpoint: Path | None = None,
    **options: Any,
) -> Training:
    """Trains the settings with every combination of values for the names in `vary`, from each seed; the result is that of `sweep`.

    Learning rates, initial scales and the optimiser's other numbers are axes of one compiled program; and so are tasks, where they
    differ in numbers alone (noise, scales, covariances). Other settings (layers, context lengths, families) get a program each, one after the other;
    the weights must have the same shapes in all of them. `progress` is called with the steps done, of all programs together.
    The other options are those of `sweep`.

    Raises `ValueError` for unknown settings, values that they do not take, and where weights differ in shape.
    """
    vary, calls = _plan(settings, vary)
    found: dict[tuple[Any, ...], Training] = {}
    for number, call in enumerate(calls):
        done = number * settings.steps

        def report(steps, done=done):
            if progress is not None:
                progress(done + steps)

        folder = None if checkpoint is None else Path(checkpoint) / f"{PART}{number + 1}-of-{len(calls)}"
        training = _train(call, vary, measure, progress=report, say=say, checkpoint=folder, **options)
        report(settings.steps)  # runs may all have ended before
        traced = {name: values for name, values in vary.items() if name in TRACED}
        for place, point in enumerate(call.points):
            for values in itertools.product(*traced.values()):
                at = point | dict(zip(traced, values, strict=True))
                found[tuple(at[name] for name in vary)] = _one_point(training, place, tuple(traced), values)
    return _together(vary, found)


def programs(settings: TrainingSettings, vary: Mapping[str, Sequence[Any]]) -> int:
    """In how many compiled programs a sweep is carried out; raises `ValueError` where it cannot be."""
    return len(_plan(settings, vary)[1])


def _plan(settings: TrainingSettings, vary: Mapping[str, Sequence[Any]]) -> tuple[dict[str, list[Any]], list[_Call]]:
    """The values of each setting, as it takes them, and the programs."""
    read = {name: _values(settings, name, values) for name, values in vary.items()}
    if not read:
        raise InputError("nothing is varied; give a setting with its values, as learning_rate=1e-3,3e-3.")
    calls = _calls(settings, read)
    _require_one_shape(calls)
    return read, calls


def _values(settings: TrainingSettings, name: str, values: Sequence[Any]) -> list[Any]:
    """The values of a setting, as it takes them; words are read as on the command line."""
    one_of("setting", name, type(settings).model_fields)
    if name in NOT_VARIED:
        raise InputError(f"all runs of a sweep share {name}; give it as a setting, and vary others.")
    annotation: Any = type(settings).model_fields[name].annotation
    reader = pydantic.TypeAdapter(annotation)
    try:
        read = [reader.validate_python(value) for value in values]
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{name} does not take {first['input']!r}: {first['msg'].lower()}.") from None
    if not read or len(set(read)) < len(read):
        raise InputError(f"the values of {name} are {', '.join(map(str, values))}; give one or more, each once.")
    if name == "init_scale":  # JAX traces it, and the check of a learner lets it pass
        return [positive(name, value) for value in read]
    return read


def _calls(settings: TrainingSettings, vary: Mapping[str, list[Any]]) -> list[_Call]:
    """The programs that it takes: tasks that differ in numbers alone share one."""
    of_tasks = [name for name in vary if name in TaskSettings.model_fields]
    others = [name for name in vary if name not in of_tasks and name not in TRACED]
    calls = []
    for shape in _combinations(vary, others):
        points = _combinations(vary, of_tasks)
        shared = settings.model_copy(update=shape)
        together = shared.objective != "population" and shared.stop != "near-optimum"
        alike: list[list[dict[str, Any]]] = []
        for point in points:
            task = shared.model_copy(update=point).sampled_task()
            for some in alike if together else []:
                if stackable([shared.model_copy(update=some[0]).sampled_task(), task]):
                    some.append(point)
                    break
            else:
                alike.append([point])
        calls += [_Call(shared.model_copy(update=some[0]), [shape | point for point in some]) for some in alike]
    return calls


def _combinations(vary: Mapping[str, list[Any]], names: list[str]) -> list[dict[str, Any]]:
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*(vary[name] for name in names))]


def _train(call: _Call, vary: Mapping[str, list[Any]], measure: Measure | None, **options: Any) -> Training:
    """The runs of one program: its tasks, by their places, × what is traced × seeds."""
    settings = call.settings
    of_tasks = [name for name in vary if name in TaskSettings.model_fields]
    tasks = {
        _words({name: point[name] for name in of_tasks}) or "all": settings.model_copy(update=point).problem().task
        for point in call.points
    }

    def build(task, **values):
        own = settings.model_copy(update=values)
        return Problem(own.initialise, task, own.optimiser(), measure)

    axes = {"task": tasks} | {name: values for name, values in vary.items() if name in TRACED}
    shared = settings.shared()
    shared["description"] = shared["description"] | {"points": [repr(point) for point in call.points]}
    return sweep(build, axes, **shared, **options)


def _require_one_shape(calls: list[_Call]) -> None:
    """Raises where the weights of the programs cannot lie in one array."""
    shapes = [jax.eval_shape(call.settings.initialise, jax.random.key(0)) for call in calls]
    for call, shape in zip(calls, shapes, strict=True):
        if jax.tree.structure(shape) != jax.tree.structure(shapes[0]) or jax.tree.leaves(shape) != jax.tree.leaves(
            shapes[0]
        ):
            first, other = calls[0].points[0], call.points[0]
            raise InputError(
                f"the weights with {_words(first)} and with {_words(other)} have other shapes, so that they fit into no one result; sweep them one by one."
            )


def _words(point: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in point.items())


def _one_point(training: Training, task: int, names: tuple[str, ...], values: tuple[Any, ...]) -> Training:
    """All seeds of one point."""
    where = dict(zip(names, values, strict=True))
    metrics = training.metrics.isel(task=task, drop=True).sel(where, method=None).drop_vars(names)
    place = (task, *(training.metrics[name].values.tolist().index(value) for name, value in where.items()))
    learners = jax.tree.map(lambda leaf: np.asarray(leaf)[place] if _is_array(leaf) else leaf, training.learners)
    return Training(learners, metrics)


def _together(vary: Mapping[str, list[Any]], found: dict[tuple[Any, ...], Training]) -> Training:
    """All points in one result. Where one ended before others, its last values stand, as everywhere."""
    longest = max((one.metrics.step.values for one in found.values()), key=len)
    shape = tuple(len(values) for values in vary.values())
    ordered = [found[point] for point in itertools.product(*vary.values())]

    def stacked(*leaves):
        return np.stack(leaves).reshape(*shape, *np.shape(leaves[0])) if _is_array(leaves[0]) else leaves[0]

    metrics = [_lengthened(one.metrics, longest) for one in ordered]
    labels = {name: [_label(value) for value in values] for name, values in vary.items()}
    dataset = xr.Dataset(
        {
            name: ((*vary, "seed", "step"), stacked(*(one[name].values for one in metrics)))
            for name in metrics[0].data_vars
        },
        {
            **labels,
            "seed": metrics[0].seed,
            "step": longest,
            **{
                name: ((*vary, "seed"), stacked(*(one[name].values for one in metrics)))
                for name in ("ending", "steps_taken")
            },
        },
        metrics[0].attrs,
    )
    return Training(jax.tree.map(stacked, *(one.learners for one in ordered)), dataset)


def _lengthened(metrics: xr.Dataset, steps: np.ndarray) -> xr.Dataset:
    return metrics.reindex(step=steps, method="ffill") if len(metrics.step) < len(steps) else metrics


def _label(value: Any) -> Any:
    """A value as a label of an axis: numbers and words as they are, matrices in words."""
    return value if isinstance(value, int | float | str) else str(value)


def _is_array(leaf: PyTree) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)
