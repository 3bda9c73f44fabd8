"""Trainings from settings: all combinations of varied settings, in few compiled programs."""

import functools
import itertools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
import xarray as xr

from mesalens.checks import InputError
from mesalens.execution import Cluster, Cores, Job, Place, State, Unit, connected
from mesalens.files import make_folder, replace_file, writing
from mesalens.training._train import prepared, warn
from mesalens.training.checkpoint import PART, POINT, RUN, states, steps_done
from mesalens.training.engine import Engine
from mesalens.training.grid import Grid, combinations, stackable
from mesalens.training.problem import Measure
from mesalens.training.settings import TrainingSettings, full_path
from mesalens.training.training import Training, in_words
from mesalens.user_files import when_files_change

Point = dict[str, Any]
Axes = Mapping[str, list[Any]]
"""The values of each varied setting, by the name given for it."""
SHARED = ("seed", "seeds", "steps", "every", "generator", "objective", "stop", "vary")
"""Settings that must be the same in all runs."""


class Program(NamedTuple):
    """One compiled program: the settings of its runs, its points, and the traced numbers.

    Numbers of the optimiser and the initial scale are always traced.
    """

    settings: TrainingSettings
    points: list[Point]
    traced: Axes


class Part(NamedTuple):
    """Runs that are trained by one call, as a unit of work: all runs of a program, or some."""

    program: int
    point: int | None
    """the index of its point in the program; None for all runs of the program"""
    seeds: Sequence[int]
    """the indices of its seeds"""
    folder: str
    """the folder of its states, within the folder for states"""
    words: str


