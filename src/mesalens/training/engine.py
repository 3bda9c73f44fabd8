"""The training loop: compiled chunks of steps, with measurements and checkpoints between them."""

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
from jaxtyping import Array, Float, Key, PyTree

from mesalens._precision import in_precision
from mesalens.checks import InputError
from mesalens.environment import NUMBERS, environment, is_one_cpu
from mesalens.program_cache import often, seldom
from mesalens.random import generator_of, unroll
from mesalens.storage import named_arrays
from mesalens.training.checkpoint import Checkpoint, Metrics, Snapshot, checksum, fingerprint
from mesalens.training.grid import Grid
from mesalens.training.objectives.base import Loss, Objective
from mesalens.training.parallel import Batching, OverRuns
from mesalens.training.problem import Problem, State, take_steps
from mesalens.training.stopping.base import StoppingRule
from mesalens.training.training import ADVICE, Training

RESERVED = ("loss", "excess_risk")
"""Names of metrics that training itself measures."""

APART = 20
"""If there are at least this many steps between measurements, compiling them fast is better."""


class Run(NamedTuple):
    """The constants of a run: its keys, and its values of the varied settings."""

    data_key: Key[Array, "*runs"]
    measure_key: Key[Array, "*runs"]
    varied: Mapping[str, PyTree]


class Plan(NamedTuple):
    """What is trained, and how: the checked arguments of `train`, except for the runs.

    `problem` makes the problem of a run, and `loss_of` its loss on a microbatch, or its exact loss.
    """

    problem: Callable[[Run], Problem]
    loss_of: Callable[[Problem], Loss]
    key: Key[Array, ""]
    steps: int
    batch_size: int
    microbatches: int
    every: int
    objective: Objective
    stop: StoppingRule
    batching: Batching | None
    memory: float | None
    description: Mapping[str, Any]


