"""Curves with a band over seeds."""

import xarray as xr
from matplotlib.axes import Axes


def curve(axes: Axes, values: xr.DataArray, *, color: str, label: str | None = None, **line) -> None:
    """The mean over `seed` as a line along the other dimension, and a band from the least to the greatest seed.

    Raises `ValueError` where the values have not exactly one dimension beside `seed`.
    """
    (along,) = set(values.dims) - {"seed"}
    x = values[along]
    if "seed" in values.dims and values.sizes["seed"] > 1:
        axes.fill_between(x, values.min("seed"), values.max("seed"), color=color, alpha=0.2, linewidth=0)
    mean = values.mean("seed") if "seed" in values.dims else values
    axes.plot(x, mean, color=color, label=label, **line)
