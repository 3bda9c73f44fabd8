"""The figure of an `Identification`: distances, spectral filter, fingerprint."""

import io
import textwrap
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import blended_transform_factory

from mesalens.plots import NEUTRAL, REFERENCE, TRAINED, style

ROWS = 12
"""The largest number of candidates shown, the nearest on the task first."""

LOWEST = 1e-8

COLORS = (REFERENCE, "#009e73", "#cc79a7", "#e69f00")


def figure(report: Any) -> Figure:
    """The nearest candidates in all regimes, the spectral filter (or influence), the properties."""
    with style(), mpl.rc_context({"axes.grid": False}):
        drawn = Figure(figsize=(10, 7.6), layout="constrained")
        if report.fingerprint is None:
            axes = drawn.subplots()
            axes.set_axis_off()
            axes.text(0.5, 0.5, "The predictions do not depend on the context.", ha="center")
            return drawn
        halves: Any = drawn.subfigures(2, 1, height_ratios=[1.25, 1])
        top, bottom = halves
        _distances(top.subplots(), report)
        left, right = bottom.subplots(1, 2, width_ratios=[1.35, 1])
        if report.filter is None:
            _influence(left, report)
        else:
            _filter(left, report)
        _fingerprint(right, report)
    return drawn


def _distances(axes: Axes, report: Any) -> None:
    table, margin = report.dataset, report.about["margin"]
    order = table.distance.sel(regime="task").values.argsort(kind="stable")
    first = [table.candidate.values.tolist().index(name) for name in report.names]
    rows = list(dict.fromkeys([*first, *order.tolist()]))[:ROWS]
    shown = table.isel(candidate=rows)
    values = np.clip(np.where(np.isinf(shown.distance), 1e3, shown.distance), LOWEST, 1e3)
    image = axes.imshow(
        np.ma.masked_invalid(values),
        norm=LogNorm(1e-4 * margin, 1e4 * margin),
        cmap=mpl.colormaps["RdYlBu_r"].with_extremes(bad="0.88"),
        aspect="auto",
    )
    light = image.to_rgba(values)[..., :3] @ np.array([0.3, 0.59, 0.11])
    for i, candidate in enumerate(shown.candidate.values):
        for j, regime in enumerate(shown.regime.values):
            cell = shown.sel(candidate=candidate, regime=regime)
            value = float(cell.distance)
            if np.isnan(value):
                continue
            words = "0" if value < LOWEST else "∞" if np.isinf(value) else f"{value:.1g}"
            words = ">1e6" if 1e6 < value < np.inf else words
            mark = {1.0: "bold", 0.0: "normal"}.get(float(cell.equivalent), "normal")
            color = "black" if light[i, j] > 0.5 else "white"
            axes.text(j, i, words, ha="center", va="center", fontsize=8, color=color, weight=mark)
    axes.set_xticks(range(shown.regime.size), shown.regime.values, rotation=30, ha="right")
    labels = [f"▸ {n}" if n in report.names else str(n) for n in shown.candidate.values]
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    about = "distance of each candidate in each regime (grey: not measured)"
    axes.set_title(f"{_title(report)}\n{about}", loc="left")
    bar = axes.figure.colorbar(image, ax=axes, pad=0.01, extend="both")
    bar.ax.axhline(margin, color="black")
    bar.set_label("distance, in units of what\nthe context explains (line: margin)")


def filter_image(report: Any) -> bytes:
    """The spectral filter alone, as an SVG."""
    with style():
        drawn = Figure(figsize=(5, 3), layout="constrained")
        _filter(drawn.subplots(), report)
        content = io.BytesIO()
        drawn.savefig(content, format="svg")
    return content.getvalue()


def _title(report: Any) -> str:
    return str(report).splitlines()[0]


def _filter(axes: Axes, report: Any) -> None:
    found = report.filter
    layers = len(found.values)
    shades = mpl.colormaps["Blues"](np.linspace(0.45, 1, layers)) if layers > 1 else [TRAINED]
    for layer, (g, half, color) in enumerate(
        zip(found.values, found.simultaneous, shades, strict=True)
    ):
        label = "the learner" if layers == 1 else f"layer {layer + 1}"
        axes.fill_between(found.eigenvalues, g - half, g + half, color=color, alpha=0.25, lw=0)
        axes.plot(found.eigenvalues, g, color=color, label=label, lw=2.2)
    styles = ("--", ":", "-.", (0, (1, 1)))
    drawn = zip(report.candidate_filters.items(), COLORS, styles, strict=False)
    for (name, g), color, line in drawn:
        axes.plot(found.eigenvalues, g, color=color, ls=line, label=name, lw=1.6)
    axes.grid(True, alpha=0.25)
    low, high = axes.get_ylim()
    if high - low < 0.1 * abs(high + low):  # otherwise a flat filter would look jagged
        middle = (low + high) / 2
        axes.set_ylim(middle - 0.15 * abs(middle), middle + 0.15 * abs(middle))
    axes.set(xscale="log", xlabel="eigenvalue λ of $X^T X/n$", ylabel="g(λ)")
    few = found.eigenvalues[-1] < 100 * found.eigenvalues[0]
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title("spectral filter with simultaneous confidence band", loc="left")
    axes.legend(fontsize=8)


def _influence(axes: Axes, report: Any) -> None:
    found = report.fingerprint
    axes.bar(found.positions, found.influence, color=TRAINED, width=0.7)
    axes.axhline(1, color=NEUTRAL, lw=0.8)
    axes.set(xlabel="position of the example", ylabel="influence of its label (mean 1)")
    axes.set_title("influence of each example", loc="left")
    note = f"no spectral filter: {report.no_filter}"
    lines = textwrap.fill(note, 80)  # a long line would shrink the axes
    axes.text(0, -0.25, lines, transform=axes.transAxes, fontsize=8, color=NEUTRAL, va="top")


def _fingerprint(axes: Axes, report: Any) -> None:
    margin = report.about["margin"]
    found = [each for each in report.fingerprint.properties if not each.why]
    low = LOWEST
    for row, each in enumerate(found):
        value, ends = max(each.deviation.value, low), each.deviation
        color = {True: "#009e73", False: REFERENCE, None: NEUTRAL}[each.holds]
        axes.plot([max(ends.low, low), max(ends.high, low)], [row, row], color=color, lw=2)
        axes.plot(value, row, "o", color=color, ms=5)
        words = {True: "holds", False: "does not hold", None: "undecided"}[each.holds]
        axes.text(1.02, row, words, color=color, fontsize=8, va="center", transform=_across(axes))
    axes.axvline(margin, color="black", lw=0.8)
    label = "deviation, in units of what the context explains"
    axes.set(xscale="log", xlim=(low / 2, 1e2), xlabel=label)
    axes.set_yticks(range(len(found)), [each.name for each in found])
    axes.invert_yaxis()
    axes.set_title("properties (line: the margin)", loc="left")


def _across(axes: Axes) -> Any:
    """Axes coordinates along x, data coordinates along y."""
    return blended_transform_factory(axes.transAxes, axes.transData)
