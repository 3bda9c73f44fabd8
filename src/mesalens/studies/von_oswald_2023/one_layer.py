"""Part `one-layer`: a trained layer is one step of gradient descent (d = n = 10).

Not every initialisation trains. Labels meet inputs in one block of S, which a layer can read in two ways: with x in the keys and
y in the values, A_xx and B_yy, which gives a step of gradient descent; or with y in the keys and x in the values, A_yx = v and
B_yx = c v, which gives the step along the one direction v. About one seed in five first falls into the second, gains 1/d of
what it could, and stays for hundreds to thousands of steps: three factors are near 0 at once there, so that the way out has no
slope and no curvature. The claim `training` counts such seeds; the other claims are about layers that trained, by a rule that
is far coarser than their margins (`TrainedLayers.trained`).
"""

import matplotlib.pyplot as plt
import numpy as np

from mesalens import plots
from mesalens.analysis import normalised
from mesalens.studies.criterion import Evidence, above, below, within
from mesalens.studies.study import Claim, Figure, Findings, Part
from mesalens.studies.von_oswald_2023.laboratory import Laboratory, TrainedLayers

PLACE = 'Section 3, "One-step of gradient descent vs. a single trained self-attention layer", and Figure 2'

CLAIMS = (
    Claim(
        "training",
        "Training leaves the plateau: averaged over initialisations, layers gain more than half of what gradient descent gains over "
        "predicting 0.",
        f"{PLACE}, outer left: five seeds, all of which do",
        "(R_0 - R) / (R_0 - R_GD) after the last step, R_0 the risk of predicting 0; this claim counts every seed",
        above(0.5),
    ),
    Claim(
        "risk",
        "After training, the layer's risk is that of one step of gradient descent with the best step size.",
        f"{PLACE}, outer left",
        "R / R_GD - 1, both on the same fresh prompts",
        within(0.01),
    ),
    Claim(
        "prediction-difference",
        "The predictions of the trained layer approach those of gradient descent.",
        f"{PLACE}, center left",
        # 0.1 is the length that goes with the margin of the risk: one step of GD is the best layer, so a layer's excess risk is
        # E(ŷ - ŷ_GD)²; 1% of the risk is 0.0041, a tenth of a prediction's root mean square (0.42^½) squared.
        "E‖ŷ - ŷ_GD‖ / E‖ŷ_GD‖",
        below(0.1),
    ),
    Claim(
        "sensitivity-cosine",
        "The sensitivities ∂ŷ/∂x_query of the trained layer and of gradient descent point the same way.",
        f"{PLACE}, center left",
        "mean cosine of the two sensitivities",
        above(0.99),
    ),
    Claim(
        "sensitivity-difference",
        "The sensitivities of the trained layer approach those of gradient descent in length too.",
        f"{PLACE}, center left",
        "E‖∂ŷ/∂x - ∂ŷ_GD/∂x‖ / E‖∂ŷ_GD/∂x‖",
        below(0.1),
    ),
    Claim(
        "interpolation",
        "The layer halfway between the trained and the constructed one, matched in scale, is as good as gradient descent.",
        'Section 3, "Interpolation", and Figure 2',
        "R_interpolated / R_GD - 1, both on the same fresh prompts",
        within(0.01),
    ),
)


def run(laboratory: Laboratory) -> Findings:
    """Trains the layers of the paper's Figure 2 and takes their last measurement."""
    layers = laboratory.trained()
    claimed = {
        "risk": "risk_difference",
        "prediction-difference": "prediction_difference",
        "sensitivity-cosine": "sensitivity_cosine",
        "sensitivity-difference": "sensitivity_difference",
        "interpolation": "interpolated_risk_difference",
    }
    evidence = {
        claim: Evidence(layers.after_training()[measure], layers.trained())
        for claim, measure in claimed.items()
    }
    return Findings(
        evidence={"training": Evidence(layers.share_of_gain())} | evidence,
        remarks=[layers.remark()],
        figures=[loss_figure(layers), alignment_figure(layers), weights_figure(layers)],
        datasets={"one-layer": layers.training.metrics},
        learners={"one-layer": layers.training.learners},
    )


