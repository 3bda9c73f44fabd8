"""The appearance of figures: a Matplotlib style, and a colour for each kind of learner."""

from contextlib import AbstractContextManager

import matplotlib as mpl

# Colours that are distinct with any colour vision (Okabe and Ito)
TRAINED = "#0072b2"
"""The colour of trained learners, blue."""
REFERENCE = "#d55e00"
"""The colour of what they are compared with, vermilion."""
INTERPOLATED = "#009e73"
"""The colour of weights between the two, green."""
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
    """A context with the style of the reports. Figures made outside it follow the rcParams."""
    return mpl.rc_context(_STYLE)
