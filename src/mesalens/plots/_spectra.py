"""`spectra`: eigenvalues of the inputs, layer by layer."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes


def spectra(
    axes: Axes, curvature: xr.Dataset, *, color: str, bins: int = 60, decades: float = 4.0
) -> None:
    """Draws histograms of the eigenvalues of `curvature`, one below the other for each layer.

    The spectrum of the prompt is at the top. Eigenvalues are in units of their mean in that layer;
    those that are not finite are omitted. All histograms have the same area. κ is the geometric
    mean of the condition numbers.

    Args:
        axes: The axes to draw on.
        curvature: The result of [`input_spectra`][mesalens.analysis.input_spectra].
        color: The colour of the histograms.
        bins: The number of bins.
        decades: The number of decades on the log axis, down from the largest eigenvalue. The first
            bin contains all smaller ones.
    """
    scaled = curvature.eigenvalues / curvature.eigenvalues.mean(("prompt", "eigenvalue"))
    rows = [row[np.isfinite(row)] for row in scaled.values]
    top = max((row.max() for row in rows if row.size), default=1.0)
    edges = np.geomspace(top / 10**decades, top, bins + 1)
    counts = [np.histogram(np.clip(row, edges[0], edges[-1]), edges)[0] for row in rows]
    heights = np.array([count / max(row.size, 1) for count, row in zip(counts, rows, strict=True)])
    heights *= 0.85 / max(heights.max(), 1 / bins)
    ticks = []
    for place, (layer, height) in enumerate(zip(curvature.layer.values, heights, strict=True)):
        look = {"facecolor": (color, 0.5), "edgecolor": color, "linewidth": 1}
        axes.stairs(height - place, edges, baseline=-place, fill=True, **look)
        condition = float(np.exp(curvature.log_condition[place]))
        ticks.append(f"{f'after layer {layer}' if layer else 'the prompt'}\nκ = {condition:.3g}")
    label = "eigenvalue of $X^T X/n$, over the layer's mean"
    axes.set(xscale="log", xlim=(edges[0], edges[-1]), xlabel=label)
    axes.set_yticks(0.3 - np.arange(len(ticks)), ticks)
    axes.set_ylim(0.95 - len(ticks), 1)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
