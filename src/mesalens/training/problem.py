"""`Problem`: what one run trains, and `take_steps`, which JAX compiles."""

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
"""`measure(learner, key)` returns numbers by name, measured during training."""


class Problem(NamedTuple):
    """What one run trains.

    Attributes:
        initialise: `initialise(key)` returns the learner before training.
        task: The distribution of prompts.
        optimiser: The optimiser of Optax.
        measure: `measure(learner, key)` returns more numbers to measure, by name; None for none.
    """

    initialise: Callable[[Key[Array, ""]], Any]
    task: Task
    optimiser: optax.GradientTransformation
    measure: Measure | None = None


class State(NamedTuple):
    """The state of a run. If `diverged_at` or `converged_at` is not 0, it ended at that step."""

    parameters: PyTree
    frozen: PyTree
    optimiser_state: PyTree
    diverged_at: Int[Array | np.ndarray, "*runs"]
    converged_at: Int[Array | np.ndarray, "*runs"]

    def running(self) -> Bool[Array | np.ndarray, "*runs"]:
        """Whether the run has not ended."""
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
    """The state after the steps with these numbers, and the loss and gradient norm of each step.

    With `fixed_prompts` all steps draw with the same key. If the loss, the gradient or the new
    weights of a step are not finite, the step is not taken, and the run ends.
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
    """`function(subject, key)`, averaged over `parts` keys split from one, one after the other."""
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
