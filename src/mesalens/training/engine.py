"""The loop of all trainings: compiled chunks of steps, with measurements and states in between."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Bool, Float, Key, PyTree

from mesalens._precision import in_precision
from mesalens.checks import InputError
from mesalens.environment import NUMBERS, devices, environment
from mesalens.random import generator_of, unroll
from mesalens.storage import named_arrays
from mesalens.training.checkpoint import Checkpoint, Metrics, Snapshot, checksum, fingerprint
from mesalens.training.grid import Grid
from mesalens.training.objectives import Loss, Objective
from mesalens.training.parallel import Batching, OverRuns
from mesalens.training.problem import Problem, State, take_steps
from mesalens.training.stopping import StoppingRule
from mesalens.training.training import ADVICE, Training

RESERVED = ("loss", "excess_risk")
"""Names of metrics that training itself measures."""


@dataclass(frozen=True)
class Plan:
    """What is trained: the arguments of `train`, checked. `problem_at` maps values to a problem."""

    problem_at: Callable[[Mapping[str, Any]], Problem]
    runs: Grid
    steps: int
    batch_size: int
    microbatches: int
    every: int
    objective: Objective
    stop: StoppingRule
    batching: Batching | None
    memory: float | None
    description: Mapping[str, Any]

    def problem(self, run: "Run") -> Problem:
        """The problem of a run."""
        return self.problem_at(self.runs.values(run.varied))


class Run(NamedTuple):
    """What is a run's own and does not change: its keys, and its place on the axes."""

    data_key: Key[Array, "*runs"]
    measure_key: Key[Array, "*runs"]
    varied: Mapping[str, PyTree]


def carry_out(
    plan: Plan,
    key: Key[Array, ""],
    *,
    checkpoint: Path | None,
    progress: Callable[[int], object] | None,
    say: Callable[[str], object],
) -> Training:
    """Carries out a plan; see `train`."""
    exact = plan.objective.exact
    loss_of = _losses(plan)
    begin, (run, learners) = _begin(plan, unroll(key))
    with jax.enable_x64(exact), contextlib.ExitStack() as stack:
        learners = in_precision(learners, jnp.float64) if exact else learners
        parameters, rest = eqx.partition(learners, learners.trainable())
        if not jax.tree.leaves(parameters):
            raise InputError(f"{type(learners).__name__} has no trainable arrays.")
        # Functions and the like cannot be carried through a compiled loop
        frozen, static = eqx.partition(rest, eqx.is_array)
        start = jax.jit(jax.vmap(lambda run, p: plan.problem(run).optimiser.init(p)))
        zeros = jnp.zeros(len(plan.runs), jnp.int32)
        # Each leaf gets memory of its own, because steps donate it
        state = State(parameters, frozen, start(run, parameters), zeros, zeros)
        state = jax.tree.map(jnp.copy, state)
        advance, measure = _compiled_parts(plan, loss_of, static)

        store, snapshot = None, None
        if checkpoint is not None:
            about = _about(key, plan, begin, (advance, measure), run, state)
            versions = {name: environment()[name] for name in NUMBERS}
            store = Checkpoint(Path(checkpoint), about, versions, say)
            stack.enter_context(store.held())
            snapshot = store.load(state, plan.steps)
        loop = Loop(plan, advance, measure, run, {} if snapshot is None else snapshot.at_once, say)
        snapshot = loop.first(state) if snapshot is None else snapshot
        unsaved = False
        try:
            while loop.goes_on(snapshot):
                snapshot = loop.next(snapshot)
                if store is not None:
                    unsaved = not store.save(snapshot, now=not loop.goes_on(snapshot))
                if progress is not None:
                    progress(snapshot.points[-1])
        finally:  # whatever stopped it
            if store is not None and unsaved and not _donated(snapshot.state):
                with contextlib.suppress(InputError):
                    store.save(snapshot, now=True)
        trained = eqx.combine(snapshot.state.parameters, snapshot.state.frozen, static)
        trained = in_precision(trained, jnp.float32)
    return _training(trained, snapshot, plan.runs, environment() | {"generator": generator_of(key)})


