"""`sweep_figure`: the losses of a sweep over the steps, and those after the last step."""

import itertools
import warnings

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mesalens.checks import one_of

LINES = ("-", "--", ":", "-.")
"""The line styles of the combinations of the other axes, repeated if there are more."""

MOST_LINES = 12
"""With more combinations of the other axes, colours cannot be told apart, so no legend is drawn."""


def sweep_figure(metrics: xr.Dataset, name: str = "loss") -> Figure:
    """A figure of two panels for the metrics of a sweep.

    - Left: a metric over the steps. For each point of the grid, the line is the median over seeds
      and the band is the middle half.
    - Right: its last value, over the longest axis of the grid. Each dot is a run. Lines join the
      medians, one for each combination of the other axes. Crosses at the upper edge show the
      number of runs that diverged.

    Args:
        metrics: Metrics with the dimensions `seed`, `step` and the axes of the sweep.
        name: The name of the metric.

    Returns:
        The figure.

    Raises:
        InputError: If the dataset does not have the metric.
    """
    # Values before the first step are not drawn, and must not decide on the scale
    values = metrics[one_of("metric", name, map(str, metrics.data_vars))].isel(step=slice(1, None))
    grid = [str(axis) for axis in values.dims if axis not in ("seed", "step")]
    along = max(grid, key=lambda axis: values.sizes[axis])
    others = [axis for axis in grid if axis != along]
    points = itertools.product(*(values[axis].values.tolist() for axis in others))
    combinations = [dict(zip(others, point, strict=True)) for point in points]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
    _over_steps(left, values, along, combinations)
    left.set(xlabel="step", ylabel=_words(name), yscale=_scale(values))
    _at_end(right, values.isel(step=-1), metrics.ending == "diverged", along, combinations)
    return figure


def _over_steps(panel: Axes, values: xr.DataArray, along: str, combinations: list[dict]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where all seeds diverged, all are NaN
        quartiles = values.quantile((0.25, 0.5, 0.75), "seed", skipna=True)
    colors = mpl.colormaps["viridis"](np.linspace(0, 0.92, values.sizes[along]))
    for place, color in enumerate(colors):
        label: str | None = _label(values[along].values[place])
        for combination, line in zip(combinations, itertools.cycle(LINES)):
            low, middle, high = quartiles.isel({along: place}).sel(combination)
            panel.fill_between(values.step, low, high, color=color, alpha=0.15, linewidth=0)
            panel.plot(values.step, middle, line, color=color, label=label, linewidth=1.2)
            label = None
    panel.legend(title=_words(along), loc="center left", bbox_to_anchor=(1.0, 0.5))


def _at_end(
    panel: Axes, last: xr.DataArray, diverged: xr.DataArray, along: str, combinations: list[dict]
) -> None:
    colors = mpl.colormaps["cividis"](np.linspace(0, 0.85, len(combinations)))
    numeric = np.issubdtype(last[along].dtype, np.number)
    x = last[along].values if numeric else np.arange(last.sizes[along])
    logarithmic = numeric and bool((x > 0).all() and x.max() > 5 * x.min())
    spread = np.linspace(-0.008, 0.008, last.sizes["seed"])
    upper_edge = panel.get_xaxis_transform()
    for place, (color, combination) in enumerate(zip(colors, combinations, strict=True)):
        runs = last.sel(combination).transpose(along, "seed")
        counts = diverged.sel(combination).sum("seed").values
        # Combinations and seeds are drawn side by side, so that they do not hide each other
        shift = (place - (len(combinations) - 1) / 2) * 0.02
        middles = _moved(x, shift, logarithmic)
        dots = _moved(x[:, None], shift + spread, logarithmic)
        panel.plot(dots.ravel(), runs.values.ravel(), ".", color=color, alpha=0.35, markersize=4)
        label = ", ".join(f"{_words(axis)} {_label(value)}" for axis, value in combination.items())
        look = {"color": color, "linewidth": 1.4, "label": label}
        panel.plot(middles, runs.median("seed"), LINES[place % len(LINES)], **look)
        for position, count in zip(middles[counts > 0], counts[counts > 0], strict=True):
            panel.plot(position, 1, "x", color=color, transform=upper_edge, clip_on=False)
            place_of_text = {"xycoords": upper_edge, "textcoords": "offset points"}
            panel.annotate(str(count), (position, 1), (4, 2), fontsize=8, **place_of_text)
    if not numeric:
        panel.set_xticks(x, [str(value) for value in last[along].values])
    elif logarithmic:
        panel.set_xscale("log")
    panel.set(xlabel=_words(along), yscale=_scale(last))
    panel.set_title("after the last step, one dot per run (× : diverged)", pad=16)
    if any(combinations) and len(combinations) <= MOST_LINES:
        panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _scale(values: xr.DataArray) -> str:
    """A log scale, unless it would have nothing to show, as when all runs diverged."""
    return "log" if (values > 0).any() else "linear"


def _moved(x: np.ndarray, share, logarithmic: bool) -> np.ndarray:
    """Positions moved to the right by a share of their range."""
    if logarithmic:
        return x * (x.max() / x.min()) ** share
    return x + share * (np.ptp(x) or 1)


def _label(value) -> str:
    return f"{value:g}" if isinstance(value, int | float | np.number) else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")
