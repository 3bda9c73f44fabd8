"""The loop that all trainings go through: chunks of compiled steps, and between them measurements, verdicts on each run, a state kept."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Bool, Float, Key, PyTree

from mesalens.checks import InputError, count
from mesalens.environment import NUMBERS, devices, environment
from mesalens.random import generator_of, unroll
from mesalens.storage import named_arrays
from mesalens.training.checkpoint import Checkpoint, Kept, Metrics, checksum, fingerprint
from mesalens.training.objective import Loss, Objective, loss_of
from mesalens.training.parallel import Batching, OverRuns
from mesalens.training.problem import Problem, State, steps_of_one
from mesalens.training.stopping import StoppingRule
from mesalens.training.training import ADVICE, Training, in_words

Say = Callable[[str], object]


class Runs(NamedTuple):
    """Which runs there are: every point of the axes, which are labels by name, from every seed.

    `values` has what the axes stand for, with a leading axis of points, the last named axis running fastest.
    """

    seeds: list[int]
    axes: Mapping[str, list[Any]]
    values: PyTree

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many there are along each axis, seeds last."""
        return (*(len(labels) for labels in self.axes.values()), len(self.seeds))

    def __len__(self) -> int:
        return int(np.prod(self.sizes))

    def words(self, place: int) -> str:
        """The run at a place, in words."""
        labels = [*self.axes.values(), self.seeds]
        where = np.unravel_index(place, self.sizes)
        return in_words(
            dict(zip([*self.axes, "seed"], [of[i] for of, i in zip(labels, where, strict=True)], strict=True))
        )

    def coordinates(self) -> dict[str, list[Any]]:
        """The labels of all axes, seeds last."""
        return {**self.axes, "seed": self.seeds}


class Settings(NamedTuple):
    """What all runs share."""

    steps: int
    batch_size: int
    microbatches: int
    every: int
    objective: Objective
    stop: StoppingRule | None
    batching: Batching | None
    memory: float | None
    description: Mapping[str, Any]


def train_runs(
    problem_of: Callable[[PyTree], Problem],
    runs: Runs,
    key: Key[Array, ""],
    settings: Settings,
    *,
    checkpoint: Path | None,
    progress: Callable[[int], object] | None,
    say: Say,
) -> Training:
    """Trains `problem_of(values)` for the values of each point, from each seed; see `train` and `sweep`."""
    for name in ("steps", "every", "batch_size", "microbatches"):
        count(name, getattr(settings, name))
    if settings.batch_size % settings.microbatches:
        raise InputError(
            f"a batch of {settings.batch_size} has no {settings.microbatches} equal parts; give a divisor of its size."
        )
    exact = settings.objective == "population"
    loss_for = _losses(problem_of, runs, settings)
    begin, (own, learners) = _begin(problem_of, runs, unroll(key))
    with jax.enable_x64(exact), contextlib.ExitStack() as held:
        learners = in_precision(learners, jnp.float64) if exact else learners
        parameters, others = eqx.partition(learners, learners.trainable())
        if not jax.tree.leaves(parameters):
            raise InputError(f"{type(learners).__name__} has no trainable arrays; there is nothing to train.")
        # Activations and the like cannot be carried through a loop
        frozen, static = eqx.partition(others, eqx.is_array)
        start = jax.jit(jax.vmap(lambda own, parameters: problem_of(own.values).optimiser.init(parameters)))
        nothing = jnp.zeros(len(runs), jnp.int32)
        # To each its own memory, which is given away step by step
        state = jax.tree.map(jnp.copy, State(parameters, frozen, start(own, parameters), nothing, nothing))
        advance, measure = _of_one(problem_of, loss_for, settings, static)

        keeping, kept = None, None
        if checkpoint is not None:
            about = _about(key, runs, settings, begin, (advance, measure), own, state)
            keeping = Checkpoint(Path(checkpoint), about, {name: environment()[name] for name in NUMBERS}, say)
            held.enter_context(keeping.held())
            kept = keeping.load(state, settings.steps)
        loop = Loop(advance, measure, own, runs, settings, {} if kept is None else kept.at_once, say)
        kept = loop.first(state) if kept is None else kept
        unsaved = False
        try:
            while loop.goes_on(kept):
                kept = loop.next(kept)
                unsaved = keeping is not None and not keeping.save(kept, now=not loop.goes_on(kept))
                if progress is not None:
                    progress(kept.points[-1])
        finally:  # something stopped it, whatever it was
            if keeping is not None and unsaved and not _donated(kept.state):
                with contextlib.suppress(InputError):
                    keeping.save(kept, now=True)
        final = in_precision(eqx.combine(kept.state.parameters, kept.state.frozen, static), jnp.float32)
    return _training(final, kept, runs, environment() | {"generator": generator_of(key)})


