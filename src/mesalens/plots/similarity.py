"""Two learners side by side, layer by iterate."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

MOST_NUMBERS = 12
"""Rows or columns above which cells are too small for numbers."""


def similarity_map(axes: Axes, similarity: xr.Dataset, *, floor: float = 1e-4) -> AxesImage:
    """The `difference` of `mesalens.analysis.similarity`: a row for each layer, a column for each iterate.

    Light where predictions agree, on a log scale from `floor` (and all below) to 1 (and all above); the nearest iterate of each layer is
    framed. Cells have their number where there are few. The image is for a colour bar.
    """
    difference = similarity.difference.transpose("layer", "iterate")
    rows, columns = difference.shape
    image = axes.imshow(
        np.clip(difference, floor, 1), cmap="viridis_r", norm=LogNorm(floor, 1), interpolation="nearest", aspect="auto"
    )
    if max(rows, columns) <= MOST_NUMBERS:
        for (row, column), value in np.ndenumerate(difference):
            dark = value > floor**0.5
            text = f"{value:.0e}".replace("e-0", "e−") if 0 < value < 0.01 else f"{value:.2g}"
            axes.text(
                column, row, text, ha="center", va="center", fontsize="x-small", color="white" if dark else "black"
            )
    for row, column in enumerate(similarity.nearest.values):
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="#d55e00", linewidth=2))
    axes.grid(False)
    for axis, label, length in ((axes.xaxis, "iterate", columns), (axes.yaxis, "layer", rows)):
        axis.set_ticks(range(0, length, -(-length // MOST_NUMBERS)))
        axis.set_label_text(label)
    return image
