"""The appearance of figures: a Matplotlib style, and a colour for each kind of learner."""

from contextlib import AbstractContextManager

import matplotlib as mpl

# Colours that are distinct with any colour vision (Okabe and Ito)
TRAINED = "#0072b2"
"""The colour of a trained model, blue."""
REFERENCE = "#d55e00"
"""The colour of what it is compared with, vermilion."""
INTERPOLATED = "#009e73"
"""The colour of a model interpolated between two others, green."""
NEUTRAL = "#555555"
"""The colour of everything else, grey."""

_STYLE: dict = {
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text as text; the default draws it as shapes that cannot be searched
}


def style() -> AbstractContextManager[None]:
    """The Matplotlib style of the reports, as a context.

    Returns:
        A context manager. Figures made outside it follow the user's rcParams.

    Examples:
        >>> from mesalens import plots
        >>> import matplotlib.pyplot as plt
        >>> with plots.style():
        ...     figure, axes = plt.subplots()
        >>> plt.close(figure)
    """
    return mpl.rc_context(_STYLE)