def loss_figure(layers: TrainedLayers) -> Figure:
    """Risk over training against the exact risk of one step of GD."""
    metrics = layers.training.metrics
    figure, axes = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
    for seed in metrics.seed.values:
        label = "trained layers, one line a seed" if seed == 0 else None
        line = metrics.risk.sel(seed=seed, step=slice(0, int(metrics.steps_taken.sel(seed=seed))))
        axes.plot(
            line.step,
            line,
            color=plots.TRAINED,
            alpha=0.6,
            linewidth=1,
            label=label,
        )
    exact = layers.theory.at(float(layers.descent.step_size))
    axes.axhline(
        exact, color=plots.REFERENCE, linestyle="--", label=f"one GD step, exact: {exact:.4f}"
    )
    null = layers.theory.null_risk
    axes.axhline(null, color=plots.NEUTRAL, linestyle=":", label=f"predicting 0, exact: {null:.4f}")
    axes.set(xlabel="training step", ylabel="risk  E(ŷ − y)²", ylim=(0, 1.15 * null))
    axes.legend(loc="lower right")
    missing = int((~layers.trained()).sum())
    return Figure(
        "loss",
        f"Risk over training of {metrics.sizes['seed']} layers, measured on fresh prompts, against the exact risk of one step of gradient "
        "descent with its best step size (dashed), which comes from moments of the task and not from a simulation. A layer starts at the risk of "
        "predicting 0 (dotted), and one that trains ends on the dashed line. "
        + (
            "A line ends where the layer's exact risk has come near enough to the optimum. "
            if layers.settings.stop.kind != "never"
            else ""
        )
        + (
            f"Here {missing} had not left the upper half at the last step."
            if missing
            else "Here all of them do."
        ),
        figure,
    )


def alignment_figure(layers: TrainedLayers) -> Figure:
    """The three measures of alignment over training."""
    shown = layers.shown()
    metrics = layers.training.metrics.sel(seed=shown)
    figure, panels = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    names = {
        "prediction_difference": "difference of predictions",
        "sensitivity_cosine": "cosine of sensitivities",
        "sensitivity_difference": "difference of sensitivities",
    }
    for axes, (name, title) in zip(panels, names.items(), strict=True):
        plots.curve(axes, metrics[name], color=plots.TRAINED)
        axes.set(title=title, xlabel="training step")
        axes.axhline(
            float(name == "sensitivity_cosine"), color=plots.REFERENCE, linestyle="--", linewidth=1
        )
    panels[0].set_ylabel("relative to gradient descent")
    return Figure(
        "alignment",
        "How alike a trained layer and one step of gradient descent are, over training: mean over the "
        f"{int(shown.sum())} seeds that trained, with a band from the least to the greatest. Left and right: mean lengths of the "
        "differences of predictions and of sensitivities ∂ŷ/∂x_query, in units of gradient descent's own mean length (a layer that predicts "
        "0 is at 1). Middle: mean cosine of the sensitivities. The dashed lines are perfect agreement. What stays of the differences is the "
        "noise of stochastic gradients.",
        figure,
    )


def weights_figure(layers: TrainedLayers) -> Figure:
    """Effective matrices of one trained layer beside the constructed ones."""
    first = int(
        np.argmax(layers.trained().values)
    )  # the first seed that trained, or the first of all
    trained, constructed = layers.training.learner(first), layers.constructed
    columns = [
        (f"trained (seed {first})", normalised(trained)),
        ("constructed", normalised(constructed)),
    ]
    figure, grid = plt.subplots(2, 2, figsize=(7, 6.4), layout="constrained")
    for row, symbol in enumerate(("A = W_K^T W_Q", "B = P\\,W_V")):
        limit = float(np.abs(columns[1][1][row]).max())
        for column, (title, matrices) in enumerate(columns):
            axes = grid[row, column]
            plots.heat_map(axes, np.asarray(matrices[row][0]), limit=limit)
            boundary = layers.task.dim - 0.5
            axes.axhline(boundary, color="black", linewidth=0.6)
            axes.axvline(boundary, color="black", linewidth=0.6)
            axes.set_title(f"${symbol}$, {title}")
            middle, last = (layers.task.dim - 1) / 2, layers.task.dim
            axes.set(xticks=[middle, last], yticks=[middle, last])
            axes.set_xticklabels(["x", "y"])
            axes.set_yticklabels(["x", "y"])
            axes.tick_params(length=0)
        figure.colorbar(grid[row, 0].images[0], ax=grid[row], shrink=0.85)
    return Figure(
        "weights",
        "Effective matrices of a trained layer (left) beside those of the construction (right), scaled so that the x-block of A has mean "
        "diagonal 1. A has become a multiple of the identity on x, and the last row of B, the only one that reaches the prediction, "
        "is left with its y entry: the label is multiplied by the negative rate −η/n. The last column of A, and "
        "the rows of B above the line in both, act on nothing in one layer (the query's label is 0, the x-part is not read out).",
        figure,
    )


PART = Part("one-layer", "One trained layer", CLAIMS, run)