class Programs:
    """The programs of a sweep, created when they are needed; a worker creates them again.

    Args:
        settings: What is trained.
        measure: More to measure, as in `train`.
        options: `batching` and `memory` of `train`.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        measure: Measure | None = None,
        options: Mapping[str, Any] | None = None,
    ):
        self.settings, self.measure, self.options = settings, measure, dict(options or {})
        self.axes, self.programs = plan(settings)
        self._made: dict[tuple[int, bool], tuple[Engine, Grid]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        import cloudpickle  # installed with Dask

        content = self.settings.model_dump(mode="json")
        return _programs_of, (json.dumps(content), cloudpickle.dumps(self.measure))

    def train(self, part: Part, **options: Any) -> Training:
        """Trains the runs of a part; `options` as in `Engine.train`."""
        engine, runs = self.of(part)
        return engine.train(runs, **options)

    def of(self, part: Part) -> tuple[Engine, Grid]:
        """The programs of a part, and its runs."""
        whole = part.point is None
        place = part.program, whole
        if place not in self._made:
            program = self.programs[part.program]
            # A part uses one core
            own = {"divided": None if whole else False, "measure": self.measure}
            self._made[place] = _prepared(program, **own, **self.options)
        engine, runs = self._made[place]
        return engine, runs if part.point is None else runs.part(part.point, part.seeds)

    def points(self, number: int) -> list[Point]:
        """All points of a program, in the order of its runs."""
        program = self.programs[number]
        several = itertools.product(program.points, combinations(program.traced))
        return [point | values for point, values in several]


@functools.lru_cache(8)
def _programs_of(settings: str, measure: bytes) -> Programs:
    import pickle

    return Programs(TrainingSettings.read(json.loads(settings)), pickle.loads(measure))


when_files_change(_programs_of.cache_clear)


def sweep(
    settings: TrainingSettings,
    *,
    measure: Measure | None = None,
    cluster: Any = None,
    progress: Callable[[int], object] | None = None,
    report: Callable[[State], object] = lambda state: None,
    check: Callable[[], object] = lambda: None,
    say: Callable[[str], object] = warn,
    checkpoint: Path | None = None,
    **options: Any,
) -> Training:
    """Trains all combinations of the values in `settings.vary`, for each seed.

    Numbers of the optimiser and the initial scale are axes of one compiled program, and so are
    tasks that differ only in numbers (noise, scales, covariances). For other settings, each value
    is a program. On this machine the runs of a program are trained together, one program after the
    other. On a cluster whose workers compute on CPUs, each run is a unit of work with its own core,
    and gives the same bits. A worker with an accelerator trains the seeds of a point together, and
    any worker trains all runs of an exact objective together.

    Args:
        settings: What is trained.
        measure: As in `train`.
        cluster: Where to train, as in `mesalens.execution.connected`; by default this machine.
        progress: On this machine: called with the number of steps done in all programs.
        report: On a cluster: called regularly with the `State` of the work.
        check: On a cluster: called regularly; it may raise an exception to stop the work.
        say: Called with messages.
        checkpoint: A folder for the states.
        **options: On this machine: `batching` and `memory` of `train`.

    Raises:
        ValueError: if settings or values are unknown, or weights have different shapes.
    """
    if cluster is not None and not isinstance(cluster, Cluster):
        with connected(cluster, say=say) as where:
            given = {"progress": progress, "report": report, "check": check, "say": say}
            given |= {"measure": measure, "checkpoint": checkpoint, **options}
            return sweep(settings, cluster=where, **given)
    if cluster is not None and options:
        raise InputError(f"{min(options)} is for this machine only; omit it with cluster.")
    programs = Programs(settings, measure, options)
    if cluster is not None:
        cluster.wait_for_workers(check)
    parts = _parts(programs, checkpoint, cluster)
    trainings: list[Training] = []
    if cluster is None and all(part.point is None for part in parts):
        for number, part in enumerate(parts):

            def tell(steps, done=number * settings.steps):
                if progress is not None:
                    progress(done + steps)

            folder = None if checkpoint is None else Path(checkpoint) / part.folder
            trainings.append(programs.train(part, progress=tell, say=say, checkpoint=folder))
            tell(settings.steps)  # all runs may have ended earlier
    else:
        trainings = _as_units(programs, parts, cluster, progress, report, check, say, checkpoint)
    if len(parts) == 1 and not programs.axes and parts[0].point is None:
        return trainings[0]
    return _together(programs, parts, trainings)


def _parts(programs: Programs, checkpoint: Path | None, cluster: Any) -> list[Part]:
    """The parts of a sweep: as they were begun, or else as is fastest."""
    settings, parts = programs.settings, []
    seeds = range(settings.seeds)
    exact = settings.objective.build().exact
    for number, program in enumerate(programs.programs):
        points = programs.points(number)
        name = f"{PART}{number + 1}-of-{len(programs.programs)}" if programs.axes else ""
        folder = None if checkpoint is None else Path(checkpoint) / name
        begun = next((start for start in (RUN, POINT) if _has(folder, start)), None)
        if begun is None and cluster is not None and not exact and not _has_states(folder):
            begun = RUN if cluster.one_cpu else POINT
        words = f"{len(program.points)} tasks" if len(program.points) > 1 else "all runs"
        if begun is None:
            parts.append(Part(number, None, seeds, name, words))
        for place, point in enumerate(points if begun else []):
            for group in [[seed] for seed in seeds] if begun == RUN else [list(seeds)]:
                title = in_words(point | ({"seed": group[0]} if begun == RUN else {}))
                last = f"{place}-{group[0]}" if begun == RUN else str(place)
                parts.append(Part(number, place, group, str(Path(name) / f"{begun}{last}"), title))
    return parts


def steps_of(settings: TrainingSettings, checkpoint: Path) -> int:
    """The number of steps of all parts, as they are counted in a folder with states."""
    return settings.steps * len(_parts(Programs(settings), checkpoint, None))


def _has(folder: Path | None, start: str) -> bool:
    return folder is not None and any(folder.glob(f"{start}*"))


def _has_states(folder: Path | None) -> bool:
    return folder is not None and bool(states(folder))


def _as_units(
    programs: Programs,
    parts: list[Part],
    cluster: Any,
    progress: Callable[[int], object] | None,
    report: Callable[[State], object],
    check: Callable[[], object],
    say: Callable[[str], object],
    checkpoint: Path | None,
) -> list[Training]:
    """Trains each part as a unit of work, on a cluster or on the cores of this machine."""
    steps, runs = programs.settings.steps, sum(len(part.seeds) for part in parts)
    kind = "on one core" if all(len(part.seeds) == 1 for part in parts) else "in one program"
    if say is not warn:  # a message, not a warning
        say(f"{runs} runs as {len(parts)} units of work, each {kind}.")

    def told(state: State) -> None:
        report(state)
        if cluster is None and progress is not None:
            progress(round(state.share * steps * len(parts)))

    with ExitStack() as stack:
        if checkpoint is None:
            checkpoint = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        make_folder(checkpoint)
        jobs = [_job(programs, part, checkpoint) for part in parts]
        where = Cores(say=say) if cluster is None else cluster
        where.run(jobs, check=check, report=told)
    return [job.result for job in jobs]


def _job(programs: Programs, part: Part, checkpoint: Path) -> Job:
    folder = Path(checkpoint) / part.folder

    def files() -> dict[str, bytes]:
        return {f"{part.folder}/{file.name}": file.read_bytes() for file in states(folder)}

    def keep(found: Mapping[str, bytes]) -> None:
        for name, content in sorted(found.items()):
            file = Path(checkpoint) / name
            if file.parent != folder:
                raise InputError(f"a worker sent {name}, which is not a state of {part.words}.")
            make_folder(folder)
            with writing(file, "free space, and run the same command again"):
                replace_file(file, content)
        for old in states(folder)[2:]:
            old.unlink()

    unit = Unit(
        train_part,
        lambda: (programs, part),
        Path(checkpoint),
        programs=f"{programs.settings.model_dump_json()} {part.program}",
        files=files,
        keep=keep,
    )
    cost = float(programs.settings.steps * len(part.seeds))
    return Job(part.words, lambda training: training, cost=cost, computes=True, unit=unit)


def train_part(place: Place, programs: Programs, part: Part) -> Training:
    """Trains a part of a sweep, which may have begun before; arrays of the result are NumPy's."""
    folder, steps = place.folder / part.folder, programs.settings.steps
    with place.compiling():
        engine, runs = programs.of(part)
        if steps_done(folder) < steps:
            engine.compile(runs, place.say)
    place.needs(engine.bytes)
    training = engine.train(
        runs,
        progress=lambda step: place.report(step / steps),
        say=place.say,
        checkpoint=folder,
    )
    arrays = jax.tree.map(lambda x: np.asarray(x) if eqx.is_array(x) else x, training.learners)
    return Training(arrays, training.metrics)


