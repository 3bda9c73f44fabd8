"""How figures look: a Matplotlib style that people can replace, and one colour for each kind of learner."""

from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib as mpl

TRAINED, REFERENCE, INTERPOLATED, NEUTRAL = "#0072b2", "#d55e00", "#009e73", "#555555"
"""Colours that people with any colour vision tell apart (Okabe and Ito)."""

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
    "pdf.fonttype": 42,
}


@contextmanager
def style() -> Iterator[None]:
    """The style of the reports; figures made outside it follow your own rcParams."""
    with mpl.rc_context(_STYLE):
        yield
