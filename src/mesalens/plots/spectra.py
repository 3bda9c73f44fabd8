"""Spectra of the inputs, layer by layer."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes


def spectra(axes: Axes, curvature: xr.Dataset, *, color: str, bins: int = 60, decades: float = 4.0) -> None:
    """Histograms of the eigenvalues of `mesalens.analysis.curvature`, one above the other, the prompt's own at the top.

    Eigenvalues are in units of their mean in that layer, on a log axis that ends `decades` below the largest; smaller ones are in the
    first bin, and those that are not finite are left out. All histograms have the same area. Beside each stands κ, the geometric mean of
    the condition numbers.
    """
    scaled = curvature.eigenvalues / curvature.eigenvalues.mean(("prompt", "eigenvalue"))
    rows = [row[np.isfinite(row)] for row in scaled.values]
    top = max((row.max() for row in rows if row.size), default=1.0)
    edges = np.geomspace(top / 10**decades, top, bins + 1)
    heights = [np.histogram(np.clip(row, edges[0], edges[-1]), edges)[0] / max(row.size, 1) for row in rows]
    scale = 0.85 / max(np.max(heights), 1 / bins)
    ticks = []
    for place, (layer, height) in enumerate(zip(curvature.layer.values, heights, strict=True)):
        axes.stairs(scale * height - place, edges, baseline=-place, fill=True, color=color, alpha=0.5, linewidth=0)
        axes.stairs(scale * height - place, edges, baseline=-place, color=color, linewidth=1)
        condition = float(np.exp(curvature.log_condition[place]))
        ticks.append(f"{f'after layer {layer}' if layer else 'the prompt'}\nκ = {condition:.3g}")
    axes.set(xscale="log", xlim=(edges[0], edges[-1]), xlabel="eigenvalue of $X^T X/n$, over the layer's mean")
    axes.set_yticks(0.3 - np.arange(len(ticks)), ticks)
    axes.set_ylim(0.95 - len(ticks), 1)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
