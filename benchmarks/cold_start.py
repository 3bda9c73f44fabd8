"""Prints the seconds from the call of a training to its first steps, in a process of its own.

That is the first chunk of steps with all that comes before it (checks, initial weights, tracing,
lowering, compiling), less the median of later chunks; imports are not counted. For the textbook:
initial weights, tracing, lowering and compiling its step.

    python benchmarks/cold_start.py mesalens|textbook LAYERS
"""

import itertools
import statistics
import sys
import time

EVERY, CHUNKS = 100, 4


def mesalens(layers: int) -> float:
    """Seconds of `TrainingSettings.train` before its steps."""
    from ways import Cell

    settings = Cell(layers=layers).settings(steps=EVERY * CHUNKS, every=EVERY)
    times = [time.perf_counter()]
    settings.train(progress=lambda done: times.append(time.perf_counter()))
    first, *later = [after - before for before, after in itertools.pairwise(times)]
    return first - statistics.median(later)


def textbook(layers: int) -> float:
    """Seconds of the textbook before its steps."""
    from ways import Cell, Textbook

    return Textbook(Cell(layers=layers)).compile_seconds()


if __name__ == "__main__":
    print({"mesalens": mesalens, "textbook": textbook}[sys.argv[1]](int(sys.argv[2])))
