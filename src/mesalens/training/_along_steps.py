"""`along_steps`: measures pairs of consecutive learners of a training."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Key, PyTree

from mesalens import kinds
from mesalens.checks import random_key
from mesalens.learners import Learner
from mesalens.tasks import Task
from mesalens.training.objectives.squared_error import SquaredError
from mesalens.training.optimisers.base import Optimiser


@eqx.filter_jit
def along_steps(
    learner: Learner,
    task: Task,
    optimiser: Optimiser | str | Mapping[str, Any],
    measure: Callable[[Any, Any], PyTree],
    key: Key[Array, ""],
    *,
    steps: int,
    batch_size: int,
) -> PyTree[Array]:
    """Measures the learners before and after each step of a short training.

    The training minimises the squared error on fresh prompts. (The `measure` of `train` sees one
    learner at a time.)

    Args:
        learner: The learner before the first step.
        task: The distribution of prompts.
        optimiser: An `Optimiser`, its name, or a mapping of `kind` and parameters.
        measure: `measure(before, after)` returns an array or a pytree of arrays. Each new function
            is compiled; pass an `equinox.Partial` to change only numbers.
        key: A random key.
        steps: The number of steps.
        batch_size: The number of fresh prompts in a step.

    Returns:
        What `measure` returns, with a leading axis of steps.
    """
    random_key(key)
    trained, rest = eqx.partition(learner, learner.trainable())
    rule = kinds.build("optimiser", optimiser).transformation(steps)
    sampled = SquaredError().loss(task, batch_size)

    def step(state, key):
        before, memory = state
        gradient = jax.grad(lambda part: sampled(eqx.combine(part, rest), key))(before)
        updates, memory = rule.update(gradient, memory, before)
        after = eqx.apply_updates(before, updates)
        measured = measure(eqx.combine(before, rest), eqx.combine(after, rest))
        return (after, memory), measured

    return jax.lax.scan(step, (trained, rule.init(trained)), jax.random.split(key, steps))[1]
