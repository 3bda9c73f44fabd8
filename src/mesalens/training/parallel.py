"""Many runs at once: each on a core of its own, or in one `vmap` on one device or sharded over several."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from mesalens.environment import cores, devices

Batching = Literal["cores", "vmap"]

GB = 1e9


class OverRuns:
    """`function(own, state, shared)` of many runs, compiled: `own` and `state` come, and results go, with a leading axis of runs.

    `batching` is how. Where it is "cores", each run is a call of its own, and as many of them as there are cores go on at once: XLA parts each
    product of a small model among the cores of a CPU, which costs more than it gives (docs/beyond.md). Where there are enough runs for all cores,
    products are not parted.

    Where it is "vmap", all runs are one call, sharded over the devices of the kind that JAX computes on, and the memory of the states may be taken
    for the results where `donate` is set. Of runs that need more memory than is free, `at_once` go together, a group after the other; the
    line that says so goes to `say`.

    `memory` is what may be taken, in bytes: what is free, where it is not given.
    """

    def __init__(
        self,
        function: Callable[[Any, Any, Any], Any],
        runs: int,
        *,
        batching: Batching,
        donate: bool = False,
        at_once: int | None = None,
        memory: float | None = None,
        say: Callable[[str], object] = print,
    ):
        self.function, self.runs, self.batching, self.donate = function, runs, batching, donate
        self.at_once, self.memory, self.say = at_once, memory, say
        self._programs: dict[tuple[int, ...], Callable] = {}
        self._devices = devices()[:runs] if batching == "vmap" else []

    def __call__(self, own: PyTree, state: PyTree, shared: PyTree, places: Sequence[int] | None = None) -> PyTree:
        """The results of the runs at these places, all where none are given."""
        places = list(range(self.runs)) if places is None else list(places)
        size = jnp.shape(shared)
        if size not in self._programs:
            of_cores = self.batching == "cores"
            self._programs[size] = (self._on_cores if of_cores else self._in_groups)(own, state, shared)
        return self._programs[size](own, state, shared, places)

    def _on_cores(self, own: PyTree, state: PyTree, shared: PyTree) -> Callable:
        parted = min(self.runs, cores()) < cores()
        jitted: Any = jax.jit(self.function, compiler_options={"xla_cpu_multi_thread_eigen": parted})
        program = jitted.lower(*_at(0, (own, state)), shared).compile()
        workers = self.at_once = min(self.at_once or self._fitting(program, 1), self.runs, cores())

        config: Any = jax.config
        exact = config.jax_enable_x64  # threads do not know of it by themselves

        def of_each(own: PyTree, state: PyTree, shared: PyTree, places: list[int]) -> PyTree:
            def of_one(place):
                with jax.enable_x64(exact):
                    return jax.block_until_ready(program(*_at(place, (own, state)), shared))

            with ThreadPoolExecutor(workers) as pool:
                return _stacked(list(pool.map(of_one, places)))

        return of_each

    def _in_groups(self, own: PyTree, state: PyTree, shared: PyTree) -> Callable:
        mesh = Mesh(np.array(self._devices), ("runs",))
        sharding = NamedSharding(mesh, PartitionSpec("runs"))
        each = PartitionSpec("runs")
        mapped = jax.shard_map(
            jax.vmap(self.function, (0, 0, None)),
            mesh=mesh,
            in_specs=(each, each, PartitionSpec()),
            out_specs=each,
            check_vma=False,
        )
        jitted: Any = jax.jit(mapped, donate_argnums=(1,) if self.donate else ())

        def compiled(at_once: int) -> Any:
            group = _at(np.arange(at_once) % self.runs, (own, state))
            return jitted.lower(*jax.device_put(group, sharding), shared).compile()

        shards = len(self._devices)
        whole = -(-self.runs // shards) * shards
        known = self.at_once is not None and self.at_once % shards == 0
        group = self.at_once if known and self.at_once is not None else whole
        program = compiled(group)
        while not known and group > shards and (fitting := self._fitting(program, group)) < group:
            group = max(fitting // shards, 1) * shards
            program = compiled(group)
        self.at_once = group

        def of_groups(own: PyTree, state: PyTree, shared: PyTree, places: list[int]) -> PyTree:
            results = []
            for some in _groups(places, group):
                chosen = (own, state) if some == list(range(self.runs)) else _at(np.array(some), (own, state))
                results.append(program(*jax.device_put(chosen, sharding), shared))
            if len(results) == 1 and len(places) == group:
                return results[0]
            return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[: len(places)], *results)

        return of_groups

    def _fitting(self, program: Any, together: int) -> int:
        """How many runs fit into the free memory, of which a program computes so many at once; says where it is not all of them."""
        needed = bytes_of(program) * (len(self._devices) if self._devices and _on_host() else 1)
        free = free_memory() if self.memory is None else self.memory
        wanted = together if self.batching == "vmap" else min(self.runs, cores())
        if needed * wanted / together <= free:
            return wanted
        fitting = max(int(free * together / needed), 1)
        self.say(
            f"{wanted} runs at once need {needed * wanted / together / GB:.3g} GB of memory, and {free / GB:.3g} GB may be taken: {fitting} go "
            "at once, one group after the other."
            if needed / together <= free
            else f"one run needs {needed / together / GB:.3g} GB of memory, and {free / GB:.3g} GB may be taken; it may not fit: give smaller "
            "batches, or more microbatches."
        )
        return fitting


def bytes_of(program: Any) -> int:
    """What a compiled program needs on each device, as XLA counts it: arguments, results and what lies between."""
    stats = program.memory_analysis()
    return (
        stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes - stats.alias_size_in_bytes
    )


def free_memory() -> float:
    """Bytes that are free: of the machine, or the least of the accelerators."""
    if _on_host():
        return float(psutil.virtual_memory().available)
    stats = [device.memory_stats() or {} for device in devices()]
    return min(float(of.get("bytes_limit", np.inf)) - of.get("bytes_in_use", 0) for of in stats)


def _on_host() -> bool:
    return devices()[0].platform == "cpu"


def _groups(places: list[int], size: int) -> Iterator[list[int]]:
    """The places in groups of one size; the last is filled up with its last place."""
    for first in range(0, len(places), size):
        some = places[first : first + size]
        yield some + some[-1:] * (size - len(some))


def _at(place: Any, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[place], tree)


def _stacked(trees: list[PyTree]) -> PyTree:
    """Pytrees as one with a leading axis, in NumPy's arrays, which cost no program."""

    def stack(*leaves):
        if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
            return jnp.stack(leaves)
        return np.stack([np.asarray(leaf) for leaf in leaves])

    return jax.tree.map(stack, *trees)
