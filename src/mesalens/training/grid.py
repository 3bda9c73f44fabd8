"""`Grid`: the runs of a training, one for each point of the varied axes and each seed."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from mesalens.checks import InputError, count, finite
from mesalens.training.training import in_words

Axis = Sequence[Any] | Mapping[str, Any]
"""Values along an axis: numbers (which are also the labels), or a mapping of labels to pytrees."""


class Grid(NamedTuple):
    """All points of the axes, each with every seed.

    `labels` has the labels of each axis by name, "seed" last. `varied` has the leaves that differ
    along each other axis, with a leading axis of points (the last axis runs fastest); `shared` has
    a value of each axis with all other leaves.
    """

    labels: Mapping[str, list[Any]]
    varied: Mapping[str, PyTree]
    shared: Mapping[str, PyTree]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of labels of each axis."""
        return tuple(map(len, self.labels.values()))

    def __len__(self) -> int:
        return math.prod(self.sizes)

    def values(self, varied: Mapping[str, PyTree]) -> dict[str, Any]:
        """The value on each axis except seeds at a point, from `varied` at that point."""
        return {name: eqx.combine(varied[name], rest) for name, rest in self.shared.items()}

    def part(self, point: int, seeds: Sequence[int]) -> "Grid":
        """The runs of one point, with the seeds at some places."""
        *axes, last = self.labels
        place = np.unravel_index(point, self.sizes[:-1])
        labels = {name: [self.labels[name][i]] for name, i in zip(axes, place, strict=True)}
        labels[last] = [self.labels[last][seed] for seed in seeds]
        varied = jax.tree.map(lambda leaf: leaf[point : point + 1], self.varied)
        return Grid(labels, varied, self.shared)

    def words(self, place: int) -> str:
        """The run at a place, in words."""
        indices = np.unravel_index(place, self.sizes)
        pairs = zip(self.labels.items(), indices, strict=True)
        return in_words({name: labels[index] for (name, labels), index in pairs})


def grid(seeds: int | Sequence[int], vary: Mapping[str, Axis]) -> Grid:
    """The grid of seeds and axes.

    Raises:
        ValueError: if seeds are not distinct non-negative integers, or an axis is called "seed" or
            "step", has no values, has a value twice, or has values that differ in more than
            numbers.
    """
    axes = {name: _labels(name, values) for name, values in vary.items()}
    sizes = [len(labels) for labels in axes.values()]
    places = np.indices(sizes).reshape(len(sizes), math.prod(sizes))
    varied, shared = {}, {}
    for name, place in zip(axes, places, strict=True):
        stacked, shared[name] = _split(name, vary[name])
        varied[name] = jax.tree.map(lambda leaf, place=place: leaf[place], stacked)
    return Grid(axes | {"seed": seed_numbers(seeds)}, varied, shared)


def seed_numbers(seeds: int | Sequence[int]) -> list[int]:
    """The seeds: 0 to n - 1 for a number n, or those of a sequence.

    Raises:
        ValueError: if they are not distinct non-negative integers below 2³² - 1.
    """
    if not isinstance(seeds, Sequence):
        return list(range(count("seeds", seeds)))
    # 2³² - 1 is reserved for measurements, see `mesalens.random.measurement_key`
    numbers = [count("seeds", seed, at_least=0, at_most=2**32 - 2) for seed in seeds]
    if not numbers or len(set(numbers)) < len(numbers):
        raise InputError(f"seeds must be distinct non-negative integers; got {list(seeds)}.")
    return numbers


def combinations(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """All combinations of a value from each axis; the last axis runs fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def stackable(trees: list[PyTree]) -> bool:
    """Whether pytrees differ only in floats and in float arrays of equal shapes."""
    if len({jax.tree.structure(tree) for tree in trees}) > 1:
        return False
    return all(
        all(eqx.tree_equal(leaves[0], leaf) for leaf in leaves)
        or (all(map(eqx.is_inexact_array_like, leaves)) and len(set(map(np.shape, leaves))) == 1)
        for leaves in zip(*map(jax.tree.leaves, trees), strict=True)
    )


def _labels(name: str, values: Axis) -> list[Any]:
    if name in ("seed", "step"):
        raise InputError(f"vary must not have the name {name}, an axis of every result.")
    if isinstance(values, Mapping):
        labels = list(values)
    else:
        labels = [value.item() if isinstance(value, np.generic) else value for value in values]
        for label in labels:
            if not isinstance(finite(name, label), int | float):
                raise InputError(
                    f"{name} must have numbers, or a mapping of labels to values; got {label!r}."
                )
    if not labels or len(set(labels)) < len(labels):
        raise InputError(f"{name} must have one or more distinct values; got {labels}.")
    return labels


def _split(name: str, values: Axis) -> tuple[PyTree, PyTree]:
    """The leaves that differ along an axis, stacked, and a value with all other leaves.

    The first has None where nothing differs: code may ask whether an unchanged number is 0.
    """
    labelled = isinstance(values, Mapping)
    trees = list(values.values()) if labelled else list(values)
    if labelled and not stackable(trees):
        raise InputError(
            f"the values of {name} must differ in numbers only, not in shapes or types; train them "
            "one after the other."
        )

    def stack(*leaves):
        if labelled and all(eqx.tree_equal(leaves[0], leaf) for leaf in leaves):
            return None
        floats = any(map(eqx.is_inexact_array_like, leaves))
        return np.stack([np.asarray(leaf, np.float32 if floats else np.int32) for leaf in leaves])

    return jax.tree.map(stack, *trees), trees[0]
