"""`sweep`: one training for each point of a grid, and each seed, all in one call."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Key, PyTree

from mesalens.checks import InputError
from mesalens.training.engine import Runs, Settings, train_runs
from mesalens.training.objective import Objective
from mesalens.training.parallel import Batching
from mesalens.training.problem import Problem
from mesalens.training.stopping import StoppingRule
from mesalens.training.train import seed_numbers, warn
from mesalens.training.training import Training

Axis = Sequence[Any] | Mapping[str, Any]
"""The values along an axis: numbers, by which they are labelled too, or pytrees by their labels."""


def sweep(
    build: Callable[..., Problem],
    vary: Mapping[str, Axis],
    *,
    steps: int,
    batch_size: int = 1024,
    microbatches: int = 1,
    seeds: int | Sequence[int] = 1,
    key: Key[Array, ""],
    every: int = 100,
    objective: Objective = "sampled",
    stop: StoppingRule | None = None,
    batching: Batching | None = None,
    memory: float | None = None,
    progress: Callable[[int], object] | None = None,
    say: Callable[[str], object] = warn,
    checkpoint: Path | None = None,
    description: Mapping[str, Any] | None = None,
) -> Training:
    """Trains `build(**values)` for every combination of the values to vary, from every seed: one compiled program for all.

        sweep(
            lambda learning_rate, task: Problem(initialise, task, optax.adam(learning_rate)),
            {"learning_rate": [1e-3, 3e-3], "task": {"isotropic": task, "skewed": other_task}},
            seeds=64, …
        )

    JAX traces `build`: a number becomes an array of no dimensions, and of a pytree (a task, weights) those leaves in which the axis differs. So
    the values of an axis have to agree in all that is not a number: shapes, families, context lengths. The result has the axes as leading
    dimensions, before `seed`; `Training.learner(seed, learning_rate=…, task=…)` takes one out. A seed has the same keys at every
    point, so that points are compared on the same prompts.

    All else is as in `train`, of which this is the same loop; the `population` objective is for one task.

    Raises `ValueError` as `train` does; and for an axis without values, with the same value twice, or with values that do not agree.
    """
    axes = {name: _labels(name, values) for name, values in vary.items()}
    if not axes or any(name in ("seed", "step") for name in axes):
        raise InputError("nothing is varied but seeds and steps; give an axis with another name, or call train.")
    split = {name: _split(name, values) for name, values in vary.items()}
    _require_problems(build, vary)
    grid = np.indices([len(labels) for labels in axes.values()]).reshape(len(axes), -1)
    values = {
        name: jax.tree.map(lambda leaf, place=place: leaf[place], split[name][0])
        for name, place in zip(axes, grid, strict=True)
    }

    def problem_of(values: Mapping[str, PyTree]) -> Problem:
        return build(**{name: _join(values[name], split[name][1]) for name in axes})

    shared = Settings(steps, batch_size, microbatches, every, objective, stop, batching, memory, description or {})
    runs = Runs(seed_numbers(seeds), axes, values)
    return train_runs(problem_of, runs, key, shared, checkpoint=checkpoint, progress=progress, say=say)


def _labels(name: str, values: Axis) -> list[Any]:
    labels = list(values) if isinstance(values, Mapping) else [_number(name, value) for value in values]
    if not labels or len(set(labels)) < len(labels):
        raise InputError(f"the values of {name} are {labels}; give one or more, each once.")
    return labels


def _require_problems(build: Callable[..., Problem], vary: Mapping[str, Axis]) -> None:
    """Builds with each value as it is: checks let pass what JAX traces."""
    trees = {name: list(of.values()) if isinstance(of, Mapping) else list(of) for name, of in vary.items()}
    first = {name: of[0] for name, of in trees.items()}
    for name, of in trees.items():
        for value in of:
            build(**first | {name: value})


def _number(name: str, value: Any) -> Any:
    if isinstance(value, bool) or not np.isscalar(value) or not np.isreal(value) or not np.isfinite(value):
        raise InputError(
            f"{value!r} among the values of {name} is no finite number; give others than numbers by labels: {{label: value}}."
        )
    return value.item() if isinstance(value, np.generic) else value


def _split(name: str, values: Axis) -> tuple[PyTree, PyTree]:
    """What differs along an axis, stacked, and a value that has the rest; the first is None where the second has all."""
    trees = list(values.values()) if isinstance(values, Mapping) else list(values)
    if isinstance(values, Mapping) and not stackable(trees):
        raise InputError(
            f"the values of {name} do not agree in all that is not a number (shapes, families, context lengths); give each a sweep of its own."
        )

    def stack(*leaves):
        if isinstance(values, Mapping) and all(_same(leaves[0], leaf) for leaf in leaves):
            return None  # as it is: code may ask whether a number is 0
        of_floats = any(eqx.is_inexact_array_like(leaf) for leaf in leaves)
        return np.stack([np.asarray(leaf, np.float32 if of_floats else np.int32) for leaf in leaves])

    return jax.tree.map(stack, *trees), trees[0]


def _join(varied: PyTree, rest: PyTree) -> PyTree:
    """The value at a point: what varies, and the rest."""
    return jax.tree.map(lambda leaf, new: leaf if new is None else new, rest, varied, is_leaf=lambda leaf: leaf is None)


def stackable(trees: list[PyTree]) -> bool:
    """Whether pytrees differ in nothing but numbers and arrays of the same shapes."""
    structures = {jax.tree.structure(tree) for tree in trees}
    if len(structures) > 1:
        return False
    return all(
        all(_same(column[0], leaf) for leaf in column)
        or (all(eqx.is_inexact_array_like(leaf) for leaf in column) and len({np.shape(leaf) for leaf in column}) == 1)
        for column in zip(*map(jax.tree.leaves, trees), strict=True)
    )


def _same(leaf: Any, other: Any) -> bool:
    return bool(eqx.tree_equal(leaf, other))
