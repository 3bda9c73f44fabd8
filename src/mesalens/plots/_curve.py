"""`curve`: a curve with a band over seeds."""

from typing import Any

import xarray as xr
from matplotlib.axes import Axes


def curve(
    axes: Axes, values: xr.DataArray, *, color: str, label: str | None = None, **line: Any
) -> None:
    """Draws the mean over `seed` as a line, with a band from the smallest to the largest value.

    Args:
        axes: The axes to draw on.
        values: Values with one dimension besides `seed`, whose coordinate is the x axis; `seed` may
            be absent.
        color: The colour of the line and the band.
        label: The label in a legend.
        **line: Further arguments of `axes.plot`.

    Raises:
        ValueError: If the values do not have exactly one dimension besides `seed`.
    """
    (along,) = set(values.dims) - {"seed"}
    seeds = values if "seed" in values.dims else values.expand_dims("seed")
    if seeds.sizes["seed"] > 1:
        low, high = seeds.min("seed"), seeds.max("seed")
        axes.fill_between(values[along], low, high, color=color, alpha=0.2, linewidth=0)
    axes.plot(values[along], seeds.mean("seed"), color=color, label=label, **line)
