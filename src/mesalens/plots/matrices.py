"""Matrices as heat maps."""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.image import AxesImage


def heat_map(axes: Axes, matrix: Float[np.ndarray, "rows columns"], *, limit: float | None = None) -> AxesImage:
    """The entries in colour, white at 0, blue below and red above, from -limit to limit (the largest entry by default)."""
    limit = float(np.abs(matrix).max()) if limit is None else limit
    axes.grid(False)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    return axes.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
