"""Risk over depth."""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes


def risk_over_depth(axes: Axes, risks: xr.Dataset, *, above: float = 10.0) -> None:
    """The risks of `mesalens.analysis.risk_by_depth` on a log axis, one line for each damping, dark for small ones.

    A dotted line is the risk before the first application. Lines that diverge leave the figure at `above` times that. The key stands to
    the right of the axes.
    """
    start = float(risks.risk.isel(damping=0, times=0))
    ordered = risks.risk.sortby("damping", ascending=False)
    colors = mpl.colormaps["viridis_r"](np.linspace(0.15, 1, ordered.sizes["damping"]))
    for color, line in zip(colors, ordered, strict=True):
        shown = np.minimum(line, 1e3 * above * start)  # an infinite value has no place to draw a line to
        axes.plot(risks.times, shown, color=color, label=f"λ = {float(line.damping):g}")
    axes.axhline(start, color="#555555", linestyle=":", linewidth=1, label="before")
    drawn = ordered.values[(ordered.values > 0) & (ordered.values <= above * start)]
    least = drawn.min() if drawn.size else start
    axes.set(yscale="log", ylim=(least / 1.5, above * start), xlim=(0, int(risks.times[-1])))
    axes.set(xlabel="applications of the layer", ylabel="risk  E(ŷ − y)²")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
