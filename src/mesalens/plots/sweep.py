"""What a sweep found: losses over the steps, and the last losses of all runs."""

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
"""The styles of lines, one after the other, for combinations of the other axes."""

MOST_LINES = 12
"""More combinations of the other axes than these are not told apart by colours."""


def sweep_figure(metrics: xr.Dataset, name: str = "loss") -> Figure:
    """Two panels for the metrics of a sweep: a metric over the steps, and its last value against the longest axis.

    Left is the median over seeds for each point of the grid, with the middle half as a band. Right each dot is one run; lines join
    the medians, one for each combination of the other axes; runs that diverged are crosses at the upper edge.

    Raises `ValueError` where the metric is none of the dataset's.
    """
    values = metrics[one_of("metric", name, map(str, metrics.data_vars))]
    axes = [axis for axis in values.dims if axis not in ("seed", "step")]
    along = max(axes, key=lambda axis: values.sizes[axis])
    others = [axis for axis in axes if axis != along]
    figure, (over_steps, at_end) = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
    _over_steps(over_steps, values, along, others)
    _at_end(at_end, metrics, values.isel(step=-1), str(along), others)
    over_steps.set(xlabel="step", ylabel=_words(name), yscale=_scale(values))
    return figure


def _over_steps(panel: Axes, values: xr.DataArray, along, others) -> None:
    shown = values.isel(step=slice(1, None))
    colors = mpl.colormaps["viridis"](np.linspace(0, 0.92, values.sizes[along]))
    for place, color in enumerate(colors):
        label: str | None = _label(values[along].values[place])
        for other, line in zip(_combinations(values, others), itertools.cycle(LINES)):
            some = shown.isel({along: place}).sel(other)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # where every seed has diverged there is nothing
                low, middle, high = (some.quantile(q, "seed", skipna=True) for q in (0.25, 0.5, 0.75))
            panel.fill_between(some.step, low, high, color=color, alpha=0.15, linewidth=0)
            panel.plot(some.step, middle, line, color=color, label=label, linewidth=1.2)
            label = None
    panel.legend(title=_words(str(along)), loc="center left", bbox_to_anchor=(1.0, 0.5))


def _at_end(panel: Axes, metrics: xr.Dataset, last: xr.DataArray, along: str, others) -> None:
    combinations = list(_combinations(last, others))
    colors = mpl.colormaps["cividis"](np.linspace(0, 0.85, len(combinations)))
    numeric = _numeric(last[along])
    x = last[along].values if numeric else np.arange(last.sizes[along])
    logarithmic = numeric and bool((x > 0).all() and x.max() > 5 * x.min())
    apart = np.linspace(-0.008, 0.008, last.sizes["seed"])
    for place, (color, other) in enumerate(zip(colors, combinations, strict=True)):
        some = last.sel(other).transpose(along, "seed")
        diverged = (metrics.ending.sel(other).transpose(along, "seed") == "diverged").values
        # Side by side, so that neither combinations nor seeds hide each other
        shift = (place - (len(combinations) - 1) / 2) * 0.02
        at, dots = _moved(x, shift, logarithmic), _moved(x[:, None], shift + apart, logarithmic)
        panel.plot(dots.ravel(), some.values.ravel(), ".", color=color, alpha=0.35, markersize=4)
        label = ", ".join(f"{_words(axis)} {_label(value)}" for axis, value in other.items())
        panel.plot(
            at,
            some.median("seed"),
            LINES[place % len(LINES)],
            color=color,
            linewidth=1.4,
            label=label if len(combinations) <= MOST_LINES else None,
        )
        for position, count in zip(at, diverged.sum(axis=1), strict=True):
            if count:
                panel.plot(position, 1, "x", color=color, transform=panel.get_xaxis_transform(), clip_on=False)
                panel.annotate(
                    f"{count}",
                    (position, 1),
                    xycoords=panel.get_xaxis_transform(),
                    xytext=(4, 2),
                    textcoords="offset points",
                    fontsize=8,
                )
    if not numeric:
        panel.set_xticks(x, [str(value) for value in last[along].values])
    elif logarithmic:
        panel.set_xscale("log")
    panel.set(
        xlabel=_words(along), ylabel="", yscale=_scale(last), title="after the last step, a dot a run (× : diverged)"
    )
    if others and len(combinations) <= MOST_LINES:
        panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _scale(values: xr.DataArray) -> str:
    """A logarithmic one, where there is anything to be on it: all runs may have diverged."""
    return "log" if (values > 0).any() else "linear"


def _moved(x: np.ndarray, share, logarithmic: bool) -> np.ndarray:
    """Places moved to the right by a share of the range."""
    if logarithmic:
        return x * (x.max() / x.min()) ** share
    return x + share * (np.ptp(x) or 1)


def _combinations(values: xr.DataArray, axes):
    for point in itertools.product(*(values[axis].values.tolist() for axis in axes)):
        yield dict(zip(axes, point, strict=True))


def _label(value) -> str:
    return f"{value:g}" if isinstance(value, int | float | np.number) else str(value)


def _numeric(axis: xr.DataArray) -> bool:
    return np.issubdtype(axis.dtype, np.number)


def _words(name) -> str:
    return str(name).replace("_", " ")
