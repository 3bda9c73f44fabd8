"""`attention_map`: attention weights as a heat map."""

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.image import AxesImage

from mesalens.plots._heat_map import heat_map

# The half of `heat_map`'s colours above 0, so that equal weights have equal colours in maps with
# and without negative weights
_POSITIVE = ListedColormap(mpl.colormaps["RdBu_r"](np.linspace(0.5, 1, 256)))


def attention_map(
    axes: Axes,
    weights: Float[np.ndarray, "rows seen"],
    *,
    limit: float | None = None,
    every: int = 5,
) -> AxesImage:
    """Draws attention weights as a heat map: each row attends to those across.

    Args:
        axes: The axes to draw on.
        weights: The weights, of shape (rows, seen rows). White is 0, red is positive, blue
            negative.
        limit: The weight with the darkest colour. By default the largest.
        every: Rows are counted from 1, and every row whose number this divides has a tick.

    Returns:
        The image.
    """
    image = heat_map(axes, weights, limit=limit)
    if weights.min() >= 0:
        image.set(cmap=_POSITIVE, clim=(0, image.norm.vmax))
    for axis, length in ((axes.yaxis, weights.shape[0]), (axes.xaxis, weights.shape[1])):
        numbers = [1, *range(every, length + 1, every)]
        axis.set_ticks([number - 1 for number in numbers], [str(number) for number in numbers])
    axes.set(xlabel="attended row", ylabel="attending row")
    return image
