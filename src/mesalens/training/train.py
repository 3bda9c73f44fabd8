"""`train`: any learner on fresh prompts at each step, from many seeds at once."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optax
from jaxtyping import Array, Key

from mesalens.checks import InputError, count
from mesalens.learners import Learner
from mesalens.tasks import Task
from mesalens.training.engine import Runs, Settings, train_runs
from mesalens.training.objective import Objective
from mesalens.training.parallel import Batching
from mesalens.training.problem import Measure, Problem
from mesalens.training.stopping import StoppingRule
from mesalens.training.training import Training


def warn(line: str) -> None:
    """Says a line where nobody said where it should go."""
    warnings.warn(line, stacklevel=2)


def train(
    initialise: Callable[[Key[Array, ""]], Learner],
    task: Task,
    optimiser: optax.GradientTransformation,
    *,
    steps: int,
    batch_size: int = 1024,
    microbatches: int = 1,
    seeds: int | Sequence[int] = 1,
    key: Key[Array, ""],
    every: int = 100,
    objective: Objective = "sampled",
    measure: Measure | None = None,
    stop: StoppingRule | None = None,
    batching: Batching | None = None,
    memory: float | None = None,
    progress: Callable[[int], object] | None = None,
    say: Callable[[str], object] = warn,
    checkpoint: Path | None = None,
    description: Mapping[str, Any] | None = None,
) -> Training:
    """Trains `initialise(key)` on the task by gradients of E‖ŷ - y_query‖², all seeds at once.

    With the `sampled` objective every step of every seed draws `batch_size` fresh prompts. With the `population` objective, for one
    layer of linear self-attention, gradients are those of the risk itself: batches have no part in it, weights start from the
    same values but are carried in float64, and the metrics have the exact `risk`. (The learners come back in float32, as prompts are;
    near the optimum that costs 1e-14 of the risk.) With `cross-entropy` predictions are logits, targets distributions over classes, and the
    loss of a fresh batch is -Σ_c y_c log softmax(ŷ)_c. The optimiser is any of Optax, those with
    line searches included.

    With `microbatches` a batch is drawn and differentiated in so many equal parts, one after the other, of which the mean is taken: it needs
    less memory, and less time where the parts fit into a CPU's cache and the whole does not. The prompts are others than with one part.

    `every` steps are one compiled call; before the first and after each such call `measure(learner, key)` is evaluated for every
    seed, with keys of its own. `progress` is called with the number of steps done. A number n of seeds means 0 … n - 1, a
    sequence those in it; seed i gets the same random numbers whatever its company (with JAX's `rbg` generators in one `vmap` it does not).

    After `steps` a seed ends, or before: where the rule `stop` finds that it has converged; or where its loss, gradient or new weights are not
    finite, in that step, which is not taken, so that the learner is as it was before. A line about that, as any other of importance, goes to `say`, a
    warning where it is not given. The others go on. `Training.require_finite` raises where that is not welcome.

    On a CPU each seed has a core of its own, as many at once as there are cores (`batching` "cores"); on an accelerator, or on several
    devices, all are one `vmap` ("vmap"), sharded over the devices. Where that needs more than `memory` bytes (what is free, where it is not given), they
    go in groups, and a line says so.

    In a folder `checkpoint` the state is kept, every few seconds, at the end, and whenever something stops the training. The same call of
    `train` with that folder then goes on from there: weights and metrics are those of a training that was never stopped, bit for bit, on the same
    machine. `steps` may grow (where they were no multiple of `every`, the metrics keep the point at which they ended); the optimiser's
    schedules must not depend on them then. The last two states are kept; one that is damaged, with a line, gives way to the one before. `description` has
    settings of the caller, in values that JSON has: they are kept too, and named where they differ.

    Raises `ValueError` for sizes below 1, a batch that cannot be parted so, seeds that are no different whole numbers, a learner with nothing to train, a seed whose
    gradient is 0 at each of the first `every` steps, or a folder that cannot be written, is in use by another process, or keeps the states of another training,
    of more steps, or damaged ones alone.
    """
    problem = Problem(initialise, task, optimiser, measure)
    shared = Settings(steps, batch_size, microbatches, every, objective, stop, batching, memory, description or {})
    runs = Runs(seed_numbers(seeds), {}, {})
    return train_runs(lambda _: problem, runs, key, shared, checkpoint=checkpoint, progress=progress, say=say)


def seed_numbers(seeds: int | Sequence[int]) -> list[int]:
    """The seeds that are meant: 0 … n - 1, or those of the sequence; raises where these are no different whole numbers."""
    if not isinstance(seeds, Sequence):
        return list(range(count("seeds", seeds)))
    numbers = [count("a seed", seed, at_least=0) for seed in seeds]
    # The last number of 32 bits is that of measurements, see `mesalens.random.measurement_key`
    if not numbers or len(set(numbers)) < len(numbers) or max(numbers) >= 2**32 - 1:
        raise InputError(f"seeds are {seeds!r}; give one or more different whole numbers below {2**32 - 1}.")
    return numbers
