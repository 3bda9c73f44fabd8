"""Attention maps."""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from mesalens.plots.matrices import heat_map


def attention_map(
    axes: Axes, weights: Float[np.ndarray, "rows seen"], *, limit: float | None = None, every: int = 5
) -> AxesImage:
    """How each row (down) weights the rows that it sees (across), counted from 1; white is 0, red above, blue below."""
    image = heat_map(axes, weights, limit=limit)
    for axis, length in ((axes.yaxis, weights.shape[0]), (axes.xaxis, weights.shape[1])):
        places = np.arange(0, length, every)
        axis.set_ticks(places, [str(place + 1) for place in places])
    axes.set(xlabel="row that is seen", ylabel="row that asks")
    return image
