"""What the benchmark is to reach: one row a case, with the value before and the bound."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from results import AXES, Results, divided

Values = np.ndarray | None
"""One value a round, or a single value; None if it was not measured."""


class Target(NamedTuple):
    """A case, what it was before, the bound (None if it is only measured), and how it is read."""

    case: str
    before: str
    bound: float | None
    values: Callable[[Results], Values]
    at_least: bool = True
    unit: str = "times the textbook's speed"

    def met(self, results: Results) -> bool | None:
        """Whether the median is on the right side of the bound; None without either."""
        values = self.values(results)
        if values is None or self.bound is None:
            return None
        median = np.median(values)
        return bool(median >= self.bound if self.at_least else median <= self.bound)


def speed(case: str, before: str, bound: float | None, part: str, row: str) -> Target:
    """How many times as fast as the textbook way mesalens is."""
    return Target(case, before, bound, lambda found: found.ratio(part, row, "textbook"))


def uncut(layers: int, before: str) -> Target:
    """The time with clipped activations over that without, in the same rounds."""
    row = f"L = {layers}, n = 10, batch 2,048"

    def values(found: Results) -> Values:
        cut = found.seconds("depth", f"{row}, cut at ±10")
        return divided(cut, found.seconds("depth", row))

    case = f"L = {layers}, n = 10, batch 2,048, cut at ±10"
    return Target(case, before, 1.1, values, at_least=False, unit="times the uncut's time")


def wait(case: str, before: str, bound: float, part: str, row: str, way: str) -> Target:
    """Seconds that a user waits."""
    return Target(
        case, before, bound, lambda found: found.seconds(part, row, way), at_least=False, unit="s"
    )


def eight_seeds(found: Results) -> Values:
    """The time of eight seeds over that of one."""
    row = "L = 1, n = 10, batch 2,048"
    return divided(found.seconds("seeds", f"{row}, 8 seeds"), found.seconds("seeds", row))


def growth(number: int, before: str) -> Target:
    """The exponent of time along an axis."""
    axis = AXES[number]

    def values(found: Results) -> Values:
        exponent = axis.exponent(found, "mesalens")
        return None if exponent is None else np.array([exponent.mean])

    case = f"exponent of time in {axis.of}, {axis.at}"
    return Target(case, before, axis.target, values, at_least=False, unit="")


LENGTH = "L = {}, n = 200, batch 256"
OPTIMUM = "optimum --dim 20"

TARGETS = (
    speed("L = 1, n = 10, batch 2,048", "9.7", 10, "depth", "L = 1, n = 10, batch 2,048"),
    speed("L = 2, n = 10, batch 2,048", "4.7", 6, "depth", "L = 2, n = 10, batch 2,048"),
    speed("L = 5, n = 10, batch 2,048", "6.2", 7, "depth", "L = 5, n = 10, batch 2,048"),
    speed("L = 12, n = 10, batch 2,048", "4.3", 6, "depth", "L = 12, n = 10, batch 2,048"),
    uncut(2, "–"),
    uncut(5, "– (3.6 times the textbook's speed)"),
    uncut(12, "–"),
    speed("L = 1, n = 200, batch 256", "42", 50, "length, one layer", LENGTH.format(1)),
    speed("L = 5, n = 200, batch 256", "52", 60, "length, five layers", LENGTH.format(5)),
    speed(
        "L = 5, n = 200, batch 256, cut at ±10",
        "7.5",
        40,
        "length, five layers",
        LENGTH.format(5) + ", cut at ±10",
    ),
    speed(
        "L = 5, d = 20, n = 10, batch 256",
        "1.3",
        3,
        "width, five layers",
        "L = 5, n = 10, d = 20, batch 256",
    ),
    speed(
        "L = 5, d = 40, n = 10, batch 256",
        "1.9",
        3,
        "width, five layers",
        "L = 5, n = 10, d = 40, batch 256",
    ),
    speed("`copying` model", "3.7", 5, "transformers", "copying"),
    speed("`sine` model", "1.7", 3, "transformers", "sine"),
    speed("softmax, two heads, one layer", "–", 2, "transformers", "softmax, two heads"),
    speed("causal GPT-like, four layers, width 64", "–", 2, "transformers", "GPT-like"),
    wait("cold start to the first steps, L = 1", "3.6", 2, "cold start", "L = 1", "mesalens"),
    wait("cold start to the first steps, L = 5", "4.6", 3, "cold start", "L = 5", "mesalens"),
    wait(
        "`mesalens optimum --dim 20`, programs stored",
        "1.7 to 2.3",
        1.2,
        "optimum",
        OPTIMUM,
        "filled",
    ),
    wait("the same, nothing stored", "–", 1.2, "optimum", OPTIMUM, "empty"),
    wait(
        "`sine` and `teachers`, nothing stored",
        "144 + 184",
        60,
        "nonlinear parts",
        "sine and teachers",
        "empty",
    ),
    Target("8 seeds", "5.5", 6, eight_seeds, at_least=False, unit="times the time of one"),
    growth(3, "0.72"),
    growth(4, "0.39"),
    growth(5, "0.03"),
)
