"""Standard figures of studies.

Figures are 6.5 to 9 inches wide, and the page shows each inch as 100 pixels, so that their text has
the same size. Seeds are drawn one by one, because the mean of seeds that end in different places
lies where none of them is. Legends are below the axes, where they hide no data.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mesalens import plots
from mesalens.atlas.experiment import Runs

NARROW, WIDE = 6.5, 9.0
"""Widths in inches."""

Grid = Mapping[str, Mapping[str, Any]]
"""Matrices by the label of their row, then by their title."""

_COLORS = (plots.TRAINED, plots.INTERPOLATED, "#cc79a7", "#e69f00", "#56b4e9", plots.NEUTRAL)
_LINES = (
    (plots.REFERENCE, "--"),
    (plots.NEUTRAL, ":"),
    ("black", "-."),
    ("#cc79a7", "--"),
    (plots.INTERPOLATED, "-."),
)
_UNCOUNTED = (0, (4, 1, 1, 1))
_MEASURES = {
    "relative_prediction_difference": "difference of predictions",
    "cosine": "cosine of sensitivities",
    "relative_sensitivity_difference": "difference of sensitivities",
}


def risk_over_training(
    groups: Mapping[str, Runs],
    lines: Mapping[str, Any],
    *,
    metric: str = "risk",
    ylabel: str = "risk  E(ŷ − y)²",
    log: bool = False,
    title: str | None = None,
    axes: Axes | None = None,
) -> Figure:
    """Draws a metric over training, a thin line for each seed, with horizontal lines of theory.

    Seeds that do not count are dash-dotted. A line ends where its training ended.

    Args:
        groups: Runs by label.
        lines: Values of theory by label; the first line is dashed, the second dotted.
        metric: The name of the metric.
        ylabel: The label of the y axis.
        log: Whether the y axis is logarithmic.
        title: The title of the axes.
        axes: The axes to draw in; by default those of a new figure.

    Returns:
        The figure.
    """
    axes = _axes(axes)
    for label, runs in groups.items():
        color = _color(axes, label)
        words = f"{label}, one line per seed" if len(groups) == 1 < len(runs) else label
        for run in runs:
            values = run.metrics[metric]
            look: Any = {"label": words} if run.counts else {"ls": _UNCOUNTED}
            axes.plot(values.step, values, color=color, alpha=0.7, linewidth=1, **look)
    runs = [run for group in groups.values() for run in group]
    if not all(run.counts for run in runs):
        look = {"color": plots.NEUTRAL, "ls": _UNCOUNTED, "linewidth": 1}
        axes.plot([], [], label="seeds that do not count", **look)
    for label, value in lines.items():
        color, dashes = _line(axes, label)
        axes.axhline(float(value), color=color, linestyle=dashes, label=label)
    axes.set(xlabel="training step", ylabel=ylabel, title=title or "")
    # The first and last values must be visible, but not the peaks of runs that diverge
    ends = [float(run.metrics[metric][end]) for run in runs for end in (0, -run.counts)]
    heights = [value for value in (*map(float, lines.values()), *ends) if np.isfinite(value)]
    if log:
        axes.set_yscale("log")
    elif max(heights, default=0) > 0:
        axes.set_ylim(min(0, *heights), 1.15 * max(heights))
    return legend_below(axes)


def alignment_over_training(runs: Mapping[str, Runs], references: Mapping[str, str]) -> Figure:
    """Draws how similar trained learners and references are during training.

    There is a row for each group of runs, and a column for each of the three measures of
    `compared`. Lines are the seeds that count; dotted lines are perfect agreement.

    Args:
        runs: Runs by the title of their row.
        references: The prefix of the names of the measures, by label.

    Returns:
        The figure.
    """
    figure = Figure((WIDE, 2.3 * len(runs) + 0.4), layout="constrained")
    grid = figure.subplots(len(runs), 3, squeeze=False, sharex="row")
    for axes, words in zip(grid[0], _MEASURES.values(), strict=True):
        axes.set_title(words)
    for row, (title, group) in zip(grid, runs.items(), strict=True):
        for axes, measure in zip(row, _MEASURES, strict=True):
            for label, prefix in references.items():
                look = {"color": _color(axes, label), "label": label}
                for run in group.shown:
                    values = run.metrics[prefix + measure]
                    axes.plot(values.step, values, alpha=0.7, linewidth=1, **look)
            agreement = float(measure == "cosine")
            axes.axhline(agreement, color=plots.NEUTRAL, ls=":", label="perfect agreement")
            axes.set_ylim(*((None, 1.05) if agreement else (0, None)))
            axes.locator_params(axis="x", nbins=3)
        row[0].set_ylabel(title)
    for axes in grid[-1]:
        axes.set_xlabel("training step")
    return legend_below(grid[0, 0])


def matrices(
    rows: Grid, *, split: int | None = None, limits: Literal["row", "panel"] = "row"
) -> Figure:
    """Draws matrices side by side as heat maps, white where an entry is 0.

    Args:
        rows: The matrices, by the label of their row, then by title.
        split: If the matrices have blocks x and y, the index of the first row and column of y.
        limits: "row" if the matrices of a row share a colour scale; "panel" if each has its own,
            with its largest absolute entry in the title.

    Returns:
        The figure.
    """
    figure, grid = _grid(rows)
    for place, (label, panels) in enumerate(rows.items()):
        limit = _largest(panels.values())
        for axes, matrix in zip(grid[place], panels.values(), strict=False):
            shown = _largest([matrix]) if limits == "panel" else limit
            plots.heat_map(axes, np.asarray(matrix, float), limit=shown)
            if limits == "panel":
                axes.set_title(f"{axes.get_title()}\n±{shown:.2g}".strip())
            if split is not None:
                axes.axhline(split - 0.5, color="black", linewidth=0.6)
                axes.axvline(split - 0.5, color="black", linewidth=0.6)
                for axis, size in zip((axes.yaxis, axes.xaxis), np.shape(matrix), strict=True):
                    axis.set_ticks([(split - 1) / 2, (split + size - 1) / 2], ["x", "y"])
                axes.tick_params(length=0)
        grid[place, 0].set_ylabel(label)
        if limits == "row":
            figure.colorbar(grid[place, 0].images[0], ax=list(grid[place]), aspect=12)
    return figure


def attention_maps(rows: Grid) -> Figure:
    """Draws attention weights, with one colour scale for each row of maps.

    Args:
        rows: The attention weights, by the label of their row, then by title.

    Returns:
        The figure.
    """
    figure, grid = _grid(rows)
    for place, (label, panels) in enumerate(rows.items()):
        limit = _largest(panels.values())
        for axes, weights in zip(grid[place], panels.values(), strict=False):
            image = plots.attention_map(axes, np.asarray(weights, float), limit=limit)
            if min(np.min(each) for each in panels.values()) < 0:
                image.set(cmap="RdBu_r", clim=(-limit, limit))
        for axes in grid[place, 1:]:
            axes.set_ylabel("")
        grid[place, 0].set_ylabel(f"{label}\nattending row".strip())
        figure.colorbar(grid[place, 0].images[0], ax=list(grid[place]), aspect=12)
    return figure


def risk_against(
    xlabel: str,
    lines: Mapping[str, tuple[Any, Any]],
    points: Mapping[str, xr.DataArray],
    *,
    xscale: str = "linear",
    yscale: str = "linear",
    ylabel: str = "risk  E(ŷ − y)²",
    axes: Axes | None = None,
) -> Figure:
    """Draws risks against a varied quantity: theory as lines, one dot for each seed.

    The quantity may be words, such as "d=5, n=10". Seeds that do not count (by the coordinate
    `counted`) are hollow.

    Args:
        xlabel: The label of the x axis.
        lines: x and y of each line, by label.
        points: Values by label, with the dimension `seed` and one whose coordinate is x.
        xscale: The scale of the x axis, such as "log".
        yscale: The scale of the y axis.
        ylabel: The label of the y axis.
        axes: The axes to draw in; by default those of a new figure.

    Returns:
        The figure.
    """
    axes = _axes(axes)
    every_x = [x for x, _ in lines.values()] + [_along(values) for values in points.values()]
    words = [str(x) for xs in every_x if np.asarray(xs).dtype.kind not in "iuf" for x in xs]
    words = list(dict.fromkeys(words))

    def places(xs: Any) -> np.ndarray:
        return np.array([words.index(str(x)) for x in xs], float) if words else np.asarray(xs)

    for label, (xs, ys) in lines.items():
        color, dashes = _line(axes, label)
        x, y = places(xs), np.asarray(ys, float)
        if words:  # a bar for each word
            x = (x[:, None] + [-0.35, 0.35, np.nan]).ravel()
            y = np.repeat(y, 3)
        axes.plot(x, y, color=color, ls=dashes, label=label)
    hollow = []
    for place, (label, values) in enumerate(points.items()):
        counted = values.coords.get("counted", xr.ones_like(values, dtype=bool))
        dots, counted = xr.broadcast(values, counted)
        dots = dots.transpose("seed", ...)
        shares = (np.arange(dots.sizes["seed"]) + 0.5) / dots.sizes["seed"]
        offsets = 0.5 * ((place + shares) / len(points) - 0.5) if words else 0 * shares
        x = places(_along(values)) + offsets[:, None]  # one row for each seed
        # The dots of the first labels are larger, so that dots that coincide are visible
        size = 4 if words else 4 + 3 * (len(points) - 1 - place)
        look: Any = {"color": _color(axes, label), "ls": "", "marker": "o", "markersize": size}
        filled = counted.transpose("seed", ...).values.astype(bool)
        axes.plot(x[filled], dots.values[filled], alpha=0.7, label=label, **look)
        if not filled.all():
            hollow = axes.plot(x[~filled], dots.values[~filled], mfc="none", **look)
    if hollow:
        look: Any = {"color": plots.NEUTRAL, "ls": "", "marker": "o", "markersize": 4}
        axes.plot([], [], mfc="none", label="seeds that do not count", **look)
    axes.set(xlabel=xlabel, ylabel=ylabel, xscale=xscale, yscale=yscale)
    if words:
        longest = max(len(line) for text in words for line in text.split("\n"))
        # A character is about 0.08 inches wide
        fits = len(words) * 0.08 * (longest + 1) < axes.bbox.width / _figure(axes).dpi
        slant = {} if fits else {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(len(words)), words, **slant)
    if yscale == "linear" and axes.dataLim.y0 >= 0:
        axes.set_ylim(0, None)
    return legend_below(axes)


def spectra(panels: Mapping[str, xr.Dataset]) -> Figure:
    """Draws the eigenvalues of the inputs after each layer, and the risk of one step on them.

    The bars of the risks are two standard errors.

    Args:
        panels: Results of `mesalens.analysis.input_spectra`, by title. If there are several seeds
            (the dimension `seed`), the eigenvalues of the first are drawn, and the risks of all.

    Returns:
        The figure.
    """
    figure = Figure((WIDE, 3.8), layout="constrained")
    *row, last = figure.subplots(1, len(panels) + 1)
    for axes, (title, values) in zip(row, panels.items(), strict=True):
        seeds = values if "seed" in values.dims else values.expand_dims("seed")
        color = _color(last, title)
        plots.spectra(axes, seeds.isel(seed=0), color=color)
        axes.set(title=title, xlabel="eigenvalue / mean")
        for place in range(seeds.sizes["seed"]):
            one = seeds.isel(seed=place)
            bars = 2 * one.step_risk_standard_error
            look = {"color": color, "label": title, "marker": "o", "markersize": 4, "alpha": 0.7}
            last.errorbar(one.layer, one.step_risk, bars, linewidth=1, **look)
    last.set(title="risk of one step", xlabel="after layer", ylim=(0, None))
    last.set_xticks(next(iter(panels.values())).layer.values)
    return legend_below(last)


def legend_below(axes: Axes) -> Figure:
    """Gives a figure one legend, below all axes.

    Artists with the same label in several axes have one entry. The legend has as many columns as
    fit, and replaces an earlier one; the figure becomes taller by its height.

    Args:
        axes: One of the axes of the figure.

    Returns:
        The figure.
    """
    figure = _figure(axes)
    for legend in list(figure.legends):
        legend.remove()
    handles: dict[str, Any] = {}
    for each in figure.axes:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    height = figure.__dict__.setdefault("mesalens_height", figure.get_figheight())
    for columns in range(len(handles), 0, -1):
        look: Any = {"loc": "outside lower center", "ncols": columns}
        legend = figure.legend(list(handles.values()), list(handles), **look)
        box = legend.get_window_extent()
        if columns == 1 or box.width < 0.98 * figure.bbox.width:
            figure.set_figheight(height + box.height / figure.dpi)
            for line in legend.get_lines():
                line.set_alpha(1)
            break
        legend.remove()
    return figure


def _figure(axes: Axes) -> Any:
    return axes.get_figure(root=True)


def _axes(axes: Axes | None) -> Axes:
    return Figure((NARROW, 3.4), layout="constrained").subplots() if axes is None else axes


def _color(axes: Axes, label: str) -> str:
    """The colour of a label: the one that it has in other axes of the figure, or a new one."""
    return _look(axes, label, _COLORS)


def _line(axes: Axes, label: str) -> tuple[str, str]:
    """Colour and dashes of a line of theory, as for `_color`."""
    return _look(axes, label, _LINES)


def _look(axes: Axes, label: str, looks: tuple) -> Any:
    assigned = _figure(axes).__dict__.setdefault("mesalens_looks", {}).setdefault(looks, {})
    return assigned.setdefault(label, looks[len(assigned) % len(looks)])


def _grid(rows: Grid) -> tuple[Figure, np.ndarray]:
    """A figure with axes for all matrices; a title is not repeated below the same title."""
    columns = max(map(len, rows.values()))
    side = min(2.6, (WIDE - 1) / columns)
    size = (max(NARROW, side * columns + 1), (side + 0.4) * len(rows))
    figure = Figure(size, layout="compressed")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    above: list[str] = []
    for row, panels in zip(grid, rows.values(), strict=True):
        for axes in row[len(panels) :]:
            axes.set_axis_off()
        for column, title in enumerate(panels):
            row[column].set_title("" if above[column : column + 1] == [title] else title)
        above = list(panels)
    return figure, grid


def _largest(matrices: Any) -> float:
    """The largest absolute finite entry, or 1 if all are 0."""
    entries = np.concatenate([np.abs(np.asarray(each, float)).ravel() for each in matrices])
    return float(entries[np.isfinite(entries)].max(initial=0)) or 1.0


def _along(values: xr.DataArray) -> np.ndarray:
    """The coordinate of the dimension besides `seed`."""
    (name,) = set(values.dims) - {"seed"}
    return values[name].values
