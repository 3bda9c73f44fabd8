"""Figures of the part `deep`."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from mesalens import plots
from mesalens.analysis import normalised
from mesalens.studies.study import Figure
from mesalens.studies.von_oswald_2023.deep_models import DeepModels


def risks(name: str, models: Sequence[DeepModels]) -> Figure:
    """Risk over training against descent and GD++ of the same depth."""
    figure, panels = plt.subplots(
        1, len(models), figsize=(4.8 * len(models), 3.6), layout="constrained", squeeze=False
    )
    for axes, of_depth in zip(panels[0], models, strict=True):
        metrics = of_depth.training.metrics
        for seed in metrics.seed.values:
            label = "transformers, one line a seed" if seed == 0 else None
            axes.plot(
                metrics.step,
                metrics.risk.sel(seed=seed),
                color=plots.TRAINED,
                alpha=0.6,
                linewidth=1,
                label=label,
            )
        for reference, color, words in (
            ("descent", plots.REFERENCE, "gradient descent, best rates"),
            ("plus_plus", plots.INTERPOLATED, "GD++, trained"),
        ):
            axes.axhline(
                of_depth.reference_risks[reference], color=color, linestyle="--", label=words
            )
        axes.set(
            title=of_depth.name, xlabel="training step", ylabel="risk  E(ŷ − y)²", yscale="log"
        )
    columns = 3 if len(models) > 1 else 1  # below one panel a row of three would be cut off
    lines = panels[0, 0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=columns)
    return Figure(
        name,
        "Risk over training, measured on fresh prompts, of deep linear transformers from several seeds, beside as many steps of plain gradient "
        "descent with the best step sizes and of GD++, which is trained by the same call (dashed). "
        + " ".join(m.remark() for m in models),
        figure,
    )


def alignment(models: Sequence[DeepModels]) -> Figure:
    """Differences and cosines with descent and GD++, over training."""
    titles = {
        "prediction_difference": "difference of predictions",
        "cosine": "cosine of sensitivities",
        "sensitivity_difference": "difference of sensitivities",
    }
    figure, grid = plt.subplots(
        len(models),
        3,
        figsize=(10, 2.9 * len(models)),
        layout="constrained",
        squeeze=False,
        sharex="row",
    )
    for row, of_depth in zip(grid, models, strict=True):
        trained = of_depth.trained()
        metrics = of_depth.training.metrics.sel(
            seed=trained if trained.any() else xr.ones_like(trained)
        )
        for axes, (measure, title) in zip(row, titles.items(), strict=True):
            for reference, color, words in (
                ("descent", plots.REFERENCE, "gradient descent"),
                ("plus_plus", plots.INTERPOLATED, "GD++"),
            ):
                plots.curve(
                    axes, metrics[f"{reference}_{measure}"], color=color, label=f"to {words}"
                )
            axes.axhline(
                float(measure == "cosine"), color=plots.NEUTRAL, linestyle=":", linewidth=1
            )
            axes.set(title=title, xlabel="training step")
            if measure != "cosine":
                axes.set_ylim(0, None)
        row[0].set_ylabel(of_depth.name.replace(", ", "\n", 1))
        row[1].legend(loc="lower right", fontsize="small")
    return Figure(
        "deep-alignment",
        "How alike trained transformers are to gradient descent and to GD++ of their depth, over training: mean over the seeds that left the plateau, with a band "
        "from the least to the greatest. Lengths of differences are in units of the reference's own mean length; the dotted lines are perfect agreement.",
        figure,
    )


def weights(models: DeepModels) -> Figure:
    """Effective matrices of each layer, trained and GD++'s."""
    seed = models.shown()
    both = {
        f"seed {seed}": normalised(models.training.learner(seed)),
        "GD++": normalised(models.constructed),
    }
    layers = models.constructed.layers
    figure, grid = plt.subplots(
        4, layers, figsize=(1.7 * layers + 0.9, 7), layout="constrained", squeeze=False
    )
    for row, (symbol, which, name) in enumerate(
        (symbol, which, name) for which, symbol in enumerate("AB") for name in both
    ):
        for layer in range(layers):
            axes = grid[row, layer]
            stored = layer if len(both[name][which]) > 1 else 0
            limit = float(np.abs(both["GD++"][which][stored]).max())
            plots.heat_map(axes, np.asarray(both[name][which][stored]), limit=limit)
            boundary = models.task.dim - 0.5
            axes.axhline(boundary, color="black", linewidth=0.6)
            axes.axvline(boundary, color="black", linewidth=0.6)
            if row == 0:
                axes.set_title(f"layer {layer + 1}")
            if layer == 0:
                axes.set_ylabel(f"{symbol}, {name}")
    return Figure(
        "deep-weights",
        f"Effective matrices A and B of each layer of one trained transformer ({models.name}) above those of GD++, scaled so that the x-block of A has mean diagonal 1; colours are "
        "saturated at the largest entry of GD++ in that layer. Lines part x from y. In GD++ the x-block of B is −γ I, the correction of the data, and its y entry −η, the step. The x-rows of B in the last layer "
        "act on nothing.",
        figure,
    )


