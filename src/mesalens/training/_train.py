"""`train`: any learner on fresh prompts at each step, for many seeds and values at once."""

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import optax
from jaxtyping import Array, Key

from mesalens import kinds
from mesalens.checks import InputError, count, one_of, positive
from mesalens.learners import Learner
from mesalens.memory import prompts_size, require_memory, size_of
from mesalens.tasks import Task
from mesalens.training.engine import Engine, Plan
from mesalens.training.grid import Axis, Grid, combinations, grid
from mesalens.training.objectives.base import Objective
from mesalens.training.optimisers.base import Optimiser
from mesalens.training.parallel import Batching
from mesalens.training.problem import Measure, Problem
from mesalens.training.stopping.base import StoppingRule
from mesalens.training.training import Training


def warn(line: str) -> None:
    """Default reporter: issues the message as a warning."""
    warnings.warn(line, stacklevel=2)


def train(
    initialise: Callable[..., Learner],
    task: Task | Callable[..., Task],
    optimiser: optax.GradientTransformation | Optimiser | str | Mapping | Callable[..., Any],
    *,
    steps: int,
    batch_size: int = 1024,
    microbatches: int = 1,
    seeds: int | Sequence[int] = 1,
    key: Key[Array, ""],
    vary: Mapping[str, Axis] | None = None,
    every: int = 100,
    objective: Objective | str | Mapping = "sampled",
    measure: Measure | None = None,
    stop: StoppingRule | str | Mapping = "never",
    batching: Batching | None = None,
    memory: float | None = None,
    progress: Callable[[int], object] | None = None,
    say: Callable[[str], object] = warn,
    checkpoint: Path | None = None,
    description: Mapping[str, Any] | None = None,
) -> Training:
    """Trains learners by gradients of their loss, one for each seed and each combination of values.

        train(initialise, task, optax.adam(1e-3), steps=1000, seeds=5, key=key)
        train(
            initialise,
            lambda noise: dataclasses.replace(task, noise=GaussianNoise(noise)),
            lambda rate: optax.adam(rate),
            vary={"rate": [1e-3, 3e-3], "noise": [0.0, 0.1]},
            …,
        )

    With `vary`, all combinations of values are one compiled program. `initialise` (behind the key),
    `task` and `optimiser` may then be functions of the varied values, each of those that its
    signature names. JAX traces them: a number becomes an array without dimensions, and of a pytree
    (a task, weights) those leaves that differ along the axis. Without `vary` there is one point.

    A seed has the same keys at every point, so that points are compared on the same prompts, and
    independent of the other seeds (with JAX's `rbg` generators in one `vmap` it is not).

    A seed ends after `steps`, or where `stop` finds that it has converged, or before a step whose
    loss, gradient or new weights are not finite: the learner stays as it was, `say` is told, and
    the other runs go on. `Training.require_finite` raises in that case.

    On a CPU each run has a core of its own, as many at once as there are cores; on an accelerator,
    or several devices, all runs are one `vmap`, sharded over the devices. Runs that need more than
    `memory` go in groups.

    Where JAX computes in float64 (`jax_enable_x64`), training and learners are of float64;
    elsewhere learners are of float32. An exact objective is minimised in float64 in any case.

    A checkpoint keeps the last two states, every few seconds, at the end, and when something stops
    the training. The same call goes on from there: weights and metrics are those of a training that
    was never stopped, bit for bit, on the same machine. `steps` may grow, unless the optimiser
    depends on it.

    Args:
        initialise: `initialise(key)`, a learner before training.
        task: What prompts are drawn from.
        optimiser: Any of Optax, those with line searches included, or an `Optimiser`, or its name,
            or a mapping of `kind` and parameters.
        steps: The number of steps.
        batch_size: The fresh prompts in a step.
        microbatches: The number of equal parts in which a batch is drawn and differentiated, one
            after the other. They need less memory, and less time if a part fits into a CPU's cache.
        seeds: Their number n, for seeds 0 … n - 1, or a sequence of seeds.
        key: A random key.
        vary: Values by the name of the axis: numbers, or pytrees by their labels.
        every: The steps of one compiled call, after which everything is measured.
        objective: What is minimised: an object, its name, or such a mapping.
        measure: `measure(learner, key)`, more numbers to measure during training, by name.
        stop: When a run has converged: an object, its name, or such a mapping.
        batching: "cores" or "vmap".
        memory: What may be taken, in bytes; what is free by default.
        progress: Called with the number of steps done.
        say: Called with a line on anything important; a warning by default.
        checkpoint: A folder for the states.
        description: Settings of the caller, in values that JSON has: kept in the states, and named
            where they differ from those of the caller.

    Returns:
        Learners and metrics, with the axes in the order of `vary`, then seeds.

    Raises:
        ValueError: if an argument is out of range or of the wrong type, nothing depends on a varied
            value, there is nothing to train, the gradient of a run is 0 in all of the first `every`
            steps, or the checkpoint cannot be written, is in use, or is of another training.
    """
    engine, runs = prepared(
        initialise,
        task,
        optimiser,
        steps=steps,
        batch_size=batch_size,
        microbatches=microbatches,
        seeds=seeds,
        key=key,
        vary=vary,
        every=every,
        objective=objective,
        measure=measure,
        stop=stop,
        batching=batching,
        memory=memory,
        description=description,
    )
    return engine.train(runs, progress=progress, say=say, checkpoint=checkpoint)


