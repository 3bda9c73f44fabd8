"""How fast mesalens trains, beside the textbook way, how that grows, and how near it comes to what
the machine can do.

Both ways train L unshared layers of linear self-attention on the same regression task (m = 1, x ~
U[-1/2, 1/2]^d, w ~ N(0, I), a fresh batch of prompts at each step) with the same optimiser (Adam
with b2 = 0.98, gradients cut to norm 1e-3), in float32:

- mesalens: `TrainingSettings(...).train()`, what users call, with its own checks between compiled
  chunks;
- textbook: a Python loop around one compiled step, with a key for each example, and attention of
  every token to all context tokens (`textbook.py`, which uses nothing of mesalens).

Before a cell is timed, both are given the same weights and prompts and must agree on predictions,
loss and gradients. Then all ways and cells of a group take turns in one process, a block of steps
each in every round. Ratios and exponents are taken in each round; printed are medians over the
rounds, with the least and the greatest. A table of all sizes would have 192 cells; here one size
varies at a time.

- `cases`: the targets, one case a row;
- `axes`: L, d and n one at a time, with the exponent b of the fit time ~ size^b. For n examples are
  drawn;
- `seeds`: 1, 8 and 64 in one call; the textbook trains them one after the other;
- `contexts`: contexts of n Gaussian examples drawn as S itself (`condensed`), mesalens alone; and
  the memory of a gradient on whole contexts of 10,000 examples in both ways (compiled, not run);
- `verdict`: a part of a study from the command line, in a process of its own, with an empty and a
  filled cache of compiled programs.

Times are of steps after the first chunk. *Compile* is, for mesalens, the first chunk with all that
`train` does before it, less the median of later chunks; for the textbook, initial weights, tracing,
lowering and compiling. No cache of compiled programs is used for either. *Memory* is XLA's own
count for the largest program that each way compiles: arguments, results and temporary buffers, less
the results that take the place of arguments. It leaves out Python, JAX and the compiler, which need
hundreds of MB in both ways; and of several seeds on CPUs, of which each is a program of its own, it
is that of one.

Shares are what a step takes, counted by XLA for one step of one seed, times the seeds, over the
median time of a step, over the limit that `limits.py` measures before and after the group. MFLOP:
the program as it is written, with whole numbers (half of a shallow step draws random bits) and
without exponentials and the like. MB moved: what the fused operations of the compiled program read
and write, though much of it stays in a CPU's caches, so that the share may be above 1. MB needed:
weights and Adam's moments read and written once, prompts written when drawn and read forwards and
backwards. On a GPU half of the limit for these is wanted.

    python benchmarks/training.py [--rounds N] [--tables cases axes seeds contexts verdict] [--json]
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import limits
import numpy as np
import textbook
from limits import spread
from rich.console import Console
from tables import SIZES, cost_table, exponent_table, growth_table, speed_table
from verdict import sentence, time_to_verdict
from ways import (
    BLOCK_SECONDS,
    Cell,
    Mesalens,
    Textbook,
    TooDearError,
    Way,
    as_transformer,
    check_same_work,
    cost_of,
    in_turns,
)

from mesalens import random
from mesalens.training import SquaredError

CASES = {
    Cell(layers=1): 8,
    Cell(layers=5): 5,
    Cell(layers=1, context_length=200, batch_size=256): None,
    Cell(layers=5, context_length=200, batch_size=256): 40,
}
"""Cells, and how many times faster than the textbook mesalens is to be."""


class Axis(NamedTuple):
    """Cells in which one size varies, and the largest exponent that is wanted."""

    of: str
    values: Sequence[int]
    base: Cell
    target: float | None = None

    def cells(self) -> list[Cell]:
        """The base with each of the values."""
        return [self.base._replace(**{SIZES[self.of]: value}) for value in self.values]


LENGTHS = (10, 50, 200, 1000)
AXES = (
    Axis("L", (1, 2, 5, 12), Cell()),
    Axis("d", (5, 10, 20, 40), Cell()),
    Axis("d", (5, 10, 20, 40), Cell(layers=5, batch_size=256)),
    Axis("n", LENGTHS, Cell(batch_size=256), target=1.1),
    Axis("n", LENGTHS, Cell(layers=5, batch_size=256), target=1.1),
)
SEEDS, SEEDS_TARGETS = Axis("seeds", (1, 8, 64), Cell()), {8: 6.0}
CONTEXTS = Axis("n", LENGTHS, Cell(layers=5, batch_size=256, drawn=True), target=0.1)
FAR = 1_000_000
"""A context that is drawn too, beyond those of the fit."""
LONG = Cell(layers=5, context_length=10_000, batch_size=8)
TABLES = ("verdict", "cases", "axes", "seeds", "contexts")
"""In the order in which they are measured: the process of `verdict` needs an accelerator's memory,
which JAX takes at its first use."""


def measure(cells: Sequence[Cell], rounds: int, *, compared: bool = True) -> list[dict[str, Any]]:
    """The numbers of cells that take turns, in both ways or in mesalens alone; `not_run` says why
    the textbook was left out.
    """
    costs = {cell: cost_of(cell) for cell in cells}
    flops, moved = limits.arithmetic(), limits.bandwidth()
    ways: dict[Any, Way] = {}
    reasons: dict[Cell, dict[str, Any]] = {}
    for cell in cells:
        say(f"  {cell}")
        if compared:
            check_same_work(cell)
        # For about BLOCK_SECONDS at a tenth of the limit, as small models run on CPUs; steps on a
        # GPU, far below, are as many as may be
        steps = BLOCK_SECONDS * 0.1 * flops / costs[cell].flops / cell.seeds
        jax.clear_caches()  # each compiles all that a process does which runs it alone
        ways[cell, "mesalens"] = Mesalens(cell, int(np.clip(steps, 20, 1000)), rounds + 1)
        if compared:
            jax.clear_caches()
            try:
                ways[cell, "textbook"] = Textbook(cell)
            except TooDearError as error:
                reasons[cell] = {"not_run": str(error)}
    seconds = in_turns(ways, rounds)
    flops, moved = max(flops, limits.arithmetic()), max(moved, limits.bandwidth())
    peaks = {"flops": flops, "bytes_accessed": moved, "bytes_needed": moved}
    results = []
    for cell in cells:
        of_ours, of_theirs = seconds[cell, "mesalens"], seconds.get((cell, "textbook"))
        cost, per_second = costs[cell]._asdict(), cell.seeds / np.median(of_ours)
        results.append(
            cell._asdict()
            | {
                "mesalens": summary(cell, ways[cell, "mesalens"], of_ours),
                "textbook": summary(cell, ways[cell, "textbook"], of_theirs)
                if of_theirs is not None
                else reasons.get(cell, {"not_run": "-"}),
                "ratio": None if of_theirs is None else spread(of_theirs / of_ours),
                "over_first": spread(of_ours / seconds[cells[0], "mesalens"]),
                "cost": {name: value * cell.seeds for name, value in cost.items()},
                "limits": {"flops": flops, "bytes": moved},
                "shares": {
                    name: float(value * per_second / peaks[name]) for name, value in cost.items()
                },
            }
        )
    return results


def summary(cell: Cell, way: Way, seconds: np.ndarray) -> dict[str, Any]:
    """One way in one cell."""
    return {
        "ms_per_step": spread(1e3 * seconds),
        "prompts_per_second": cell.seeds * cell.batch_size / float(np.median(seconds)),
        "compile_seconds": way.compile_seconds(),
        "memory_bytes": way.memory,
        "steps_per_round": way.steps,
        "seconds": seconds.tolist(),
    }


def fit(axis: Axis, results: list[dict[str, Any]]) -> dict[str, Any]:
    """The exponents of both ways over the cells of an axis, the textbook's over those in which it
    was run.
    """
    of_axis = [result for result in results if result[SIZES[axis.of]] in axis.values]
    ran = [result for result in of_axis if "not_run" not in result["textbook"]]

    def exponent(way, results):
        times = np.array([result[way]["seconds"] for result in results]).T
        return spread(limits.exponents([result[SIZES[axis.of]] for result in results], times))

    others = {name: field for name, field in SIZES.items() if name not in (axis.of, "seeds")}
    return {
        "axis": axis.of,
        "sizes": [result[SIZES[axis.of]] for result in of_axis],
        "at": ", ".join(f"{name} = {getattr(axis.base, field)}" for name, field in others.items()),
        "drawn": axis.base.drawn,
        "mesalens": exponent("mesalens", of_axis),
        "target": axis.target,
        "textbook": exponent("textbook", ran) if len(ran) > 2 else None,
        "textbook_sizes": [result[SIZES[axis.of]] for result in ran],
    }


def cases(rounds: int, show: Callable[..., None]) -> dict[str, Any]:
    """Each case by itself."""
    results = [measure([cell], rounds)[0] | {"target": target} for cell, target in CASES.items()]
    show("The targets", speed_table(results), cost_table(results, gpu=on_gpu()))
    return {"cells": results}


def axes(rounds: int, show: Callable[..., None]) -> dict[str, Any]:
    """Each axis by itself."""
    groups = []
    for axis in AXES:
        say(f" {axis.of} from {axis.values[0]} to {axis.values[-1]}")
        groups.append(measure(axis.cells(), rounds))
    results = [result for group in groups for result in group]
    fits = [fit(axis, group) for axis, group in zip(AXES, groups, strict=True)]
    show(
        "One size at a time; time ~ size^exponent",
        speed_table(results),
        cost_table(results, gpu=on_gpu()),
        exponent_table(fits),
    )
    return {"cells": results, "exponents": fits}


def seeds(rounds: int, show: Callable[..., None]) -> dict[str, Any]:
    """Many seeds in one call; a step is a step of all of them."""
    results = measure(SEEDS.cells(), rounds)
    fits = [fit(SEEDS, results)]
    show(
        "Seeds in one call; the textbook trains one after the other, of which one is timed and "
        "taken as many times",
        growth_table(results, "seeds", SEEDS_TARGETS),
        speed_table(results),
        cost_table(results, gpu=on_gpu()),
        exponent_table(fits),
    )
    return {"cells": results, "exponents": fits}


def contexts(rounds: int, show: Callable[..., None]) -> dict[str, Any]:
    """Contexts drawn as S, and the memory that whole ones need."""
    far = CONTEXTS.base._replace(context_length=FAR)
    results = measure([*CONTEXTS.cells(), far], rounds, compared=False)
    fits = [fit(CONTEXTS, results)]
    long = memory_of_long_contexts()
    words = ", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in long.items())
    show(
        "Gaussian contexts drawn as S, five layers, batch 256",
        growth_table(results, "n", {}),
        cost_table(results, gpu=on_gpu()),
        exponent_table(fits),
        f"One gradient on whole contexts of {LONG.context_length:,} examples, {LONG.layers} layers"
        f", batch {LONG.batch_size}: {words}.",
    )
    return {"cells": results, "exponents": fits, "memory_of_long_contexts": long}


def memory_of_long_contexts() -> dict[str, int]:
    """Bytes of one gradient on whole contexts, in both ways."""
    key, task = jax.random.key(0), LONG.settings().sampled_task()
    weights = textbook.initial_weights(0, LONG.layers, LONG.dim, 0.01)

    def theirs(weights):
        batch = textbook.draw_batch(key, LONG.context_length, LONG.dim, LONG.batch_size)
        return jax.grad(textbook.mean_loss)(weights, *batch)

    def ours(transformer):
        return jax.grad(SquaredError().loss(task, LONG.batch_size))(transformer, random.key(0))

    programs = {"textbook": (theirs, weights), "mesalens": (ours, as_transformer(weights))}
    return {
        name: limits.memory(jax.jit(function).lower(argument).compile().memory_analysis())
        for name, (function, argument) in programs.items()
    }


def limits_in_words(results: list[dict[str, Any]]) -> list[str]:
    """The range over the groups of what the machine did at most; nothing if none was measured."""
    if not results:
        return []
    flops, moved = (
        [1e-9 * result["limits"][name] for result in results] for name in ("flops", "bytes")
    )
    products = (
        f"{min(flops):,.0f} to {max(flops):,.0f} GFLOP/s in a product of large float32 matrices"
    )
    traffic = f"{min(moved):,.1f} to {max(moved):,.1f} GB/s to and from memory"
    return [f"Limits, beside each group: {products}, {traffic}."]


def on_gpu() -> bool:
    """Whether JAX computes on one."""
    return jax.default_backend() == "gpu"


def say(words: str) -> None:
    """What is being measured, apart from the results."""
    print(words, file=sys.stderr, flush=True)


def main() -> None:
    """Measures what was asked for and prints each table when it is there."""
    parser = argparse.ArgumentParser(
        description="How fast mesalens trains, beside the textbook way."
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each table (5)")
    parser.add_argument(
        "--tables", nargs="+", choices=TABLES, default=TABLES, help="what is measured (all)"
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON alone")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    console = Console(width=200, highlight=False)

    def show(title: str, *parts) -> None:
        if not options.json:
            for part in (title, *parts):
                console.print("", part, sep="\n", soft_wrap=True)

    found: dict[str, Any] = {}
    if "verdict" in options.tables:
        say("verdict")
        found["verdict"] = time_to_verdict()
        show("Time to a verdict", sentence(found["verdict"]))

    # A program from a cache would not show what compiling costs
    jax.config.update("jax_enable_compilation_cache", False)
    of_table = {"cases": cases, "axes": axes, "seeds": seeds, "contexts": contexts}
    for name in (name for name in TABLES if name in options.tables and name in of_table):
        say(name)
        found[name] = of_table[name](options.rounds, show)

    conditions = limits.conditions(options.rounds)
    if options.json:
        print(json.dumps({"conditions": conditions} | found, indent=2))
        return
    show(
        "Conditions",
        r"Median \[least..greatest] over rounds. Shares of the limits are fractions of 1.",
        *limits_in_words(
            [cell for table in found.values() if "cells" in table for cell in table["cells"]]
        ),
        "; ".join(f"{name}: {value}" for name, value in conditions.items() if value),
    )


if __name__ == "__main__":
    main()
