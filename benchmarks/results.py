"""What was measured, read from JSON, and the statistics that the page has of it."""

from typing import Any, NamedTuple

import numpy as np
import scipy.stats


class Results:
    """The parts that were measured, each with `rows`, `conditions` and more.

    A row has a name and its ways; a way has its `seconds`, one value a round, or `not_run`, which
    says why.
    """

    def __init__(self, parts: dict[str, Any]):
        self.parts = parts

    def rows(self, part: str) -> list[dict[str, Any]]:
        """The rows of a part; none if it was not measured."""
        return self.parts.get(part, {}).get("rows", [])

    def seconds(self, part: str, row: str, way: str = "mesalens") -> np.ndarray | None:
        """The seconds of a way, one value a round; None if they were not measured."""
        return next(
            (seconds_of(found, way) for found in self.rows(part) if found["name"] == row), None
        )

    def ratio(self, part: str, row: str, over: str, under: str = "mesalens") -> np.ndarray | None:
        """The seconds of a way over those of another, round by round."""
        return divided(self.seconds(part, row, over), self.seconds(part, row, under))


class Exponent(NamedTuple):
    """The exponent b of the fit time ~ size^b."""

    mean: float
    low: float
    high: float
    sizes: list[int]

    def __str__(self):
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


class Axis(NamedTuple):
    """Rows of a part in which one size varies, up to the largest of the fit, and the largest
    exponent that is wanted.
    """

    of: str
    size: str
    part: str
    at: str
    target: float | None = None
    largest: int = 1000

    def exponent(self, results: Results, way: str) -> Exponent | None:
        """The exponent of a way over the rows in which it ran; None if these are fewer than three.

        It is fitted in each round by least squares of the logarithms. The interval is that of level
        95% for its mean over the rounds, by Student's t: it has the noise of the rounds, and not
        how far times are from a power.
        """
        ran = [
            (row[self.size], seconds_of(row, way))
            for row in results.rows(self.part)
            if row["clip"] is None and row[self.size] <= self.largest
        ]
        ran = [(size, seconds) for size, seconds in ran if seconds is not None]
        if len(ran) < 3:
            return None
        sizes, seconds = [size for size, _ in ran], np.array([seconds for _, seconds in ran]).T
        fitted = exponents(sizes, seconds)
        mean, rounds = float(fitted.mean()), len(fitted)
        if rounds < 2:
            return Exponent(mean, -np.inf, np.inf, sizes)
        half = scipy.stats.t.ppf(0.975, rounds - 1) * fitted.std(ddof=1) / rounds**0.5
        return Exponent(mean, mean - float(half), mean + float(half), sizes)


AXES = (
    Axis("L", "layers", "depth", "n = d = 10, batch 2,048"),
    Axis("d", "dim", "width, one layer", "L = 1, n = 10, batch 2,048"),
    Axis("d", "dim", "width, five layers", "L = 5, n = 10, batch 256"),
    Axis("n", "context_length", "length, one layer", "L = 1, d = 10, batch 256", 1.1),
    Axis("n", "context_length", "length, five layers", "L = 5, d = 10, batch 256", 1.1),
    Axis("n, S drawn", "context_length", "contexts", "L = 5, d = 10, batch 256", 0.1),
    Axis("seeds", "seeds", "seeds", "L = 1, n = d = 10, batch 2,048"),
)
"""The growth of time that the page shows."""


def exponents(sizes: Any, seconds: Any) -> np.ndarray:
    """B of the least-squares fit `log seconds = a + b log size` in each round; seconds are rounds ×
    sizes.
    """
    return np.polyfit(np.log(sizes), np.log(np.asarray(seconds)).T, 1)[0]


def seconds_of(row: dict[str, Any], way: str) -> np.ndarray | None:
    """The seconds of a way in a row; None if it did not run."""
    seconds = row["ways"].get(way, {}).get("seconds")
    return None if seconds is None else np.array(seconds)


def divided(over: np.ndarray | None, under: np.ndarray | None) -> np.ndarray | None:
    """The ratio; None if one of them is."""
    return None if over is None or under is None else over / under