class Loop:
    """Takes all runs from one measurement to the next."""

    def __init__(
        self,
        plan: Plan,
        advance: Callable,
        measure: Callable,
        run: Run,
        at_once: Mapping[str, int | None],
        say: Callable[[str], object],
    ):
        self.plan, self.run, self.say = plan, run, say
        on_cores = devices()[0].platform == "cpu" and len(devices()) == 1
        batching = "cores" if on_cores and not plan.objective.exact else "vmap"
        options: Any = {"batching": plan.batching or batching, "memory": plan.memory, "say": say}
        number = len(plan.runs)
        at_first = at_once.get("advance")
        self._advance = OverRuns(advance, number, donate=True, at_once=at_first, **options)
        self._measure = OverRuns(measure, number, at_once=at_once.get("measure"), **options)

    def goes_on(self, snapshot: Snapshot) -> bool:
        """Whether there are steps left, and runs to take them."""
        return snapshot.points[-1] < self.plan.steps and bool(_running(snapshot.state))

    def first(self, state: State) -> Snapshot:
        """Everything measured before the first step."""
        measured = self._measure(self.run, state, jnp.array(0))
        metrics = {"loss": np.full(len(self.plan.runs), np.nan)} | measured
        columns = {name: np.asarray(values)[:, None] for name, values in metrics.items()}
        return self._snapshot([0], state, columns)

    def next(self, snapshot: Snapshot) -> Snapshot:
        """One chunk of steps of the runs that go on, and what is measured after it."""
        every, runs = self.plan.every, self.plan.runs
        first, places = snapshot.points[-1], _running(snapshot.state)
        last = min((first // every + 1) * every, self.plan.steps)
        numbers = jnp.arange(first, last)
        advanced, (losses, norms) = self._advance(self.run, snapshot.state, numbers, places)
        everywhere = len(places) == len(runs)
        state = advanced if everywhere else _put(snapshot.state, places, advanced)
        if first == 0:
            _require_gradient(np.asarray(norms), places, runs)
        diverged_at = np.asarray(state.diverged_at)
        for place in places:
            if at := diverged_at[place]:
                self.say(
                    f"{runs.words(place)}: diverged (its loss, gradient or weights were not finite "
                    f"at step {at}); it stays as after step {at - 1}, the others go on. {ADVICE}"
                )
        metrics = {
            name: _with_last(values, diverged_at > 0) for name, values in snapshot.metrics.items()
        }
        finite = [place for place in places if not diverged_at[place]]
        if finite:
            measured = self._measure(self.run, state, jnp.array(last), finite)
            means = np.asarray(losses, np.float64).mean(axis=1)
            measured["loss"] = means[np.isin(places, finite)]
            for name, values in measured.items():
                metrics[name][finite, -1] = values
        reached = self.plan.stop.reached(metrics) & np.isin(np.arange(len(runs)), finite)
        converged_at = jnp.where(reached, jnp.int32(last), state.converged_at)
        state = state._replace(converged_at=converged_at)
        return self._snapshot([*snapshot.points, last], state, metrics)

    def _snapshot(self, points: list[int], state: State, metrics: Metrics) -> Snapshot:
        at_once = {"advance": self._advance.at_once, "measure": self._measure.at_once}
        return Snapshot(points, state, metrics, at_once)


def _losses(plan: Plan) -> Callable[[Problem], Loss]:
    """The loss of a part of a batch; an exact one is of one task, and known before compiling."""
    if not plan.objective.exact:
        part = plan.batch_size // plan.microbatches
        return lambda problem: plan.objective.loss(problem.task, part)

    def task_at(point: int) -> Any:
        # Numbers as Python has them, which is what users give
        at = jax.tree.map(lambda x: x[point].item() if x.ndim == 1 else x[point], plan.runs.varied)
        return plan.problem_at(plan.runs.values(at)).task

    tasks = [task_at(point) for point in range(plan.runs.points)]
    if not all(eqx.tree_equal(tasks[0], task) for task in tasks):
        raise InputError("an exact objective is of one task; train tasks one after the other.")
    loss = plan.objective.loss(tasks[0], plan.batch_size)
    return lambda _: loss


def _begin(plan: Plan, key: Key[Array, ""]) -> tuple[Callable[[], Any], tuple[Run, Any]]:
    """How all runs begin, to be lowered; and the runs with their initial learners.

    A seed has the same keys at each point.
    """
    runs = plan.runs

    def begin_one(number, varied):
        keys = jax.random.split(jax.random.fold_in(key, number), 3)
        run = Run(keys[1], keys[2], varied)
        learner = plan.problem(run).initialise(keys[0])
        # Arrays made of Python numbers have a weak type, which the first step would change:
        # everything would be compiled twice
        strong = jax.tree.map(
            lambda leaf: leaf.astype(leaf.dtype) if eqx.is_inexact_array(leaf) else leaf, learner
        )
        return run, strong

    numbers = jnp.asarray(np.tile(runs.seeds, runs.points), jnp.uint32)
    varied = jax.tree.map(lambda x: jnp.asarray(np.repeat(x, len(runs.seeds), axis=0)), runs.varied)
    if generator_of(key) == "threefry":
        begin: Any = eqx.filter_jit(eqx.filter_vmap(begin_one))
        return lambda: begin.lower(numbers, varied), begin(numbers, varied)
    # In a vmap XLA's generators draw numbers that depend on the other runs
    begin = eqx.filter_jit(begin_one)
    points = [jax.tree.map(lambda leaf, i=i: leaf[i], (numbers, varied)) for i in range(len(runs))]
    each = [begin(*point) for point in points]
    stacked = jax.tree.map(
        lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0], *each
    )
    return lambda: begin.lower(*points[0]), stacked


def _compiled_parts(
    plan: Plan, loss_of: Callable[[Problem], Loss], static: PyTree
) -> tuple[Callable, Callable]:
    """What is compiled for a run: its steps of given numbers, and what is measured of it."""

    def advance(run: Run, state: State, numbers):
        problem = plan.problem(run)
        loss = loss_of(problem)
        return take_steps(problem, loss, plan.microbatches, static, run.data_key, state, numbers)

    def measure(run: Run, state: State, number):
        problem, key = plan.problem(run), jax.random.fold_in(run.measure_key, number)
        learner = eqx.combine(state.parameters, state.frozen, static)
        metrics = {"risk": loss_of(problem)(learner, key)} if plan.objective.exact else {}
        metrics |= plan.stop.measures(learner)
        found = {} if problem.measure is None else dict(problem.measure(learner, key))
        if clash := found.keys() & {*metrics, *RESERVED}:
            raise InputError(f"measure returns {clash.pop()!r}, which training measures itself.")
        return metrics | found

    return advance, measure


def _about(
    key: Key[Array, ""],
    plan: Plan,
    begin: Any,
    compiled: tuple[Callable, Callable],
    run: Run,
    state: State,
) -> dict[str, Any]:
    """Which training this is, in values that JSON has; programs as digests."""
    advance, measure = compiled
    first = jax.tree.map(lambda leaf: leaf[0], (run, state))
    points = named_arrays(plan.runs.varied)
    return {
        **plan.description,
        "objective": repr(plan.objective),
        "key": jax.random.key_data(unroll(key)).tolist(),
        "generator": generator_of(key),
        **plan.runs.coordinates(),
        "values": checksum(points, "") if points else None,
        "batch_size": plan.batch_size,
        "microbatches": plan.microbatches,
        "every": plan.every,
        "stop": plan.stop.words(),
        "metrics": sorted({"loss", *jax.eval_shape(measure, *first, jnp.array(0))}),
        "programs": {
            "initial weights or learners": fingerprint(begin()),
            "task, learner or optimiser": fingerprint(
                jax.jit(advance).lower(*first, jnp.arange(1))
            ),
            "measure": fingerprint(jax.jit(measure).lower(*first, jnp.array(0))),
        },
    }


def _training(
    learners: PyTree, snapshot: Snapshot, runs: Grid, attributes: dict[str, str]
) -> Training:
    """The result, with an axis for each name."""
    shape, names = runs.sizes, [*runs.axes, "seed"]
    diverged_at = np.asarray(snapshot.state.diverged_at).reshape(shape)
    converged_at = np.asarray(snapshot.state.converged_at).reshape(shape)
    cases = [diverged_at > 0, converged_at > 0]
    endings = np.select(cases, ["diverged", "converged"], "all steps")
    taken = np.select(cases, [diverged_at - 1, converged_at], snapshot.points[-1])
    metrics = xr.Dataset(
        {
            name: ((*names, "step"), values.reshape(*shape, -1))
            for name, values in snapshot.metrics.items()
        },
        {
            **runs.coordinates(),
            "step": snapshot.points,
            "ending": (names, endings),
            "steps_taken": (names, taken),
        },
        attributes,
    )
    learners = jax.tree.map(
        lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]) if eqx.is_array(leaf) else leaf, learners
    )
    return Training(learners, metrics)


