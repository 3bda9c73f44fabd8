"""The training loop: any learner, fresh prompts at each step, many seeds in one compiled call."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, Key, PyTree

from mesalens.checks import InputError, count
from mesalens.learners import Learner
from mesalens.random import unroll
from mesalens.tasks import Task
from mesalens.training.checkpoint import Checkpoint, fingerprint
from mesalens.training.objective import Objective, loss_of
from mesalens.training.seeds import in_one_vmap, over_seeds, seed_numbers

Measure = Callable[[Any, Key[Array, ""]], Mapping[str, Any]]


class TrainingDivergedError(ArithmeticError):
    """The loss or the weights were not finite; the message names the step and the seed."""


@dataclass(frozen=True)
class Training:
    """What training leaves.

    `learners` is one pytree, its trained arrays with a leading axis of seeds; `learner(i)` takes one out, `eqx.filter_vmap` maps
    over all. `metrics` has the dimensions seed and step: `loss`, the mean loss of the batches since the step before (at step 0
    there is none), and whatever was measured.
    """

    learners: PyTree
    metrics: xr.Dataset

    def learner(self, seed: int = 0) -> Any:
        """The learner of one seed, by its place."""
        return jax.tree.map(lambda leaf: leaf[seed] if eqx.is_array(leaf) else leaf, self.learners)


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
    progress: Callable[[int], object] | None = None,
    checkpoint: Path | None = None,
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
    sequence those in it; seed i gets the same random numbers whatever its company.

    Where a folder `checkpoint` is given, each such call leaves there all that the next one needs. The same call of `train` with that
    folder then goes on from there: weights and metrics are those of a training that was never stopped, bit for bit, on the same
    machine. `steps` may grow (where they were no multiple of `every`, the metrics keep the point at which they ended); the optimiser's
    schedules must not depend on them then.

    Raises `ValueError` for sizes below 1, a batch that cannot be parted so, seeds that are no different whole numbers, a learner with nothing to train, a seed whose
    gradient is 0 at each of the first `every` steps, or a checkpoint that is damaged, of another training or of more steps;
    `TrainingDivergedError` at the first loss that is not finite.
    """
    for name, value in (("steps", steps), ("every", every)):
        count(name, value)
    numbers = seed_numbers(seeds)
    if batch_size % count("microbatches", microbatches):
        raise InputError(f"a batch of {batch_size} has no {microbatches} equal parts; give a divisor of its size.")
    of_part = loss_of(objective, task, batch_size // microbatches)
    loss = _mean_over_parts(of_part, microbatches)
    optimiser = optax.with_extra_args_support(optimiser)
    together = objective == "population" or jax.default_backend() != "cpu"

    @eqx.filter_jit
    def begin(key):
        """The learners of all seeds, and two keys for each seed."""
        seed_keys = jax.vmap(jax.random.fold_in, (None, 0))(unroll(key), jnp.asarray(numbers, jnp.uint32))
        start_keys, data_keys, measure_keys = jnp.moveaxis(jax.vmap(lambda k: jax.random.split(k, 3))(seed_keys), 1, 0)
        learners = eqx.filter_vmap(initialise)(start_keys)
        # Arrays made of Python numbers have a weak type, which the first step would change: all would be compiled twice
        strong = jax.tree.map(lambda leaf: leaf.astype(leaf.dtype) if eqx.is_inexact_array(leaf) else leaf, learners)
        return strong, data_keys, measure_keys

    def update(carry, data_key):
        """One step of one seed."""
        parameters, frozen, optimiser_state = carry

        def value(parameters):
            return loss(eqx.combine(parameters, frozen, static), data_key)

        def of_one(parameters, key):
            return of_part(eqx.combine(parameters, frozen, static), key)

        if microbatches == 1:
            now, gradients = jax.value_and_grad(value)(parameters)
        else:
            now, gradients = _mean_over_parts(jax.value_and_grad(of_one), microbatches)(parameters, data_key)
        changes, optimiser_state = optimiser.update(
            gradients, optimiser_state, parameters, value=now, grad=gradients, value_fn=value
        )
        return (optax.apply_updates(parameters, changes), frozen, optimiser_state), (now, optax.tree.norm(gradients))

    def steps_of_one(data_key, state, step_numbers):
        """Many steps of one seed; returns the loss and the norm of the gradient of each."""
        return jax.lax.scan(lambda carry, n: update(carry, jax.random.fold_in(data_key, n)), state, step_numbers)

    def measured(measure_key, state, number):
        parameters, frozen, _ = state
        learner, key = eqx.combine(parameters, frozen, static), jax.random.fold_in(measure_key, number)
        risk = {"risk": loss(learner, key)} if objective == "population" else {}
        return risk | ({} if measure is None else dict(measure(learner, key)))

    advance = over_seeds(steps_of_one, len(numbers), together=together, donate=True)
    evaluate = over_seeds(measured, len(numbers), together=together)

    learners, data_keys, measure_keys = begin(key)
    initialisation = None if checkpoint is None else fingerprint(begin, key)
    with jax.enable_x64(objective == "population"):
        if objective == "population":
            learners = in_precision(learners, jnp.float64)
        parameters, others = eqx.partition(learners, learners.trainable())
        frozen, static = eqx.partition(
            others, eqx.is_array
        )  # activations and the like cannot be carried through a loop
        if not jax.tree.leaves(parameters):
            raise InputError(f"{type(learners).__name__} has no trainable arrays; there is nothing to train.")
        state = parameters, frozen, eqx.filter_jit(jax.vmap(optimiser.init))(parameters)

        kept = found = None
        if checkpoint is not None:
            names = eqx.filter_eval_shape(in_one_vmap(measured), measure_keys, state, jnp.array(0))
            kept = Checkpoint(
                Path(checkpoint),
                {
                    "objective": objective,
                    "key": jax.random.key_data(unroll(key)).tolist(),
                    "seeds": numbers,
                    "batch_size": batch_size,
                    "every": every,
                    "metrics": sorted({"loss", *names}),
                    "initial weights, learner or version of JAX": initialisation,
                    "task, learner, optimiser or version of JAX": fingerprint(
                        in_one_vmap(steps_of_one), data_keys, state, jnp.arange(1)
                    ),
                    "measure or version of JAX": fingerprint(in_one_vmap(measured), measure_keys, state, jnp.array(0)),
                },
            )
            found = kept.load(state, steps)
        if found is None:
            now = {"loss": np.full(len(numbers), np.nan)} | evaluate(measure_keys, state, jnp.array(0))
            points, metrics = [0], {name: np.asarray(values)[:, None] for name, values in now.items()}
        else:
            points, state, metrics = found
        while points[-1] < steps:
            first, last = points[-1], min((points[-1] // every + 1) * every, steps)
            state, (batch_losses, norms) = advance(data_keys, state, jnp.arange(first, last))
            _require_finite(np.asarray(batch_losses), state[0], first, numbers)
            if first == 0:
                _require_gradient(np.asarray(norms), numbers)
            now = {"loss": np.asarray(batch_losses, np.float64).mean(axis=1)}
            now |= evaluate(measure_keys, state, jnp.array(last))
            points.append(last)
            metrics = {name: np.column_stack((values, now[name])) for name, values in metrics.items()}
            if kept is not None:
                kept.save(points, state, metrics)
            if progress is not None:
                progress(last)

    dataset = xr.Dataset(
        {name: (("seed", "step"), values) for name, values in metrics.items()},
        coords={"seed": numbers, "step": points},
    )
    return Training(in_precision(eqx.combine(state[0], state[1], static), jnp.float32), dataset)


def _mean_over_parts(function: Callable, parts: int) -> Callable:
    """The mean of what a function of something and a key gives for each of the keys that a key is split into, one after the other."""
    if parts == 1:
        return function

    def mean(subject, key):
        def add(total, part_key):
            return jax.tree.map(jnp.add, total, function(subject, part_key)), None

        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, subject, key))
        total, _ = jax.lax.scan(add, nothing, jax.random.split(key, parts))
        return jax.tree.map(lambda leaf: leaf / parts, total)

    return mean


def in_precision(learners: PyTree, dtype: Any) -> PyTree:
    """The same learners, with floating-point arrays of the given type."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, learners)


def _require_finite(
    batch_losses: Float[np.ndarray, "seeds steps"], parameters: PyTree, first: int, numbers: list[int]
) -> None:
    """Raises at the first step, counted from 1, whose loss is not finite, or whose update left weights that are not."""
    broken = ~np.isfinite(batch_losses)
    if broken.any():
        step, seed = np.argwhere(broken.T)[0]
    else:
        finite = np.all(
            [np.isfinite(leaf).reshape(len(leaf), -1).all(1) for leaf in jax.tree.leaves(parameters)], axis=0
        )
        if finite.all():
            return
        step, seed = batch_losses.shape[1] - 1, np.argmin(finite)
    raise TrainingDivergedError(
        f"training diverged: the loss or the weights were not finite at step {first + step + 1} (seed {numbers[seed]}); "
        "lower the learning rate, the initial scale or the scale of the task."
    )


def _require_gradient(norms: Float[np.ndarray, "seeds steps"], numbers: list[int]) -> None:
    """Raises where the gradient of a seed is 0 at every step, so that nothing moves it."""
    dead = ~norms.any(axis=1)
    if dead.any():
        raise InputError(
            f"the gradient is 0 at each of the first {norms.shape[1]} steps (seed {numbers[np.argmax(dead)]}), so that nothing is learned; "
            "raise the activation clip, or start from weights that are not all 0."
        )
