"""`train`: trains any learner, for many seeds and settings at once."""

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
from mesalens.checks import InputError, count, one_of, positive, random_key
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
    """Trains learners by gradient descent: one run for each seed and each combination of `vary`.

    **Several settings.** With `vary`, all combinations of the values are one compiled program.
    `initialise` (after the key), `task` and `optimiser` may be functions of the varied values: each
    is called with those values that its signature names. JAX traces these calls, so a number
    arrives as an array without dimensions; of a pytree (a task, weights) only the leaves that
    differ along the axis are traced.

    **Random numbers.** A seed uses the same keys for every combination of values, so these are
    compared on the same prompts. A run does not depend on the other seeds (except with JAX's `rbg`
    generators in one `vmap`).

    **How a run ends.** After `steps`, or when `stop` says that it has converged, or before a step
    whose loss, gradient or new weights are not finite. Then the learner keeps its last finite
    weights, `say` gets a message, and the other runs continue. `Training.require_finite` raises an
    error for such runs.

    **Where runs are computed.** On a CPU each run has one core, and as many run at once as there
    are cores. On an accelerator, or on several devices, all runs are one `vmap`, sharded over the
    devices. Runs that need more than `memory` are trained in groups.

    **Precision.** Float32, or float64 if JAX computes in float64 (`jax_enable_x64`). Exact
    objectives are always minimised in float64.

    **Checkpoints.** The last two states are saved every few seconds, at the end, and when the
    training is stopped. The same call continues from the last one, and gives the same weights and
    metrics as a training that was never stopped, bit for bit on the same machine. `steps` may be
    increased, unless the optimiser depends on it.

    Args:
        initialise: `initialise(key)` returns a learner before training.
        task: The distribution of prompts.
        optimiser: An optimiser of Optax (also one with a line search), an `Optimiser`, its name, or
            a mapping of `kind` and parameters.
        steps: The number of steps.
        batch_size: The number of fresh prompts in a step.
        microbatches: The number of equal parts into which a batch is split. They are computed one
            after the other, which needs less memory, and is faster if a part fits in the cache.
        seeds: The number n of seeds (0 to n - 1), or a sequence of seeds.
        key: A random key.
        vary: The values along each axis, by name: a list of numbers, or a mapping of labels to
            pytrees.
        every: The number of steps between measurements. Everything between two of them is one
            compiled call.
        objective: What is minimised: an `Objective`, its name, or a mapping of `kind` and
            parameters.
        measure: `measure(learner, key)` returns more numbers to measure, by name.
        stop: When a run has converged: a `StoppingRule`, its name, or a mapping of `kind` and
            parameters.
        batching: "cores" or "vmap"; by default as described above.
        memory: The memory to use, in bytes; by default what is free.
        progress: Called with the number of steps done.
        say: Called with messages, such as that a run diverged; by default issues a warning.
        checkpoint: A folder for the states; by default none are saved.
        description: Settings of the caller, as JSON values. They are saved with the states, and an
            error names those that differ when a training is resumed.

    Returns:
        Learners and metrics, with one axis for each name in `vary`, then the axis of seeds.

    Raises:
        ValueError: if an argument is out of range or has the wrong type, nothing depends on a
            varied value, there is nothing to train, the gradient of a run is 0 in all of the first
            `every` steps, or the checkpoint cannot be written, is in use, or belongs to another
            training.

    Examples:
        >>> import mesalens as ml
        >>> task = ml.tasks.RegressionTask(
        ...     ml.tasks.Gaussian(2), ml.tasks.LinearFunctions(2), context_length=4
        ... )
        >>> def initialise(key):
        ...     return ml.LinearTransformer.initialise(2, key=key)
        >>> options = {"steps": 20, "batch_size": 16, "every": 10, "key": ml.random.key(0)}
        >>> run = ml.train(initialise, task, ml.training.Adam(1e-3), seeds=2, **options)
        >>> run.metrics.loss.shape
        (2, 3)

        With two learning rates, in one program:

        >>> rates = {"learning_rate": [1e-3, 3e-3]}
        >>> run = ml.train(initialise, task, ml.training.Adam, vary=rates, **options)
        >>> run.metrics.loss.dims
        ('learning_rate', 'seed', 'step')
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
    """The programs of a training, not yet compiled, and its runs; see `train`."""
    for name, value in {"steps": steps, "every": every, "batch_size": batch_size}.items():
        count(name, value)
    random_key(key)
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
    # All values are tried here, because traced ones pass every check
    changes = [first | {name: value} for name, values in columns.items() for value in values[1:]]
    problem, *_ = (_checked(problem_at(values), key) for values in (first, *changes))
    weights = size_of(lambda k: eqx.filter(problem.initialise(k), eqx.is_array), key)
    require_memory("initialise: the weights of all runs", len(runs) * weights)
    minimised = kinds.build("objective", objective)
    part = batch_size // microbatches
    if minimised.exact:
        tasks = (problem_at(values).task for values in combinations(columns))
        if not all(eqx.tree_equal(one, problem.task) for one in tasks):
            raise InputError(
                "an exact objective needs one task, but vary changes it; train the tasks one "
                "after the other."
            )
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
        raise InputError(
            f"nothing depends on {min(unused)}, which vary has; give initialise, task or optimiser "
            "a parameter of that name."
        )
    return lambda values: [
        functools.partial(function, **{n: values[n] for n in accepted[name]})
        for name, function in functions.items()
    ]


def _accepted(name: str, function: Any, vary: Mapping[str, Any]) -> set[str]:
    """The varied values for which a function has parameters (after the key of `initialise`).

    Raises:
        ValueError: if it has other parameters without defaults.
    """
    parameters = list(inspect.signature(function).parameters.values())[name == "initialise" :]
    variadic = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    needed = [n for n, p in named.items() if p.default is p.empty and n not in vary]
    if needed:
        given = type(function).__name__
        raise InputError(
            f"{name} (a {given}) has the parameters {', '.join(needed)}, which vary does not have."
        )
    return set(vary) if variadic else set(vary) & named.keys()


def _checked(problem: Problem, key: Key[Array, ""]) -> Problem:
    """The problem, after a check of the types of its learner, task and optimiser."""
    if not isinstance(problem.task, Task):
        raise InputError(f"task must be a Task; got {type(problem.task).__name__}.")
    if not hasattr(problem.optimiser, "update"):
        given = type(problem.optimiser).__name__
        raise InputError(f"optimiser must be an optimiser of Optax or an Optimiser; got {given}.")
    learner = eqx.filter_eval_shape(problem.initialise, key)
    if not isinstance(learner, Learner):
        raise InputError(f"initialise must return a Learner; got {type(learner).__name__}.")
    return problem
