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
    """Times and losses of plateaus, and the times of the drops between them, one fewer."""

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
    of the largest |g|, and a plateau is where |g| is least between two drops.

    Args:
        times: Increasing and above 0, best evenly in log t, with some ten within each drop.
        losses: L at these times.
        least: The least prominence of a drop, from 0 to 1.

    Raises:
        ValueError: if times do not increase from above 0, losses are not finite or as many, or
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