def _running(state: State) -> list[int]:
    """The places of the runs that go on."""
    ended = np.asarray(state.diverged_at) + np.asarray(state.converged_at)
    return np.flatnonzero(ended == 0).tolist()


def _put(state: State, places: list[int], replacement: State) -> State:
    """The state of all runs, with that of those at the places replaced."""

    def put(old, new):
        if jnp.issubdtype(old.dtype, jax.dtypes.prng_key) or isinstance(old, jax.Array):
            return jnp.asarray(old).at[np.array(places)].set(new)
        old = old.copy()
        old[places] = new
        return old

    return jax.tree.map(put, state, replacement)


def _donated(state: State) -> bool:
    """Whether the memory of a state was given away, so that it cannot be read any more."""
    leaves = jax.tree.leaves(state)
    return any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in leaves)


def _with_last(
    values: Float[np.ndarray, "runs points"], diverged: Bool[np.ndarray, " runs"]
) -> Float[np.ndarray, "runs more"]:
    """The values with the last column repeated, as runs that ended keep theirs; NaN if diverged."""
    longer = np.column_stack((values, values[:, -1])).astype(values.dtype)
    longer[diverged, -1] = np.nan
    return longer


def _require_gradient(
    norms: Float[np.ndarray, "chosen steps"], places: list[int], runs: Grid
) -> None:
    """Raises if the gradient of a run is 0 at every step, so that nothing moves it."""
    dead = ~norms.any(axis=1)
    if dead.any():
        run = runs.words(places[int(np.argmax(dead))])
        raise InputError(
            f"the gradient is 0 in each of the first {norms.shape[1]} steps ({run}); start from "
            "weights that are not 0, and without scales or clipping that leave no gradient."
        )
