"""`Problem`: what one run trains; and its steps, as a function that JAX compiles."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from mesalens.tasks import Task
from mesalens.training.objectives.base import Loss

Measure = Callable[[Any, Key[Array, ""]], Mapping[str, Any]]
"""`measure(learner, key)`: numbers by name, measured during training."""


class Problem(NamedTuple):
    """What a run trains, on what, how, and what is measured during training."""

    initialise: Callable[[Key[Array, ""]], Any]
    task: Task
    optimiser: optax.GradientTransformation
    measure: Measure | None = None


class State(NamedTuple):
    """Where a run stands. It ended at step `diverged_at` or `converged_at`, if one is not 0."""

    parameters: PyTree
    frozen: PyTree
    optimiser_state: PyTree
    diverged_at: Int[Array | np.ndarray, "*runs"]
    converged_at: Int[Array | np.ndarray, "*runs"]

    def running(self) -> Bool[Array | np.ndarray, "*runs"]:
        """Whether the run goes on."""
        return (self.diverged_at == 0) & (self.converged_at == 0)


def take_steps(
    problem: Problem,
    loss: Loss,
    microbatches: int,
    static: PyTree,
    data_key: Key[Array, ""],
    state: State,
    numbers: Any,
    fixed_prompts: bool = False,
) -> tuple[State, tuple[Float[Array, " steps"], Float[Array, " steps"]]]:
    """The state after the steps of these numbers, and each step's loss and norm of the gradient.

    With `fixed_prompts` all steps draw with the same key. A step whose loss, gradient or new
    weights are not finite is not taken, and is the last.
    """
    optimiser = optax.with_extra_args_support(problem.optimiser)

    def step(state: State, number):
        key = data_key if fixed_prompts else jax.random.fold_in(data_key, number)

        def loss_of_part(parameters, key):
            return loss(eqx.combine(parameters, state.frozen, static), key)

        def loss_of_batch(parameters):
            return mean_over_parts(loss_of_part, microbatches)(parameters, key)

        loss_and_gradient = mean_over_parts(jax.value_and_grad(loss_of_part), microbatches)
        value, gradient = loss_and_gradient(state.parameters, key)
        updates, optimiser_state = optimiser.update(
            gradient,
            state.optimiser_state,
            state.parameters,
            value=value,
            grad=gradient,
            value_fn=loss_of_batch,
        )
        parameters = optax.apply_updates(state.parameters, updates)
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(value) & jnp.isfinite(norm) & _all_finite(parameters)
        running = state.running()
        parameters, optimiser_state = jax.tree.map(
            lambda new, old: jnp.where(running & finite, new, old),
            (parameters, optimiser_state),
            (state.parameters, state.optimiser_state),
        )
        diverged_at = jnp.where(
            running & ~finite, jnp.asarray(number + 1, jnp.int32), state.diverged_at
        )
        after = State(parameters, state.frozen, optimiser_state, diverged_at, state.converged_at)
        return after, (jnp.where(running, value, jnp.nan), jnp.where(running, norm, jnp.nan))

    return jax.lax.scan(step, state, numbers)


def mean_over_parts(function: Callable, parts: int) -> Callable:
    """`function(subject, key)` averaged over the keys into which a key is split, one by one."""
    if parts == 1:
        return function

    def mean(subject, key):
        def add(total, part_key):
            return jax.tree.map(jnp.add, total, function(subject, part_key)), None

        shapes = jax.eval_shape(function, subject, key)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, jax.random.split(key, parts))
        return jax.tree.map(lambda leaf: leaf / parts, total)

    return mean


def _all_finite(tree: PyTree) -> Bool[Array, ""]:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
