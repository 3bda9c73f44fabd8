"""The training loop: any learner, fresh prompts at each step, many seeds in one compiled call."""

from collections.abc import Callable
from dataclasses import dataclass
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

Measure = Callable[[Any, Key[Array, ""]], dict[str, Float[Array, ""]]]


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


def batch_loss(learner: Learner, task: Task, key: Key[Array, ""], batch_size: int) -> Float[Array, ""]:
    """Mean over a fresh batch of ‖ŷ - y_query‖²: the sampled objective."""
    prompts, targets = task.sample(key, (batch_size,))
    return jnp.mean(jnp.sum((jax.vmap(learner)(prompts) - targets) ** 2, axis=-1))


def train(
    initialise: Callable[[Key[Array, ""]], Learner],
    task: Task,
    optimiser: optax.GradientTransformation,
    *,
    steps: int,
    batch_size: int,
    seeds: int = 1,
    key: Key[Array, ""],
    every: int = 100,
    measure: Measure | None = None,
    progress: Callable[[int], object] | None = None,
) -> Training:
    """Trains `initialise(key)` on the task by stochastic gradients of E‖ŷ - y_query‖², all seeds at once.

    Every step of every seed draws `batch_size` fresh prompts. `every` steps are one compiled call; before the first and after
    each such call `measure(learner, key)` is evaluated for every seed, with keys of its own. `progress` is called with the
    number of steps done. Seed i gets the same numbers whatever the number of seeds.

    Raises `ValueError` for sizes below 1 or a learner with nothing to train, `TrainingDivergedError` at the first loss that is
    not finite.
    """
    for name, value in (("steps", steps), ("batch_size", batch_size), ("seeds", seeds), ("every", every)):
        count(name, value)

    @eqx.filter_jit
    def begin(key):
        """The learners of all seeds, split into what is trained and what is not, and two keys for each seed."""
        seed_keys = jax.vmap(jax.random.fold_in, (None, 0))(unroll(key), jnp.arange(seeds))
        start_keys, data_keys, measure_keys = jnp.moveaxis(jax.vmap(lambda k: jax.random.split(k, 3))(seed_keys), 1, 0)
        learners = eqx.filter_vmap(initialise)(start_keys)
        parameters, frozen = eqx.partition(learners, learners.trainable())
        if not jax.tree.leaves(parameters):
            raise InputError(f"{type(learners).__name__} has no trainable arrays; there is nothing to train.")
        return parameters, frozen, jax.vmap(optimiser.init)(parameters), data_keys, measure_keys

    parameters, frozen, optimiser_state, data_keys, measure_keys = begin(key)

    def update(carry, data_key):
        """One step of one seed."""
        parameters, frozen, optimiser_state = carry
        loss, gradients = jax.value_and_grad(lambda p: batch_loss(eqx.combine(p, frozen), task, data_key, batch_size))(
            parameters
        )
        changes, optimiser_state = optimiser.update(gradients, optimiser_state, parameters)
        return (optax.apply_updates(parameters, changes), frozen, optimiser_state), loss

    @eqx.filter_jit(donate="all")
    def advance(parameters, frozen, optimiser_state, step_numbers):
        """Many steps of all seeds; returns the loss of each."""

        def step(carry, number):
            keys = jax.vmap(jax.random.fold_in, (0, None))(data_keys, number)
            return _over_seeds(update, seeds)(carry, keys)

        return jax.lax.scan(step, (parameters, frozen, optimiser_state), step_numbers)

    @eqx.filter_jit
    def evaluate(parameters, frozen, number):
        if measure is None:
            return {}
        keys = jax.vmap(jax.random.fold_in, (0, None))(measure_keys, number)
        return _over_seeds(measure, seeds)(eqx.combine(parameters, frozen), keys)

    checkpoints, losses = [0], [np.full(seeds, np.nan)]
    measured = [jax.device_get(evaluate(parameters, frozen, jnp.array(0)))]
    while checkpoints[-1] < steps:
        first, last = checkpoints[-1], min(checkpoints[-1] + every, steps)
        (parameters, frozen, optimiser_state), batch_losses = advance(
            parameters, frozen, optimiser_state, jnp.arange(first, last)
        )
        _require_finite(np.asarray(batch_losses), parameters, first)
        checkpoints.append(last)
        losses.append(np.asarray(batch_losses, np.float64).mean(axis=0))
        measured.append(jax.device_get(evaluate(parameters, frozen, jnp.array(last))))
        if progress is not None:
            progress(last)

    curves = {name: np.stack([at[name] for at in measured], axis=1) for name in measured[0]}
    metrics = xr.Dataset(
        {name: (("seed", "step"), values) for name, values in {"loss": np.stack(losses, axis=1), **curves}.items()},
        coords={"seed": np.arange(seeds), "step": checkpoints},
    )
    return Training(eqx.combine(parameters, frozen), metrics)


def _over_seeds(function: Callable, seeds: int) -> Callable:
    """`vmap` over the leading axis. XLA shares the work of a CPU's cores along that axis, so one seed goes without it."""
    if seeds > 1:
        return eqx.filter_vmap(function)

    def of_one(*arguments):
        first = jax.tree.map(lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, arguments)
        return jax.tree.map(lambda leaf: leaf[None] if eqx.is_array(leaf) else leaf, function(*first))

    return of_one


def _require_finite(batch_losses: Float[np.ndarray, "steps seeds"], parameters: PyTree, first: int) -> None:
    """Raises at the first step, counted from 1, whose loss is not finite, or whose update left weights that are not."""
    broken = ~np.isfinite(batch_losses)
    if broken.any():
        step, seed = np.argwhere(broken)[0]
    else:
        finite = np.all(
            [np.isfinite(leaf).reshape(len(leaf), -1).all(1) for leaf in jax.tree.leaves(parameters)], axis=0
        )
        if finite.all():
            return
        step, seed = len(batch_losses) - 1, np.argmin(finite)
    raise TrainingDivergedError(
        f"training diverged: the loss or the weights were not finite at step {first + step + 1} (seed {seed}); "
        "lower the learning rate, the initial scale or the scale of the task."
    )