def plan(settings: TrainingSettings) -> tuple[Axes, list[Program]]:
    """The values of each varied setting, by the name given, and the programs.

    Raises:
        ValueError: if a setting cannot be varied.
    """
    paths = {name: full_path(name) for name in settings.vary}
    for path in paths.values():
        top = path.split(".")[0]
        if [*paths.values()].count(path) > 1:
            raise InputError(f"vary has {path} twice.")
        if top in SHARED:
            raise InputError(f"vary cannot have {top}, which is the same for all runs.")
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
            shared.value(name)  # another kind may not have this setting
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
    if len(programs) == 1:
        return axes, programs
    key = settings.key()
    # Learners may hold functions, which are not arrays
    first, *rest = (eqx.filter_eval_shape(program.settings.initialise, key) for program in programs)
    for program, learner in zip(programs[1:], rest, strict=True):
        if not eqx.tree_equal(first, learner):
            one, other = (in_words(p.points[0]) for p in (programs[0], program))
            raise InputError(
                f"weights have different shapes for {one} and {other}; train them separately."
            )
    return axes, programs


def _values(settings: TrainingSettings, name: str) -> list[Any]:
    """The values of a varied setting, as the setting holds them."""
    given = settings.vary[name]
    values = [settings.replaced(name, value).value(name) for value in given]
    # Distinct in words too: tables and messages show six digits
    if not values or len({in_words({name: value}) for value in values}) < len(values):
        raise InputError(f"{name} must have one or more distinct values; got {list(given)}.")
    return values


def _with(settings: TrainingSettings, point: Point) -> TrainingSettings:
    for name, value in point.items():
        settings = settings.updated(name, value)
    return settings


def _prepared(program: Program, **options: Any) -> tuple[Engine, Grid]:
    """The runs of one program: its tasks × the traced numbers × seeds."""
    settings = program.settings
    objective = settings.objective.build()
    tasks = {in_words(point): _with(settings, point).sampled_task() for point in program.points}
    if objective.exact:
        tasks = {"": settings.exact_task()}  # for theory; there is one per program
    several: dict[str, Any] = {"task": tasks} if len(tasks) > 1 else {}

    def changed(values: Point) -> TrainingSettings:
        return _with(settings, {name: value for name, value in values.items() if name != "task"})

    described = settings.model_dump(exclude={"steps", "seeds", "seed", "generator", "vary"})
    sizes = settings.model_dump(include={"steps", "batch_size", "microbatches", "seeds", "every"})
    return prepared(
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


def _together(programs: Programs, parts: list[Part], trainings: list[Training]) -> Training:
    """All runs in one result; the last values of runs that ended early are repeated."""
    axes, seeds = programs.axes, range(programs.settings.seeds)
    places: dict[tuple[Any, ...], tuple[int, tuple[int, ...]]] = {}
    for number, (part, training) in enumerate(zip(parts, trainings, strict=True)):
        sizes = training.metrics["ending"].shape
        points = programs.points(part.program)
        chosen = points if part.point is None else [points[part.point]]
        for index, point in zip(np.ndindex(sizes[:-1]), chosen, strict=True):
            for place, seed in enumerate(part.seeds):
                values = tuple(point[name] for name in axes)
                places[*values, seed] = number, (*index, place)
    ordered = [places[point] for point in itertools.product(*axes.values(), seeds)]
    steps = max((training.metrics.step.values for training in trainings), key=len)
    metrics = [
        one if one.sizes["step"] == len(steps) else one.reindex(step=steps, method="ffill")
        for one in (training.metrics for training in trainings)
    ]
    shape = tuple(len(values) for values in (*axes.values(), seeds))

    def stacked(*of_parts):
        if not eqx.is_array(of_parts[0]):
            return of_parts[0]
        arrays = [np.asarray(one) for one in of_parts]
        chosen = [arrays[number][index] for number, index in ordered]
        return np.stack(chosen).reshape(*shape, *chosen[0].shape)

    def variables(names, *dims):
        return {
            name: ((*axes, "seed", *dims), stacked(*(one[name].values for one in metrics)))
            for name in names
        }

    # Labels are numbers and strings; other values are converted to strings
    labels = {
        name: [value if isinstance(value, int | float | str) else str(value) for value in values]
        for name, values in axes.items()
    }
    coordinates = {**labels, "seed": [*seeds], "step": steps}
    coordinates |= variables(("ending", "steps_taken"))
    measured = variables(metrics[0].data_vars, "step")
    dataset = xr.Dataset(measured, coordinates, metrics[0].attrs)
    return Training(jax.tree.map(stacked, *(one.learners for one in trainings)), dataset)
