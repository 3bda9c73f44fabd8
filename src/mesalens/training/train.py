"""The training loop: any learner, fresh prompts at each step, many seeds in one compiled call."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, Key, PyTree

from mesalens.checks import InputError, count, one_of
from mesalens.learners import Learner
from mesalens.random import unroll
from mesalens.tasks import Task
from mesalens.training.objective import Objective, population, sampled

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


def train(
    initialise: Callable[[Key[Array, ""]], Learner],
    task: Task,
    optimiser: optax.GradientTransformation,
    *,
    steps: int,
    batch_size: int = 1024,
    seeds: int = 1,
    key: Key[Array, ""],
    every: int = 100,
    objective: Objective = "sampled",
    measure: Measure | None = None,
    progress: Callable[[int], object] | None = None,
) -> Training:
    """Trains `initialise(key)` on the task by gradients of E‖ŷ - y_query‖², all seeds at once.

    With the `sampled` objective every step of every seed draws `batch_size` fresh prompts. With the `population` objective, for one
    layer of linear self-attention, gradients are those of the risk itself: batches have no part in it, weights start from the
    same values but are carried in float64, and the metrics have the exact `risk`. (The learners come back in float32, as prompts are;
    near the optimum that costs 1e-14 of the risk.) The optimiser is any of Optax, those with
    line searches included.

    `every` steps are one compiled call; before the first and after each such call `measure(learner, key)` is evaluated for every
    seed, with keys of its own. `progress` is called with the number of steps done. Seed i gets the same numbers whatever the
    number of seeds.

    Raises `ValueError` for sizes below 1, a learner with nothing to train, or a seed whose gradient is 0 at each of the first `every`
    steps; `TrainingDivergedError` at the first loss that is not finite.
    """
    for name, value in (("steps", steps), ("seeds", seeds), ("every", every)):
        count(name, value)
    one_of("objective", objective, get_args(Objective))
    loss = population(task) if objective == "population" else sampled(task, batch_size)
    optimiser = optax.with_extra_args_support(optimiser)

    @eqx.filter_jit
    def begin(key):
        """The learners of all seeds, and two keys for each seed."""
        seed_keys = jax.vmap(jax.random.fold_in, (None, 0))(unroll(key), jnp.arange(seeds))
        start_keys, data_keys, measure_keys = jnp.moveaxis(jax.vmap(lambda k: jax.random.split(k, 3))(seed_keys), 1, 0)
        return eqx.filter_vmap(initialise)(start_keys), data_keys, measure_keys

    def update(carry, data_key):
        """One step of one seed."""
        parameters, frozen, optimiser_state = carry

        def value(parameters):
            return loss(eqx.combine(parameters, frozen), data_key)

        now, gradients = jax.value_and_grad(value)(parameters)
        changes, optimiser_state = optimiser.update(
            gradients, optimiser_state, parameters, value=now, grad=gradients, value_fn=value
        )
        return (optax.apply_updates(parameters, changes), frozen, optimiser_state), (now, optax.tree.norm(gradients))

    @eqx.filter_jit(donate="all")
    def advance(parameters, frozen, optimiser_state, data_keys, step_numbers):
        """Many steps of all seeds; returns the loss and the norm of the gradient of each."""

        def step(carry, number):
            keys = jax.vmap(jax.random.fold_in, (0, None))(data_keys, number)
            return _over_seeds(update, seeds)(carry, keys)

        return jax.lax.scan(step, (parameters, frozen, optimiser_state), step_numbers)

    def measured(learner, key):
        risk = {"risk": loss(learner, key)} if objective == "population" else {}
        return risk | ({} if measure is None else measure(learner, key))

    @eqx.filter_jit
    def evaluate(parameters, frozen, measure_keys, number):
        keys = jax.vmap(jax.random.fold_in, (0, None))(measure_keys, number)
        return _over_seeds(measured, seeds)(eqx.combine(parameters, frozen), keys)

    learners, data_keys, measure_keys = begin(key)
    with jax.enable_x64(objective == "population"):
        if objective == "population":
            learners = in_precision(learners, jnp.float64)
        parameters, frozen = eqx.partition(learners, learners.trainable())
        if not jax.tree.leaves(parameters):
            raise InputError(f"{type(learners).__name__} has no trainable arrays; there is nothing to train.")
        optimiser_state = eqx.filter_jit(jax.vmap(optimiser.init))(parameters)

        checkpoints, losses = [0], [np.full(seeds, np.nan)]
        curves = [jax.device_get(evaluate(parameters, frozen, measure_keys, jnp.array(0)))]
        while checkpoints[-1] < steps:
            first, last = checkpoints[-1], min(checkpoints[-1] + every, steps)
            (parameters, frozen, optimiser_state), (batch_losses, norms) = advance(
                parameters, frozen, optimiser_state, data_keys, jnp.arange(first, last)
            )
            _require_finite(np.asarray(batch_losses), parameters, first)
            if first == 0:
                _require_gradient(np.asarray(norms))
            checkpoints.append(last)
            losses.append(np.asarray(batch_losses, np.float64).mean(axis=0))
            curves.append(jax.device_get(evaluate(parameters, frozen, measure_keys, jnp.array(last))))
            if progress is not None:
                progress(last)

    values = {"loss": np.stack(losses, axis=1)} | {
        name: np.stack([at[name] for at in curves], axis=1) for name in curves[0]
    }
    metrics = xr.Dataset(
        {name: (("seed", "step"), of_name) for name, of_name in values.items()},
        coords={"seed": np.arange(seeds), "step": checkpoints},
    )
    return Training(in_precision(eqx.combine(parameters, frozen), jnp.float32), metrics)


def in_precision(learners: PyTree, dtype: Any) -> PyTree:
    """The same learners, with floating-point arrays of the given type."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, learners)


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


def _require_gradient(norms: Float[np.ndarray, "steps seeds"]) -> None:
    """Raises where the gradient of a seed is 0 at every step, so that nothing moves it."""
    dead = ~norms.any(axis=0)
    if dead.any():
        raise InputError(
            f"the gradient is 0 at each of the first {len(norms)} steps (seed {np.argmax(dead)}), so that nothing is learned; "
            "raise the activation clip, or start from weights that are not all 0."
        )
