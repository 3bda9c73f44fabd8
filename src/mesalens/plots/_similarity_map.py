"""`similarity_map`: two learners compared, layer by iterate."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

MOST_NUMBERS = 12
"""With more rows or columns, the cells are too small for numbers."""


def similarity_map(axes: Axes, similarity: xr.Dataset, *, floor: float = 1e-4) -> AxesImage:
    """Draws the `difference` of two learners as a map, layer by iterate.

    Rows are layers, columns are iterates, and light cells are where predictions agree. The nearest
    iterate of each layer is framed. If there are few cells, their numbers are written in them.

    Args:
        axes: The axes to draw on.
        similarity: The result of [`similarity`][mesalens.analysis.similarity].
        floor: Colours are on a log scale from `floor` (and all below) to 1 (and all above).

    Returns:
        The image.
    """
    difference = similarity.difference.transpose("layer", "iterate")
    rows, columns = difference.shape
    shown, norm = np.clip(difference, floor, 1), LogNorm(floor, 1)
    image = axes.imshow(shown, cmap="viridis_r", norm=norm, interpolation="nearest", aspect="auto")
    if max(rows, columns) <= MOST_NUMBERS:
        for (row, column), value in np.ndenumerate(difference):
            color = "white" if value > floor**0.5 else "black"
            text = _number(value)
            axes.text(column, row, text, color=color, ha="center", va="center", size="x-small")
    for row, column in enumerate(similarity.nearest.values):
        corner = (column - 0.5, row - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#d55e00", linewidth=2))
    axes.grid(False)
    for axis, label, length in ((axes.xaxis, "iterate", columns), (axes.yaxis, "layer", rows)):
        axis.set_ticks(range(0, length, -(-length // MOST_NUMBERS)))
        axis.set_label_text(label)
    return image


def _number(value: float) -> str:
    """At most four characters, as a cell has no room for more: 0.12, 3e−5, 6e2."""
    if 0.01 <= value < 99.5 or not 0 < value < np.inf:
        return f"{value:.2g}"
    return f"{value:.0e}".replace("e-0", "e−").replace("e+0", "e").replace("e+", "e")