class Engine:
    """The programs of a plan, compiled once for all grids with the same number of runs.

    Args:
        plan: What is trained.
        divided: Whether XLA may divide the products of a run among the cores; by default it may if
            there are fewer runs than cores.
    """

    def __init__(self, plan: Plan, *, divided: bool | None = None):
        self.plan, self.divided = plan, divided
        self._begin = _beginning(plan)
        self._optimiser_state = jax.jit(
            jax.vmap(lambda run, p: plan.problem(run).optimiser.init(p))
        )
        self._parts: tuple[Callable, Callable] | None = None
        self._programs: dict[int, tuple[OverRuns, OverRuns]] = {}
        self._digests: dict[int, dict[str, Any]] = {}

    def train(
        self,
        runs: Grid,
        *,
        progress: Callable[[int], object] | None = None,
        say: Callable[[str], object] = print,
        checkpoint: Path | None = None,
    ) -> Training:
        """Trains some runs; see `mesalens.training.train`."""
        config: Any = jax.config
        double = config.jax_enable_x64  # train in float64 if the user computes in float64
        begin, (run, learners) = self._begin(runs)
        with self._precision(), contextlib.ExitStack() as stack:
            state, static = self._first(run, learners)
            store = snapshot = None
            if checkpoint is not None:
                about = self._about(runs, begin, run, state, double)
                versions = {name: self._environment()[name] for name in NUMBERS}
                store = Checkpoint(Path(checkpoint), about, versions, say)
                stack.enter_context(store.held())
                snapshot = store.load(state, self.plan.steps)
            at_once = {} if snapshot is None else snapshot.at_once
            loop = Loop(self.plan, runs, run, *self._compiled(len(runs), at_once, say), say)
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
                if store is not None and unsaved:
                    # A state whose memory was donated cannot be read (a RuntimeError), and a second
                    # failure should not hide the first
                    with contextlib.suppress(InputError, RuntimeError):
                        store.save(snapshot, now=True)
            trained = eqx.combine(snapshot.state.parameters, snapshot.state.frozen, static)
            trained = trained if double else in_precision(trained, jnp.float32)
        made_with = self._environment() | {"generator": generator_of(self.plan.key)}
        return _training(trained, snapshot, runs, made_with)

    def identify(self, runs: Grid) -> dict[str, Any]:
        """A description of what the runs compute, as JSON values; programs are digests."""
        config: Any = jax.config
        double = config.jax_enable_x64
        begin, (run, learners) = self._begin(runs)
        with self._precision():
            state, _ = self._first(run, learners)
            return self._about(runs, begin, run, state, double)

    def compile(self, runs: Grid, say: Callable[[str], object] = print) -> None:
        """Compiles all programs that `train` needs for these runs."""
        _, (run, learners) = self._begin(runs)
        with self._precision():
            state, _ = self._first(run, learners)
            advance, measure = self._compiled(len(runs), {}, say)
            measure.compile(run, state, np.array(0))
            steps, every = self.plan.steps, self.plan.every
            for first in {0, steps - steps % every} - {steps}:
                advance.compile(run, state, np.arange(first, min(first + every, steps)))

    @property
    def bytes(self) -> float:
        """The memory that a run of the compiled programs needs, according to XLA."""
        return max((p.bytes for pair in self._programs.values() for p in pair), default=0.0)

    def _environment(self) -> dict[str, str]:
        """What the bits depend on; a run whose products are not divided uses one core."""
        return environment() | ({"cores": "1"} if self.divided is False else {})

    def _precision(self) -> contextlib.AbstractContextManager[None]:
        config: Any = jax.config
        return jax.enable_x64(self.plan.objective.exact or config.jax_enable_x64)

    def _first(self, run: Run, learners: Any) -> tuple[State, PyTree]:
        """The state before the first step, and the parts of the learners that are not arrays."""
        learners = in_precision(learners, jnp.float64) if self.plan.objective.exact else learners
        parameters, rest = eqx.partition(learners, learners.trainable())
        if not jax.tree.leaves(parameters):
            raise InputError(f"{type(learners).__name__} has no trainable arrays.")
        # Functions and the like cannot be carried through a compiled loop
        frozen, static = eqx.partition(rest, eqx.is_array)
        self._parts = self._parts or _compiled_parts(self.plan, static)
        zeros = np.zeros(len(run.data_key), np.int32)
        state = State(parameters, frozen, self._optimiser_state(run, parameters), zeros, zeros)
        return jax.tree.map(self._held, state), static

    def _held(self, leaf: Any) -> Any:
        """A leaf of the first state, where the programs take it from; no copy is compiled."""
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.copy(leaf)
        values = np.asarray(leaf)
        # Each leaf needs its own memory, because the steps of a `vmap` donate it
        return values if self._batching == "cores" else jax.device_put(values, may_alias=False)

    @property
    def _batching(self) -> Batching:
        if self.plan.batching is not None:
            return self.plan.batching
        return "cores" if is_one_cpu() and not self.plan.objective.exact else "vmap"

    def _compiled(
        self, runs: int, at_once: Mapping[str, int | None], say: Callable[[str], object]
    ) -> tuple[OverRuns, OverRuns]:
        """The programs for the steps and the measurements of this many runs."""
        if runs not in self._programs:
            assert self._parts is not None
            options: Any = {"batching": self._batching, "memory": self.plan.memory, "say": say}
            options["divided"] = self.divided
            steps, measure = self._parts
            at_once = {name: at_once.get(name) for name in ("advance", "measure")}
            advance = OverRuns(
                steps, runs, donate=True, at_once=at_once["advance"], options=often(), **options
            )
            apart = seldom() if self.plan.every >= APART else often()
            measure = OverRuns(measure, runs, at_once=at_once["measure"], options=apart, **options)
            self._programs[runs] = advance, measure
        return self._programs[runs]

    def _about(
        self, runs: Grid, begin: Any, run: Run, state: State, double: bool
    ) -> dict[str, Any]:
        """A description of the training, as JSON values; programs are digests."""
        plan = self.plan
        if len(runs) not in self._digests:
            self._digests[len(runs)] = self._digest(begin, run, state)
        points = named_arrays(runs.varied)
        return {
            **plan.description,
            "objective": repr(plan.objective),
            "key": jax.random.key_data(unroll(plan.key)).tolist(),
            "generator": generator_of(plan.key),
            **runs.labels,
            "values": checksum(points, "") if points else None,
            "batch_size": plan.batch_size,
            "microbatches": plan.microbatches,
            "every": plan.every,
            "stop": plan.stop.words(),
            **self._digests[len(runs)],
            **({"precision": "float64"} if double else {}),
        }

    def _digest(self, begin: Any, run: Run, state: State) -> dict[str, Any]:
        """What the programs measure, and their digests."""
        assert self._parts is not None
        first = jax.tree.map(lambda leaf: leaf[0], (run, state))
        advance, measure = map(jax.jit, self._parts)
        chunk = np.arange(self.plan.every)  # as in `compile`, which then need not trace again
        return {
            "metrics": sorted({"loss", *measure.eval_shape(*first, np.array(0))}),
            "programs": {
                "initial weights or learners": fingerprint(begin()),
                "task, learner or optimiser": fingerprint(advance.lower(*first, chunk)),
                "measure": fingerprint(measure.lower(*first, np.array(0))),
            },
        }


