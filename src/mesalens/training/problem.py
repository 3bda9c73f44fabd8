"""`Problem`: what one run trains; and what one run does, as functions that JAX compiles."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from mesalens.learners import Learner
from mesalens.tasks import Task
from mesalens.training.objective import Loss

Measure = Callable[[Any, Key[Array, ""]], Mapping[str, Any]]


class Problem(NamedTuple):
    """What a run trains, on what, and how; `measure(learner, key)` is what is looked at meanwhile."""

    initialise: Callable[[Key[Array, ""]], Learner]
    task: Task
    optimiser: optax.GradientTransformation
    measure: Measure | None = None


class State(NamedTuple):
    """Where a run stands. It has ended at the step `diverged_at` or `converged_at`, counted from 1; 0 is not yet."""

    parameters: PyTree
    frozen: PyTree
    optimiser_state: PyTree
    diverged_at: Int[Array, "*runs"]
    converged_at: Int[Array, "*runs"]

    def running(self) -> Bool[Array, "*runs"]:
        """Whether the run goes on."""
        return (self.diverged_at == 0) & (self.converged_at == 0)


def steps_of_one(
    problem: Problem,
    loss: Loss,
    microbatches: int,
    static: PyTree,
    data_key: Key[Array, ""],
    state: State,
    numbers: Any,
) -> tuple[State, tuple[Float[Array, " steps"], Float[Array, " steps"]]]:
    """The steps of these numbers; returns the loss and the norm of the gradient of each.

    A step whose loss, gradient or new weights are not finite is not taken, and is the last.
    """
    optimiser = optax.with_extra_args_support(problem.optimiser)

    def step(state: State, number):
        key = jax.random.fold_in(data_key, number)

        def of_part(parameters, key):
            return loss(eqx.combine(parameters, state.frozen, static), key)

        def value(parameters):
            return mean_over_parts(of_part, microbatches)(parameters, key)

        now, gradients = mean_over_parts(jax.value_and_grad(of_part), microbatches)(state.parameters, key)
        changes, optimiser_state = optimiser.update(
            gradients, state.optimiser_state, state.parameters, value=now, grad=gradients, value_fn=value
        )
        parameters, norm = optax.apply_updates(state.parameters, changes), optax.tree.norm(gradients)
        finite = jnp.isfinite(now) & jnp.isfinite(norm) & _all_finite(parameters)
        running = state.running()
        taken = running & finite
        kept = jax.tree.map(
            lambda new, old: jnp.where(taken, new, old),
            (parameters, optimiser_state),
            (state.parameters, state.optimiser_state),
        )
        diverged_at = jnp.where(running & ~finite, jnp.asarray(number + 1, jnp.int32), state.diverged_at)
        after = State(kept[0], state.frozen, kept[1], diverged_at, state.converged_at)
        return after, (jnp.where(running, now, jnp.nan), jnp.where(running, norm, jnp.nan))

    return jax.lax.scan(step, state, numbers)


def mean_over_parts(function: Callable, parts: int) -> Callable:
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


def _all_finite(tree: PyTree) -> Bool[Array, ""]:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