class Own(NamedTuple):
    """What is a run's own and does not change: its keys, and what the axes stand for."""

    data_key: Key[Array, "*runs"]
    measure_key: Key[Array, "*runs"]
    values: PyTree


class Loop:
    """Takes all runs from one measurement to the next."""

    def __init__(
        self,
        advance: Callable,
        measure: Callable,
        own: Own,
        runs: Runs,
        settings: Settings,
        at_once: Mapping[str, int | None],
        say: Say,
    ):
        self.own, self.runs, self.settings, self.say = own, runs, settings, say
        options: Any = {"memory": settings.memory, "say": say}
        options["batching"] = settings.batching or _batching(settings.objective)
        self._advance = OverRuns(advance, len(runs), donate=True, at_once=at_once.get("advance"), **options)
        self._measure = OverRuns(measure, len(runs), at_once=at_once.get("measure"), **options)

    def goes_on(self, kept: Kept) -> bool:
        """Whether there are steps left, and runs to take them."""
        return kept.points[-1] < self.settings.steps and bool(_running(kept.state))

    def first(self, state: State) -> Kept:
        """Everything measured before the first step."""
        now = {"loss": np.full(len(self.runs), np.nan)} | self._measure(self.own, state, jnp.array(0))
        return self._kept([0], state, {name: np.asarray(values)[:, None] for name, values in now.items()})

    def next(self, kept: Kept) -> Kept:
        """One chunk of steps of those runs that go on, and what is measured after it."""
        first, every, places = kept.points[-1], self.settings.every, _running(kept.state)
        last = min((first // every + 1) * every, self.settings.steps)
        advanced, (losses, norms) = self._advance(self.own, kept.state, jnp.arange(first, last), places)
        state = advanced if len(places) == len(self.runs) else _put(kept.state, places, advanced)
        if first == 0:
            _require_gradient(np.asarray(norms), places, self.runs)
        diverged_at = np.asarray(state.diverged_at)
        for place in places:
            if at := diverged_at[place]:
                self.say(
                    f"{self.runs.words(place)}: diverged, as the loss, the gradient or the weights were not finite at step {at}; it stays as "
                    f"it was after step {at - 1}, and others go on. {ADVICE}"
                )
        metrics = {name: _with_last(values, diverged_at > 0) for name, values in kept.metrics.items()}
        finite = [place for place in places if not diverged_at[place]]
        if finite:
            now = self._measure(self.own, state, jnp.array(last), finite)
            now["loss"] = np.asarray(losses, np.float64).mean(axis=1)[np.isin(places, finite)]
            for name, values in now.items():
                metrics[name][finite, -1] = values
        if self.settings.stop is not None:
            reached = self.settings.stop.reached(metrics) & np.isin(np.arange(len(self.runs)), finite)
            converged_at = jnp.where(reached, jnp.int32(last), state.converged_at)
            state = state._replace(converged_at=converged_at)
        return self._kept([*kept.points, last], state, metrics)

    def _kept(self, points: list[int], state: State, metrics: Metrics) -> Kept:
        return Kept(points, state, metrics, {"advance": self._advance.at_once, "measure": self._measure.at_once})


def _losses(problem_of: Callable, runs: Runs, settings: Settings) -> Callable[[Problem], Loss]:
    """The loss of a part of a batch of each problem; the risk itself is of one task, and known before anything is compiled."""
    if settings.objective != "population":
        return lambda problem: loss_of(settings.objective, problem.task, settings.batch_size // settings.microbatches)
    points = [
        problem_of(jax.tree.map(lambda leaf, i=i: leaf[i].item() if leaf.ndim == 1 else leaf[i], runs.values)).task
        for i in range(len(runs) // len(runs.seeds))
    ]
    if not all(eqx.tree_equal(points[0], other) for other in points):
        raise InputError("the population objective is of one task; sweep tasks one after the other.")
    loss = loss_of("population", points[0], settings.batch_size)
    return lambda _: loss


def _begin(problem_of: Callable, runs: Runs, key: Key[Array, ""]) -> tuple[Callable[[], Any], tuple[Own, Any]]:
    """How all runs begin, to be lowered, and done: their keys and values, and their learners. A seed has the same keys at each point."""

    def of_one(number, values):
        start_key, data_key, measure_key = jax.random.split(jax.random.fold_in(key, number), 3)
        learner = problem_of(values).initialise(start_key)
        # Arrays made of Python numbers have a weak type, which the first step would change: all would be compiled twice
        strong = jax.tree.map(lambda leaf: leaf.astype(leaf.dtype) if eqx.is_inexact_array(leaf) else leaf, learner)
        return Own(data_key, measure_key, values), strong

    numbers = jnp.asarray(np.tile(runs.seeds, len(runs) // len(runs.seeds)), jnp.uint32)
    values = jax.tree.map(lambda leaf: jnp.asarray(np.repeat(leaf, len(runs.seeds), axis=0)), runs.values)
    if generator_of(key) == "threefry":
        begin: Any = eqx.filter_jit(eqx.filter_vmap(of_one))
        return lambda: begin.lower(numbers, values), begin(numbers, values)
    # Under vmap XLA's generator draws other numbers, that depend on the company
    begin = eqx.filter_jit(of_one)
    each = [begin(numbers[i], jax.tree.map(lambda leaf, i=i: leaf[i], values)) for i in range(len(runs))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0], *each)
    return lambda: begin.lower(numbers[0], jax.tree.map(lambda leaf: leaf[0], values)), stacked


def _of_one(
    problem_of: Callable, loss_for: Callable[[Problem], Loss], settings: Settings, static: PyTree
) -> tuple[Callable, Callable]:
    """What is compiled for a run: its steps of given numbers, and what is measured of it."""

    def advance(own: Own, state: State, numbers):
        problem = problem_of(own.values)
        return steps_of_one(problem, loss_for(problem), settings.microbatches, static, own.data_key, state, numbers)

    def measure(own: Own, state: State, number):
        problem, key = problem_of(own.values), jax.random.fold_in(own.measure_key, number)
        learner = eqx.combine(state.parameters, state.frozen, static)
        found = {"risk": loss_for(problem)(learner, key)} if settings.objective == "population" else {}
        found |= {} if settings.stop is None else settings.stop.measures(learner)
        return found | ({} if problem.measure is None else dict(problem.measure(learner, key)))

    return advance, measure


def _about(
    key: Key[Array, ""],
    runs: Runs,
    settings: Settings,
    begin: Any,
    of_one: tuple[Callable, Callable],
    own: Own,
    state: State,
) -> dict[str, Any]:
    """Which training this is, in values that JSON has; programs as digests."""
    steps, measured = of_one
    one = jax.tree.map(lambda leaf: leaf[0], (own, state))
    points = named_arrays(runs.values)
    return {
        **settings.description,
        "objective": settings.objective,
        "key": jax.random.key_data(unroll(key)).tolist(),
        "generator": generator_of(key),
        **runs.coordinates(),
        "values": checksum(points, "") if points else None,
        "batch_size": settings.batch_size,
        "microbatches": settings.microbatches,
        "every": settings.every,
        "stop": None if settings.stop is None else settings.stop.words(),
        "metrics": sorted({"loss", *jax.eval_shape(measured, *one, jnp.array(0))}),
        "programs": {
            "initial weights or learners": fingerprint(begin()),
            "task, learner or optimiser": fingerprint(jax.jit(steps).lower(*one, jnp.arange(1))),
            "measure": fingerprint(jax.jit(measured).lower(*one, jnp.array(0))),
        },
    }


def _batching(objective: Objective) -> Batching:
    """How many runs go at once where nobody says: cores for their own programs on a CPU, one `vmap` elsewhere."""
    on_cores = devices()[0].platform == "cpu" and len(devices()) == 1 and objective != "population"
    return "cores" if on_cores else "vmap"


def _training(learners: PyTree, kept: Kept, runs: Runs, attributes: dict[str, str]) -> Training:
    """The result, with an axis for each name."""
    shape, names = runs.sizes, [*runs.axes, "seed"]
    diverged_at, converged_at = (np.asarray(kept.state[i]).reshape(shape) for i in (-2, -1))
    endings = np.where(diverged_at > 0, "diverged", np.where(converged_at > 0, "converged", "all steps"))
    taken = np.where(diverged_at > 0, diverged_at - 1, np.where(converged_at > 0, converged_at, kept.points[-1]))
    metrics = xr.Dataset(
        {name: ((*names, "step"), values.reshape(*shape, -1)) for name, values in kept.metrics.items()},
        {**runs.coordinates(), "step": kept.points, "ending": (names, endings), "steps_taken": (names, taken)},
        attributes,
    )
    return Training(
        jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]) if eqx.is_array(leaf) else leaf, learners),
        metrics,
    )


def in_precision(learners: PyTree, dtype: Any) -> PyTree:
    """The same learners, with floating-point arrays of the given type."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype) if eqx.is_inexact_array(leaf) else leaf, learners)


def _running(state: State) -> list[int]:
    """The places of the runs that go on."""
    ended = np.asarray(state.diverged_at) + np.asarray(state.converged_at)
    return np.flatnonzero(ended == 0).tolist()


def _put(state: State, places: list[int], some: State) -> State:
    """The state of all runs, with those of some replaced."""

    def put(old, new):
        if jnp.issubdtype(old.dtype, jax.dtypes.prng_key) or isinstance(old, jax.Array):
            return jnp.asarray(old).at[np.array(places)].set(new)
        old = old.copy()
        old[places] = new
        return old

    return jax.tree.map(put, state, some)


def _donated(state: State) -> bool:
    """Whether the memory of a state was given away, so that it cannot be read any more."""
    return any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in jax.tree.leaves(state))


def _with_last(
    values: Float[np.ndarray, "runs points"], diverged: Bool[np.ndarray, " runs"]
) -> Float[np.ndarray, "runs more"]:
    """The values with their last once more, as it stands where nothing changes; nothing for runs that have diverged."""
    more = np.column_stack((values, values[:, -1])).astype(values.dtype)
    more[diverged, -1] = np.nan
    return more


def _require_gradient(norms: Float[np.ndarray, "some steps"], places: list[int], runs: Runs) -> None:
    """Raises where the gradient of a run is 0 at every step, so that nothing moves it."""
    dead = ~norms.any(axis=1)
    if dead.any():
        raise InputError(
            f"the gradient is 0 at each of the first {norms.shape[1]} steps ({runs.words(places[int(np.argmax(dead))])}), so that nothing is "
            "learned; raise the activation clip, or start from weights that are not all 0."
        )
