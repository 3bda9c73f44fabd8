"""Where a loss stands still between its drops."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.signal import find_peaks

from mesalens.checks import InputError, share

ROUNDING = 1e-12
"""A loss that varies by a smaller share of itself is constant."""


class Plateaus(NamedTuple):
    """The plateaus of a loss and the drops between them.

    Attributes:
        times: The time of each plateau.
        losses: The loss on each plateau.
        drops: The times of the drops, one fewer than plateaus.
    """

    times: Float[np.ndarray, " plateaus"]
    losses: Float[np.ndarray, " plateaus"]
    drops: Float[np.ndarray, " drops"]


def plateaus(
    times: Sequence[float] | Float[np.ndarray, " times"],
    losses: Sequence[float] | Float[np.ndarray, " times"],
    *,
    least: float = 0.05,
) -> Plateaus:
    """The plateaus of a loss: one before the first drop, one between each two, one after the last.

    A drop is a peak of the slope `g = -dL/d log t` whose prominence is at least the share `least`
    of the largest |g|. A plateau is where |g| is smallest between two drops.

    Args:
        times: Increasing times t above 0, best evenly spaced in log t, with about ten in each drop.
        losses: The loss L at these times.
        least: The smallest prominence of a drop, between 0 and 1.

    Returns:
        The plateaus and drops.

    Raises:
        ValueError: If times do not increase from above 0, losses are not finite or as many, or
            there are fewer than three.
    """
    share("least", least)
    times, losses = np.asarray(times, float), np.asarray(losses, float)
    if times.ndim != 1 or len(times) < 3 or times[0] <= 0 or not (np.diff(times) > 0).all():
        raise InputError("times must be at least three increasing numbers above 0.")
    if losses.shape != times.shape or not np.isfinite(losses).all():
        raise InputError(f"losses must be {len(times)} finite numbers, one for each of the times.")
    slope = -np.gradient(losses, np.log(times))
    # The slope of a constant is rounding
    largest = np.abs(slope).max() if np.ptp(losses) > ROUNDING * np.abs(losses).max() else np.inf
    # A drop may have begun before the first time, or not have ended at the last
    peaks = find_peaks(np.pad(slope, 1), prominence=least * largest)[0] - 1
    between = zip([0, *(peaks + 1)], [*peaks, len(times)], strict=True)
    flat = [a + int(np.argmin(np.abs(slope[a:b]))) for a, b in between if b > a]
    return Plateaus(times[flat], losses[flat], times[peaks])
