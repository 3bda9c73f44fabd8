"""Many seeds in one call: in a `vmap`, or each on a core of its own."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from mesalens.checks import InputError, count


def seed_numbers(seeds: int | Sequence[int]) -> list[int]:
    """The seeds that are meant: 0 … n - 1, or those of the sequence; raises where these are no different whole numbers."""
    if not isinstance(seeds, Sequence):
        return list(range(count("seeds", seeds)))
    numbers = [count("a seed", seed, at_least=0) for seed in seeds]
    # The last number of 32 bits is that of measurements, see `mesalens.random.measurement_key`
    if not numbers or len(set(numbers)) < len(numbers) or max(numbers) >= 2**32 - 1:
        raise InputError(f"seeds are {seeds!r}; give one or more different whole numbers below {2**32 - 1}.")
    return numbers


def in_one_vmap(function: Callable) -> Callable:
    """`function(key, state, shared)` with a leading axis of seeds in keys, state and results."""
    return eqx.filter_vmap(function, in_axes=(eqx.if_array(0), eqx.if_array(0), None))


def over_seeds(function: Callable, seeds: int, *, together: bool, donate: bool = False) -> Callable:
    """`function(key, state, shared)` of every seed, compiled: keys and state come, and results go, with a leading axis of seeds.

    `together` is one `vmap`, what an accelerator needs; it may take the memory of the state where `donate` is set. Else each seed is a
    call of its own, and as many run at once as there are cores. XLA parts each product of a small model among the cores
    of a CPU, which costs more than it gives; whole trainings side by side were 1.3 to 2.7 times faster than one after the other or in a `vmap`
    (docs/beyond.md). Where there are enough of them for all cores, products are not parted.
    """
    if together:
        return eqx.filter_jit(in_one_vmap(function), donate="all-except-first" if donate else "none")

    def of_one(place: Array, keys: PyTree, state: PyTree, shared: PyTree):
        own = jax.tree.map(lambda leaf: leaf[place] if eqx.is_array(leaf) else leaf, (keys, state))
        return function(*own, shared)

    workers = min(seeds, _cores())
    options = {"xla_cpu_multi_thread_eigen": workers < _cores()}
    jitted: Any = eqx.filter_jit(of_one, compiler_options=options)  # pyright: ignore[reportCallIssue]
    places = [jnp.asarray(place, jnp.uint32) for place in range(seeds)]
    programs = {}

    def of_each(keys: PyTree, state: PyTree, shared: PyTree):
        size = jnp.shape(shared)
        if size not in programs:  # before the threads, each of which would compile it
            programs[size] = jitted.lower(places[0], keys, state, shared).compile()
        with ThreadPoolExecutor(workers) as pool:
            results = list(
                pool.map(lambda place: jax.block_until_ready(programs[size](place, keys, state, shared)), places)
            )
        return _stacked(*results)

    return of_each


@jax.jit
def _stacked(*trees: PyTree) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
