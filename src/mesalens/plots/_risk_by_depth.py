"""`risk_by_depth`: risk over the applications of a layer."""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from mesalens.plots._style import NEUTRAL


def risk_by_depth(axes: Axes, risks: xr.Dataset, *, above: float = 10.0) -> None:
    """Draws the risks of `risk_by_depth` on a log axis, a line for each damping.

    Small dampings are dark. A dotted line is the risk before the first application. The legend is
    to the right of the axes.

    Args:
        axes: The axes to draw on.
        risks: The result of [`risk_by_depth`][mesalens.analysis.risk_by_depth].
        above: The upper end of the axis, in units of the risk before the first application.
    """
    start = float(risks.risk.isel(damping=0, times=0))
    ordered = risks.risk.sortby("damping", ascending=False)
    colors = mpl.colormaps["viridis_r"](np.linspace(0.15, 1, ordered.sizes["damping"]))
    for color, line in zip(colors, ordered, strict=True):
        shown = np.minimum(line, 1e3 * above * start)  # no line is drawn to an infinite value
        axes.plot(risks.times, shown, color=color, label=f"λ = {float(line.damping):g}")
    axes.axhline(start, color=NEUTRAL, linestyle=":", linewidth=1, label="before")
    drawn = ordered.values[(ordered.values > 0) & (ordered.values <= above * start)]
    least = drawn.min() if drawn.size else start
    axes.set(yscale="log", ylim=(least / 1.5, above * start), xlim=(0, int(risks.times[-1])))
    axes.set(xlabel="applications of the layer", ylabel="risk  E(ŷ − y)²")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
