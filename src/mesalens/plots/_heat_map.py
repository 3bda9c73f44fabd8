"""`heat_map`: a matrix in colours."""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.image import AxesImage


def heat_map(
    axes: Axes, matrix: Float[np.ndarray, "rows columns"], *, limit: float | None = None
) -> AxesImage:
    """Draws the entries of a matrix in colours: white is 0, blue is negative, red is positive.

    Args:
        axes: The axes to draw on.
        matrix: The matrix.
        limit: The darkest colours are ± this. By default the largest absolute entry.

    Returns:
        The image.
    """
    limit = float(np.abs(matrix).max()) if limit is None else limit
    axes.grid(False)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    return axes.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
