"""What the machine does at most, and what programs take.

- Arithmetic, FLOP/s: a product of two large float32 matrices on all cores, in the precision that
  JAX takes for products where nothing else is asked for (on recent NVIDIA GPUs that is TF32), `2
  N³` operations.
- Memory bandwidth, bytes/s: `a <- a + b / 2` in place on arrays far larger than the caches, which
  reads both and writes one: 12 bytes an entry.

What shares refer to is the greatest of all times that a limit is measured, before and after what is
compared with it: what else runs on a machine takes from it and adds nothing.
"""

import functools
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ROUNDS = 6
"""How many times a limit is measured; the first does not count."""


def exponents(sizes, seconds) -> np.ndarray:
    """B of the least-squares fit `log seconds = a + b log size` in each round; seconds are rounds ×
    sizes.
    """
    return np.polyfit(np.log(sizes), np.log(np.asarray(seconds)).T, 1)[0]


def arithmetic(size: int | None = None) -> float:
    """FLOP/s of a product of two matrices of the given size: 2048 on CPUs, 8192 elsewhere."""
    size = size or (2048 if jax.default_backend() == "cpu" else 8192)
    matrix = jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.matmul)
    measured = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        jax.block_until_ready(product(matrix, matrix))
        measured.append(2 * size**3 / (time.perf_counter() - started))
    return max(measured[1:])


def bandwidth(entries: int | None = None) -> float:
    """Bytes/s of `a <- a + b / 2` on arrays of so many entries: 2^26 on CPUs, 2^28 elsewhere (256
    MB and 1 GB).
    """
    entries = entries or (2**26 if jax.default_backend() == "cpu" else 2**28)
    a, b = jnp.ones(entries, jnp.float32), jnp.ones(entries, jnp.float32)

    # In place, since fresh memory costs page faults, several times the move itself
    @functools.partial(jax.jit, donate_argnums=0)
    def add(a, b):
        return a + b / 2

    measured = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        a = jax.block_until_ready(add(a, b))
        measured.append(12 * entries / (time.perf_counter() - started))
    return max(measured[1:])


def operations(lowered) -> float:
    """FLOPs of a lowered program, as XLA counts them: 2 m n k of a product, 1 an entry of what is
    done entry by entry.

    Whole numbers count too, as in generators of random bits; exponentials and the like count apart
    and are left out. A loop counts as one pass.
    """
    return float(lowered.cost_analysis().get("flops", 0.0))


def bytes_accessed(compiled) -> float:
    """Bytes that the fused operations of a compiled program read and write, as XLA counts them,
    those that stay in a cache included.
    """
    return float(compiled.cost_analysis().get("bytes accessed", 0.0))


def live_programs() -> set[Any]:
    """All that XLA has compiled and keeps."""
    return set(jax.devices()[0].client.live_executables())


def largest_memory(programs: set[Any]) -> int:
    """Bytes of arguments, results and temporary buffers of the largest of the programs, less the
    results that take the place of arguments.
    """
    return max(memory(program.get_compiled_memory_stats()) for program in programs)


def memory(stats) -> int:
    """The same of one program, from its statistics."""
    return (
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        + stats.temp_size_in_bytes
        - stats.alias_size_in_bytes
    )


def say(words: str) -> None:
    """What is being measured, apart from the results."""
    print(words, file=sys.stderr, flush=True)