def prepared(
    initialise: Callable[..., Learner],
    task: Task | Callable[..., Task],
    optimiser: optax.GradientTransformation | Optimiser | str | Mapping | Callable[..., Any],
    *,
    steps: int,
    batch_size: int,
    microbatches: int,
    seeds: int | Sequence[int],
    key: Key[Array, ""],
    vary: Mapping[str, Axis] | None,
    every: int,
    objective: Objective | str | Mapping,
    measure: Measure | None,
    stop: StoppingRule | str | Mapping,
    batching: Batching | None = None,
    memory: float | None = None,
    description: Mapping[str, Any] | None = None,
    divided: bool | None = None,
) -> tuple[Engine, Grid]:
    """The programs of a training, not yet compiled, and its runs; see `train` and `Engine`."""
    for name, value in {"steps": steps, "every": every, "batch_size": batch_size}.items():
        count(name, value)
    if batch_size % count("microbatches", microbatches):
        raise InputError(
            f"batch_size={batch_size} is not divisible by microbatches={microbatches}."
        )
    if batching is not None:
        one_of("batching", batching, ("cores", "vmap"))
    if memory is not None:
        positive("memory", memory)
    vary = {} if vary is None else vary
    runs = grid(seeds, vary)
    if isinstance(optimiser, str | Mapping):
        optimiser = kinds.build("optimiser", optimiser)
    makers = _makers(initialise, task, optimiser, vary)

    def problem_at(values: Mapping[str, Any]) -> Problem:
        start, make_task, make_rule = makers(values)
        rule = make_rule()
        rule = rule.transformation(steps) if isinstance(rule, Optimiser) else rule
        return Problem(start, make_task(), rule, measure)

    columns = {n: list(v.values()) if isinstance(v, Mapping) else list(v) for n, v in vary.items()}
    first = {name: values[0] for name, values in columns.items()}
    # All values are tried here as they are, because traced ones pass checks
    changes = [first | {name: value} for name, values in columns.items() for value in values[1:]]
    problem, *_ = (_checked(problem_at(values), key) for values in (first, *changes))
    weights = size_of(lambda k: eqx.filter(problem.initialise(k), eqx.is_array), key)
    require_memory("initialise: the weights of all runs", len(runs) * weights)
    minimised = kinds.build("objective", objective)
    part = batch_size // microbatches
    if minimised.exact:
        tasks = (problem_at(values).task for values in combinations(columns))
        if not all(eqx.tree_equal(one, problem.task) for one in tasks):
            raise InputError("an exact objective is of one task; train tasks one after the other.")
        loss = minimised.loss(problem.task, batch_size)  # before anything is traced
    else:
        prompts_size(problem.task, key, part)
        loss = None
    plan = Plan(
        lambda run: problem_at(runs.values(run.varied)),
        lambda problem: loss or minimised.loss(problem.task, part),
        key,
        steps,
        batch_size,
        microbatches,
        every,
        minimised,
        kinds.build("stop", stop, task=problem.task),
        batching,
        memory,
        description or {},
    )
    return Engine(plan, divided=divided), runs


def _makers(initialise, task, optimiser, vary: Mapping[str, Axis]) -> Callable[[Mapping], list]:
    """From varied values: the functions that make a learner of a key, a task and an optimiser."""
    if isinstance(initialise, Learner) or not callable(initialise):
        given = type(initialise).__name__
        raise InputError(f"initialise must be a function of a key; got {given}.")
    functions = {
        "initialise": initialise,
        "task": task if callable(task) and not isinstance(task, Task) else lambda: task,
        "optimiser": optimiser if callable(optimiser) else lambda: optimiser,
    }
    accepted = {name: _accepted(name, function, vary) for name, function in functions.items()}
    if unused := set(vary).difference(*accepted.values()):
        raise InputError(f"nothing depends on {min(unused)}; take it as an argument of that name.")
    return lambda values: [
        functools.partial(function, **{n: values[n] for n in accepted[name]})
        for name, function in functions.items()
    ]


def _accepted(name: str, function: Any, vary: Mapping[str, Any]) -> set[str]:
    """What of the varied values a function has parameters for, behind the key of `initialise`.

    Raises:
        ValueError: if it needs more than those values.
    """
    parameters = list(inspect.signature(function).parameters.values())[name == "initialise" :]
    variadic = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    needed = [n for n, p in named.items() if p.default is p.empty and n not in vary]
    if needed:
        given = type(function).__name__
        raise InputError(f"{name} (a {given}) needs {', '.join(needed)}, which vary does not have.")
    return set(vary) if variadic else set(vary) & named.keys()


def _checked(problem: Problem, key: Key[Array, ""]) -> Problem:
    """The problem itself; raises `ValueError` unless it has a learner, a task and an optimiser."""
    if not isinstance(problem.task, Task):
        raise InputError(f"task must be a Task; got {type(problem.task).__name__}.")
    if not hasattr(problem.optimiser, "update"):
        given = type(problem.optimiser).__name__
        raise InputError(f"optimiser must be one of Optax, or an Optimiser; got {given}.")
    learner = eqx.filter_eval_shape(problem.initialise, key)
    if not isinstance(learner, Learner):
        raise InputError(f"initialise must return a Learner; got {type(learner).__name__}.")
    return problem