@dataclass(frozen=True)
class Loop:
    """Takes all runs from one measurement to the next."""

    plan: Plan
    runs: Grid
    run: Run
    advance: OverRuns
    measure: OverRuns
    say: Callable[[str], object]

    def goes_on(self, snapshot: Snapshot) -> bool:
        """Whether there are steps left, and runs to take them."""
        return snapshot.points[-1] < self.plan.steps and bool(_running(snapshot.state))

    def first(self, state: State) -> Snapshot:
        """The snapshot before the first step, with all measurements."""
        measured = self.measure(self.run, state, np.array(0))
        metrics = {"loss": np.full(len(self.runs), np.nan)} | measured
        columns = {name: np.asarray(values)[:, None] for name, values in metrics.items()}
        return self._snapshot([0], state, columns)

    def next(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot after one more chunk of steps of the runs that have not ended."""
        every, runs = self.plan.every, self.runs
        first, places = snapshot.points[-1], _running(snapshot.state)
        last = min((first // every + 1) * every, self.plan.steps)
        numbers = np.arange(first, last)
        advanced, (losses, norms) = self.advance(self.run, snapshot.state, numbers, places)
        everywhere = len(places) == len(runs)
        state = advanced if everywhere else _put(snapshot.state, places, advanced)
        if first == 0:
            _require_gradient(np.asarray(norms), runs)
        diverged_at = np.asarray(state.diverged_at)
        for place in places:
            if at := diverged_at[place]:
                self.say(
                    f"{runs.words(place)}: diverged (its loss, gradient or weights were not finite "
                    f"at step {at}); it keeps the weights of step {at - 1}, and the other runs "
                    f"continue. {ADVICE}"
                )
        # Runs that ended keep their last values
        metrics = {
            name: np.pad(values, ((0, 0), (0, 1)), "edge")
            for name, values in snapshot.metrics.items()
        }
        for values in metrics.values():
            values[diverged_at > 0, -1] = np.nan
        if finite := _running(state):
            measured = self.measure(self.run, state, np.array(last), finite)
            means = np.asarray(losses, np.float64).mean(axis=1)
            measured["loss"] = means[np.isin(places, finite)]
            for name, values in measured.items():
                metrics[name][finite, -1] = values
        reached = np.flatnonzero(self.plan.stop.reached(metrics))
        if ended := np.intersect1d(reached, finite).tolist():
            converged_at = _put(state.converged_at, ended, np.int32(last))
            state = state._replace(converged_at=converged_at)
        return self._snapshot([*snapshot.points, last], state, metrics)

    def _snapshot(self, points: list[int], state: State, metrics: Metrics) -> Snapshot:
        at_once = {"advance": self.advance.at_once, "measure": self.measure.at_once}
        return Snapshot(points, state, metrics, at_once)


def _beginning(plan: Plan) -> Callable[[Grid], tuple[Callable[[], Any], tuple[Run, Any]]]:
    """A function of a grid that gives the program that starts its runs, and its result.

    A seed has the same keys at each point.
    """
    key = unroll(plan.key)

    def begin_one(number, varied):
        keys = jax.random.split(jax.random.fold_in(key, number), 3)
        run = Run(keys[1], keys[2], varied)
        learner = plan.problem(run).initialise(keys[0])
        # Arrays made from Python numbers have a weak type, which the first step would change, so
        # that everything would be compiled twice
        strong = jax.tree.map(
            lambda leaf: leaf.astype(leaf.dtype) if eqx.is_inexact_array(leaf) else leaf, learner
        )
        return run, strong

    # In a vmap, XLA's generators draw numbers that depend on the other runs
    together = generator_of(key) == "threefry"
    begin: Any = eqx.filter_jit(eqx.filter_vmap(begin_one) if together else begin_one)

    def of(runs: Grid) -> tuple[Callable[[], Any], tuple[Run, Any]]:
        seeds = runs.labels["seed"]
        numbers = np.asarray(np.tile(seeds, len(runs) // len(seeds)), np.uint32)
        varied = jax.tree.map(lambda leaf: np.repeat(leaf, len(seeds), axis=0), runs.varied)
        if together:
            return lambda: begin.lower(numbers, varied), begin(numbers, varied)
        points = [
            jax.tree.map(lambda leaf, i=i: leaf[i], (numbers, varied)) for i in range(len(runs))
        ]
        stacked = jax.tree.map(
            lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0],
            *(begin(*point) for point in points),
        )
        return lambda: begin.lower(*points[0]), stacked

    return of


def _compiled_parts(plan: Plan, static: PyTree) -> tuple[Callable, Callable]:
    """The functions of a run that are compiled: its steps, and its measurements."""

    def advance(run: Run, state: State, numbers):
        problem = plan.problem(run)
        given = problem, plan.loss_of(problem), plan.microbatches, static, run.data_key
        return take_steps(*given, state, numbers, plan.objective.fixed_prompts)

    def measure(run: Run, state: State, number):
        problem, key = plan.problem(run), jax.random.fold_in(run.measure_key, number)
        learner = eqx.combine(state.parameters, state.frozen, static)
        metrics = {"risk": plan.loss_of(problem)(learner, key)} if plan.objective.exact else {}
        metrics |= plan.stop.measures(learner)
        found = {} if problem.measure is None else dict(problem.measure(learner, key))
        if clash := found.keys() & {*metrics, *RESERVED}:
            raise InputError(
                f"measure returns {clash.pop()!r}, a name that training uses; rename it."
            )
        return metrics | found

    return advance, measure


def _training(
    learners: PyTree, snapshot: Snapshot, runs: Grid, made_with: Mapping[str, str]
) -> Training:
    """The result, with one axis for each varied setting, and one for seeds."""
    labels, shape, state = runs.labels, runs.sizes, snapshot.state
    ends = [np.asarray(at).reshape(shape) for at in (state.diverged_at, state.converged_at)]
    cases = [at > 0 for at in ends]
    endings = np.select(cases, ["diverged", "converged"], "all steps")
    taken = np.select(cases, [ends[0] - 1, ends[1]], snapshot.points[-1])
    metrics = xr.Dataset(
        {
            name: ((*labels, "step"), values.reshape(*shape, -1))
            for name, values in snapshot.metrics.items()
        },
        {**labels, "step": snapshot.points},
        dict(made_with),
    )
    metrics = metrics.assign_coords(ending=([*labels], endings), steps_taken=([*labels], taken))
    learners = jax.tree.map(
        lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]) if eqx.is_array(leaf) else leaf, learners
    )
    return Training(learners, metrics)


def _running(state: State) -> list[int]:
    """The places of the runs that have not ended."""
    ended = [np.asarray(at) > 0 for at in (state.diverged_at, state.converged_at)]
    return np.flatnonzero(~np.logical_or(*ended)).tolist()


def _put(state: PyTree, places: list[int], replacement: PyTree) -> PyTree:
    """The state of all runs, or a part of it, with that at some places replaced."""

    def put(old, new):
        if isinstance(old, jax.Array):
            return old.at[np.array(places)].set(new)
        replaced = np.array(old)  # NumPy arrays, from steps on cores, need no program
        replaced[places] = new
        return replaced

    return jax.tree.map(put, state, replacement)


def _require_gradient(norms: Float[np.ndarray, "runs steps"], runs: Grid) -> None:
    """Raises `ValueError` if the gradient of a run is 0 at every step."""
    dead = np.flatnonzero(~norms.any(axis=1)).tolist()
    if dead:
        raise InputError(
            f"the gradient is 0 in each of the first {norms.shape[1]} steps "
            f"({runs.words(dead[0])}); use initial weights that are not 0, and scales or clipping "
            "that do not remove the gradient."
        )