def beyond(repeated: xr.Dataset, references: Mapping[str, xr.Dataset]) -> Figure:
    """Risk over applications of a trained layer, of descent and of GD++."""
    drawn = {"trained layer": repeated, **references}
    figure, panels = plt.subplots(
        1, len(drawn), figsize=(11, 3.5), layout="constrained", sharey=True
    )
    for axes, (name, values) in zip(panels, drawn.items(), strict=True):
        plots.risk_over_depth(axes, values)
        axes.axvline(2, color=plots.NEUTRAL, linewidth=0.8)
        axes.set_title(name)
        if axes is not panels[-1]:
            axes.get_legend().remove()
            axes.set_xlim(0, int(values.times[-1]))
        if axes is not panels[0]:
            axes.set_ylabel("")
    least = min(float(values.risk.where(values.risk > 0).min()) for values in drawn.values())
    panels[0].set_ylim(least / 1.5, None)
    return Figure(
        "deep-beyond",
        "Risk of a layer that was trained to be applied twice (grey line) when it is applied more often, with damping λ, beside gradient descent and GD++ with the rates that are best for "
        "two steps. Lines that leave through the top diverge.",
        figure,
    )


def spectra(trained: xr.Dataset, plus_plus: xr.Dataset) -> Figure:
    """Eigenvalues layer by layer, and the risk of a step on what each layer has made of the inputs."""
    figure, panels = plt.subplots(1, 3, figsize=(11, 4.6), layout="constrained")
    for axes, values, color, title in (
        (panels[0], trained, plots.TRAINED, "trained"),
        (panels[1], plus_plus, plots.INTERPOLATED, "GD++"),
    ):
        plots.spectra(axes, values, color=color)
        axes.set_title(title)
        panels[2].errorbar(
            values.layer,
            values.step_risk,
            2 * values.step_risk_standard_error,
            color=color,
            marker="o",
            markersize=4,
            label=title,
        )
    panels[2].set(
        xlabel="layer whose inputs are used",
        ylabel="risk of one gradient-descent step",
        ylim=(0, None),
    )
    panels[2].legend(loc="lower left")
    return Figure(
        "deep-spectra",
        "Left and middle: eigenvalues of X^T X/n as the layers transform the inputs, with the geometric mean κ of the condition number. Right: the risk of a single step of gradient "
        "descent that uses the inputs of a layer, the prompt's own labels and the best step size for them (bars: two standard errors). The last layer's change of x acts on nothing and is not trained.",
        figure,
    )


def similarities(alike: Mapping[str, xr.Dataset], nearest: xr.Dataset) -> Figure:
    """Layer by iterate, for each algorithm."""
    widths = [values.sizes["iterate"] for values in alike.values()]
    figure, panels = plt.subplots(
        1,
        len(alike),
        figsize=(0.46 * sum(widths) + 2, 3.6),
        layout="constrained",
        width_ratios=widths,
    )
    image = None
    for axes, (name, values) in zip(panels, alike.items(), strict=True):
        image = plots.similarity_map(axes, values, floor=1e-3)
        axes.set_title(name)
        if axes is not panels[0]:
            axes.set_ylabel("")
    assert image is not None
    figure.colorbar(image, ax=list(panels), label="E‖ŷ_l − ŷ_k‖² / E‖y‖²", shrink=0.9)
    winners = ", ".join(
        f"{layer}: {name}"
        for layer, name in zip(nearest.layer.values[1:], nearest.nearest.values[1:], strict=True)
    )
    return Figure(
        "deep-similarity",
        f"Mean squared difference of predictions read after each layer of a trained transformer (rows) and after each iterate of algorithms (columns); the nearest iterate is framed. Nearest of all, layer by layer: {winners}.",
        figure,
    )
