"""How fast mesalens trains layers of linear self-attention, beside the textbook ways.

All ways train L unshared layers on the same regression task (m = 1, x ~ U[-1/2, 1/2]^d, w ~ N(0,
I), a fresh batch of prompts at each step) with the same optimiser (Adam with b2 = 0.98, gradients
cut to norm 1e-3), in float32:

- mesalens: `TrainingSettings(...).train()`, what users call, with its own checks between compiled
  chunks;
- textbook: a Python loop around one compiled step of JAX, with a key for each example, and
  attention of every token to all context tokens (`textbook.py`, which uses nothing of mesalens);
- PyTorch: the same as the field writes it there (`textbook_torch.py`), eager and compiled.

Before a cell is timed, all are given the same weights and prompts and must agree on predictions,
loss and gradients. Then all ways and cells of a group take turns in one process, a block of steps
each in every round. In a group one size varies. `drawing` is the time that mesalens takes to draw
the prompts of a step alone.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import limits
import numpy as np
import textbook
from ways import (
    BLOCK_SECONDS,
    Cell,
    Mesalens,
    NotRunError,
    PyTorch,
    Textbook,
    as_transformer,
    check_same_work,
    cost_of,
    described,
    drawing,
    in_turns,
)

from mesalens import random
from mesalens.training import SquaredError

SHALLOW = Cell()
DEEP = Cell(layers=5, batch_size=256)
LENGTHS, DIMS = (10, 50, 200, 1000), (5, 10, 20, 40)
CUT = 10.0

GROUPS: dict[str, list[Cell]] = {
    "depth": [
        *(Cell(layers=layers) for layers in (1, 2, 5, 12)),
        *(Cell(layers=layers, clip=CUT) for layers in (2, 5, 12)),
    ],
    "width, one layer": [SHALLOW._replace(dim=dim) for dim in DIMS],
    "width, five layers": [DEEP._replace(dim=dim) for dim in DIMS],
    "length, one layer": [Cell(context_length=n, batch_size=256) for n in LENGTHS],
    "length, five layers": [
        *(DEEP._replace(context_length=n) for n in LENGTHS),
        DEEP._replace(context_length=200, clip=CUT),
    ],
}
"""Cells that take turns, by the name of their group."""

WITH_TORCH = {
    *GROUPS["depth"],
    *(DEEP._replace(dim=dim) for dim in (20, 40)),
    Cell(context_length=200, batch_size=256),
    DEEP._replace(context_length=200),
    DEEP._replace(context_length=200, clip=CUT),
}
"""Cells that PyTorch trains as well; compiling each takes it half a minute."""

SEEDS = [SHALLOW._replace(seeds=seeds) for seeds in (1, 8, 64)]
CONTEXTS = [DEEP._replace(context_length=n, drawn=True) for n in (*LENGTHS, 1_000_000)]
"""Contexts of Gaussian examples that are drawn as S itself; mesalens alone."""
LONG = Cell(layers=5, context_length=10_000, batch_size=8)


def measured(cells: Sequence[Cell], rounds: int, *, compared: bool = True) -> dict[str, Any]:
    """The numbers of cells that take turns, in all ways or in mesalens alone; `not_run` says why a
    way was left out.
    """
    costs = {cell: cost_of(cell) for cell in cells}
    flops, moved = limits.arithmetic(), limits.bandwidth()
    ways: dict[tuple[Cell, str], Any] = {}
    reasons: dict[tuple[Cell, str], dict[str, str]] = {}
    for cell in cells:
        limits.say(f"  {cell}")
        if compared:
            check_same_work(cell)
        # For about BLOCK_SECONDS at a tenth of the limit, as small models run on CPUs; steps on a
        # GPU, far below, are as many as may be
        steps = int(np.clip(BLOCK_SECONDS * 0.1 * flops / costs[cell].flops / cell.seeds, 20, 1000))
        makers = {"mesalens": functools.partial(Mesalens, cell, steps, rounds + 1)}
        if compared:
            makers |= {"textbook": functools.partial(Textbook, cell)}
            if cell.seeds == 1:
                makers |= {"drawing": functools.partial(drawing, cell)}
        if compared and cell in WITH_TORCH:
            makers |= {"PyTorch": torch_way(cell), "PyTorch compiled": torch_way(cell, True)}
        for name, make in makers.items():
            jax.clear_caches()  # each compiles all that a process does which runs it alone
            try:
                ways[cell, name] = make()
            except NotRunError as error:
                reasons[cell, name] = {"not_run": str(error)}
    seconds = in_turns(ways, rounds)
    flops, moved = max(flops, limits.arithmetic()), max(moved, limits.bandwidth())

    def of(cell: Cell) -> dict[str, Any]:
        ran = {
            name: described(way, seconds[c, name]) for (c, name), way in ways.items() if c == cell
        }
        return ran | {name: why for (c, name), why in reasons.items() if c == cell}

    rows = [
        {
            "name": str(cell),
            **cell._asdict(),
            "ways": of(cell),
            "cost": {name: value * cell.seeds for name, value in costs[cell]._asdict().items()},
        }
        for cell in cells
    ]
    return {"rows": rows, "limits": {"flops": flops, "bytes": moved}}


def torch_way(cell: Cell, compiled: bool = False) -> functools.partial[PyTorch]:
    """The training of a cell in PyTorch, not yet made."""

    def training(module: Any) -> Any:
        sizes = cell.layers, cell.context_length, cell.dim, cell.batch_size, cell.clip
        return module.LinearTraining(*sizes, compiled=compiled)

    return functools.partial(PyTorch, training, compiled=compiled)


def contexts(rounds: int) -> dict[str, Any]:
    """Contexts drawn as S, and the memory that whole ones need."""
    found = measured(CONTEXTS, rounds, compared=False)
    return found | {"memory_of_long_contexts": memory_of_long_contexts()}


def memory_of_long_contexts() -> dict[str, int]:
    """Bytes of one gradient on whole contexts, compiled and not run."""
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


PARTS = {name: functools.partial(measured, cells) for name, cells in GROUPS.items()} | {
    "seeds": functools.partial(measured, SEEDS),
    "contexts": contexts,
}
"""What measures each part, from the number of rounds."""
