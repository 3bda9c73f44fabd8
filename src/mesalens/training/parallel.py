"""Many runs at once: each on its own core, or in one `vmap`, sharded over the devices."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
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


@dataclass
class OverRuns:
    """`function(constants, state, shared)` for many runs, compiled.

    Constants, states and results have a leading axis of runs.

    With `batching="cores"` each run is a separate call, and as many run at once as there are cores:
    XLA would divide each product of a small model among the cores, which costs more than it gains
    (1.3 to 3.2 times the time, for the models of von-oswald-2023 on two cores, 2026-11-22).
    With `batching="vmap"` all runs are one call, sharded over the devices of the kind that JAX
    computes on.

    Args:
        function: What is computed for one run.
        runs: The number of runs.
        batching: "cores" or "vmap".
        donate: Whether a `vmap` may reuse the memory of the states for its results.
        divided: Whether XLA may divide products among the cores; by default it may if there are
            fewer runs than cores.
        at_once: The number of runs computed together; by default as many as fit in memory.
        memory: The memory to use, in bytes; by default what is free.
        say: Called with a message if not all runs fit in memory.
        options: Options of XLA.
    """

    function: Callable[[Any, Any, Any], Any]
    runs: int
    _: KW_ONLY
    batching: Batching
    donate: bool = False
    divided: bool | None = None
    at_once: int | None = None
    memory: float | None = None
    say: Callable[[str], object] = print
    options: Mapping[str, Any] = field(default_factory=dict)
    bytes: float = field(default=0.0, init=False)
    _programs: dict[tuple[int, ...], Callable] = field(default_factory=dict, init=False)
    _compiling: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __call__(
        self, constants: PyTree, state: PyTree, shared: PyTree, places: Sequence[int] | None = None
    ) -> PyTree:
        """The results of the runs at these places, by default of all."""
        places = list(range(self.runs)) if places is None else list(places)
        return self.compile(constants, state, shared)(constants, state, shared, places)

    def compile(self, constants: PyTree, state: PyTree, shared: PyTree) -> Callable:
        """The compiled program for arguments of these shapes."""
        size = np.shape(shared)
        with self._compiling:  # runs in several threads share a program
            if size not in self._programs:
                make = self._on_cores if self.batching == "cores" else self._in_groups
                self._programs[size] = make(constants, state, shared)
            return self._programs[size]

    def _on_cores(self, constants: PyTree, state: PyTree, shared: PyTree) -> Callable:
        # With a run for every core, threads within a product would only compete
        divided = self.runs < cores() if self.divided is None else self.divided
        options = {"xla_cpu_multi_thread_eigen": divided, **self.options}
        jitted: Any = jax.jit(self.function, compiler_options=options)
        traced = jitted.trace(*_at(0, (constants, state)), shared)
        if not jax.tree.leaves(traced.out_info):  # nothing to compute, and so nothing to compile
            return lambda *arguments: jax.tree.map(lambda leaf: leaf, traced.out_info)
        program = traced.lower().compile()
        wanted = min(self.runs, cores())
        self.bytes = max(self.bytes, bytes_of(program))
        workers = min(self.at_once or self._fitting(bytes_of(program), wanted), wanted)
        self.at_once = workers
        config: Any = jax.config
        double = config.jax_enable_x64  # is local to a thread, so it is set in each worker

        def on_cores(constants: PyTree, state: PyTree, shared: PyTree, places: list[int]) -> PyTree:
            def compute(run):
                with jax.enable_x64(double):
                    return jax.block_until_ready(program(*run, shared))

            runs = [_at(place, (constants, state)) for place in places]
            with ThreadPoolExecutor(workers) as pool:
                return _stacked(list(pool.map(compute, runs)))

        return on_cores

    def _in_groups(self, constants: PyTree, state: PyTree, shared: PyTree) -> Callable:
        shards = len(devices()[: self.runs])
        mesh = Mesh(np.array(devices()[:shards]), ("runs",))
        each = PartitionSpec("runs")
        sharding = NamedSharding(mesh, each)
        mapped = jax.shard_map(
            jax.vmap(self.function, (0, 0, None)),
            mesh=mesh,
            in_specs=(each, each, PartitionSpec()),
            out_specs=each,
            check_vma=False,
        )
        donated = (1,) if self.donate else ()
        jitted: Any = jax.jit(mapped, donate_argnums=donated, compiler_options=dict(self.options))

        def compiled(at_once: int) -> Any:
            def of_group(leaf):
                shape = (at_once, *leaf.shape[1:])
                return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)

            return jitted.lower(*jax.tree.map(of_group, (constants, state)), shared).compile()

        # Every device gets the same number of runs
        known = bool(self.at_once) and self.at_once % shards == 0
        size = self.at_once if known and self.at_once else -(-self.runs // shards) * shards
        program = compiled(size)
        # Several devices of a CPU share its memory
        sharing = shards if devices()[0].platform == "cpu" else 1
        # A smaller program needs less than its share, so this may take several rounds
        while not known and size > shards:
            fitting = self._fitting(bytes_of(program) * sharing / size, size)
            if fitting == size:
                break
            size = max(fitting // shards, 1) * shards
            program = compiled(size)
        self.at_once = size
        self.bytes = max(self.bytes, bytes_of(program))

        def in_groups(constants: PyTree, state: PyTree, shared: PyTree, places: list[int]):
            filled = places + places[-1:] * (-len(places) % size)
            results = []
            for group in np.reshape(filled, (-1, size)):
                arguments = (constants, state)
                # Indexing copies, so the memory of the copy is donated, not that of the state
                if not np.array_equal(group, np.arange(self.runs)):
                    arguments = _at(group, arguments)
                results.append(program(*jax.device_put(arguments, sharding), shared))
            if len(places) == size:
                return results[0]
            return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[: len(places)], *results)

        return in_groups

    def _fitting(self, needed: float, wanted: int) -> int:
        """How many of the runs fit in memory, if each needs so many bytes; says if not all do."""
        free = free_memory() if self.memory is None else self.memory
        if needed * wanted <= free:
            return wanted
        fitting = max(int(free / needed), 1)
        limit = f"GB of memory, and {free / GB:.3g} GB are available"
        if needed <= free:
            self.say(
                f"{wanted} runs at once need {needed * wanted / GB:.3g} {limit}; "
                f"training {fitting} at a time."
            )
        else:
            self.say(
                f"one run needs {needed / GB:.3g} {limit}; if it fails, use a smaller "
                "batch_size or more microbatches."
            )
        return fitting


def bytes_of(program: Any) -> float:
    """The bytes that a compiled program needs on each device: arguments, results and buffers."""
    stats = program.memory_analysis()
    held = stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes
    return float(held - stats.alias_size_in_bytes)


def free_memory() -> float:
    """The free memory of the machine, or of the accelerator that has least, in bytes."""
    if devices()[0].platform == "cpu":
        return float(psutil.virtual_memory().available)
    known = [device.memory_stats() or {} for device in devices()]
    return min(float(s.get("bytes_limit", np.inf)) - s.get("bytes_in_use", 0) for s in known)


def _at(place: Any, tree: PyTree) -> PyTree:
    """The runs at a place or at places; that of one run is taken by NumPy, without a program."""

    def at(leaf):
        if not isinstance(place, int):
            return leaf[place]
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = np.asarray(jax.random.key_data(leaf))[place]
            return jax.random.wrap_key_data(jax.device_put(data), impl=jax.random.key_impl(leaf))
        return np.asarray(leaf)[place]

    return jax.tree.map(at, tree)


def _stacked(trees: list[PyTree]) -> PyTree:
    """Pytrees stacked along a leading axis, as NumPy arrays, which need no program."""

    def stack(*leaves):
        if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
            return jnp.stack(leaves)
        return np.stack([np.asarray(leaf) for leaf in leaves])

    return jax.tree.map(stack, *trees)
