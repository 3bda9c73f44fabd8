"""Part `copying`: on ordinary tokens x_1, y_1, x_2, y_2, … two layers first copy each y to its x, then take a step of gradient descent.

The first layer has softmax attention and sinusoidal positions behind the tokens, as in the paper; the second is linear. Weights that do this
exactly are `mesalens.theory.copying_transformer`. The margins were fixed before the models of this study were trained; rates and steps of
the budget `quick` were found with another seed, with which layers had been seen to come to the risk of gradient descent.
"""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from mesalens import plots
from mesalens.analysis import attention_maps, copying_at, expectation
from mesalens.learners import GradientDescent
from mesalens.models import Interleaved, LinearAttention, Sinusoidal, SoftmaxAttention, Transformer
from mesalens.studies.criterion import Evidence, above, every_seed_below, within
from mesalens.studies.study import Claim, Figure, Findings, Part
from mesalens.studies.von_oswald_2023.laboratory import Laboratory
from mesalens.studies.von_oswald_2023.runs import (
    beside,
    furthest,
    risk_over_training,
    share_of_gain,
)
from mesalens.tasks import LinearFunctions, RegressionTask, Uniform
from mesalens.theory import OneStepRisk, copying_transformer, one_step_risk
from mesalens.training import Training

PLACE = 'Section 5, "Do self-attention layers build regression tasks?", and Figure 6'
POSITIONS = Sinusoidal(10)
SHARPNESS = 200.0
"""Of the constructed first layer: far above where the other rows have no weight left in float32."""

CLAIMS = (
    Claim(
        "copying-construction",
        "Two layers on interleaved tokens can be one step of gradient descent: the first copies, the second descends.",
        f"{PLACE}; weights of our own",
        "greatest |ŷ - ŷ_GD| over prompts, over the root mean square of ŷ_GD",
        every_seed_below(1e-4),
    ),
    Claim(
        "copying-training",
        "Training leaves the plateau: averaged over initialisations, two layers gain more than half of what one step of gradient descent gains.",
        PLACE,
        "(R_0 - R) / (R_0 - R_GD) after the last step; this claim counts every seed",
        above(0.5),
    ),
    Claim(
        "copying-risk",
        "After training, two layers have the risk of one step of gradient descent with the best step size.",
        PLACE,
        "R / R_GD - 1, both on the same fresh prompts",
        within(0.1),
    ),
    Claim(
        "copying-cosine",
        "The sensitivities ∂ŷ/∂x_query of two layers and of gradient descent point the same way.",
        f"{PLACE} (alignment is shown for joint tokens)",
        "mean cosine of the two sensitivities",
        above(0.95),
    ),
    Claim(
        "copying-sensitivity",
        "The first layer copies: its outputs at the rows of x depend on the next token, their y, more than on the average other token.",
        f"{PLACE}, right: norms of partial derivatives",
        "log10 of the sensitivity to the next token over the mean of that to all others",
        above(0.0),
    ),
    Claim(
        "copying-attention",
        "In the first layer the rows of x attend to their y: more than half of their attention goes there.",
        f"{PLACE}: attention maps",
        "mean weight of the next token",
        above(0.5),
    ),
    Claim(
        "copying-onset",
        "Copying sets in when the loss falls.",
        PLACE,
        "step at which the sensitivity to the next token is halfway from its first value to its last, over the step at which half of gradient "
        "descent's gain is reached, minus 1; seeds that left the plateau and whose sensitivity at least doubled",
        within(0.1),
    ),
)


def run(laboratory: Laboratory) -> Findings:
    """Trains two layers on interleaved tokens and looks at what the first one does, over training."""
    budget = laboratory.run("copying")
    task = RegressionTask(
        Uniform(budget.dim, 0.5), LinearFunctions(budget.dim), context_length=budget.context_length
    )
    theory = one_step_risk(task)
    descent = GradientDescent(theory.best_step_size)

    def initialise(key):
        return Transformer.initialise(
            budget.dim,
            layers=2,
            first_attention=SoftmaxAttention(),
            attention=LinearAttention(),
            tokens=Interleaved(),
            positions=POSITIONS,
            init_scale=budget.init_scale,
            key=key,
        )

    def measure(model, key):
        copied = expectation(
            lambda prompt, _: copying_at(model, prompt), task, key, prompts=128, chunk=64
        )
        return beside(model, descent, task, key, budget.prompts) | {
            name: estimate.value for name, estimate in copied.items()
        }

    training = laboratory.train("copying", "two-layers", initialise, task, measure)
    metrics = training.metrics
    after = metrics.isel(step=-1, drop=True)
    gain = share_of_gain(metrics.risk, theory.null_risk, theory.best_risk)
    left = gain.isel(step=-1, drop=True) > 0.5
    falls = first_step(gain > 0.5)
    start, end = metrics["next"].isel(step=0, drop=True), metrics["next"].isel(step=-1, drop=True)
    rises = end > 2 * start
    copies = first_step(metrics["next"] > (start + end) / 2).where(rises)
    shown = int(left.values.argmax())
    model = training.learner(shown)
    maps = attention_maps(model, task, laboratory.key(7, 1))
    single = model.attention_weights(task.sample(laboratory.key(7, 2))[0])
    onset = xr.Dataset({"copying": copies, "loss": falls})
    return Findings(
        evidence={
            "copying-construction": Evidence(_construction(laboratory, task, descent)),
            "copying-training": Evidence(gain.isel(step=-1, drop=True)),
            "copying-risk": Evidence(after.risk_difference, left),
            "copying-cosine": Evidence(after.cosine, left),
            "copying-sensitivity": Evidence(
                xr.apply_ufunc(np.log10, after["next"] / after["other"]), left
            ),
            "copying-attention": Evidence(after.attention, left),
            "copying-onset": Evidence(copies / falls - 1, left & rises),
        },
        figures=[
            _training_figure(training, theory),
            _attention_figure(np.asarray(maps)[:, 0], np.asarray(single)[:, 0], shown),
        ],
        datasets={"copying": metrics, "copying-onset": onset},
        learners={"copying": training.learners},
        remarks=[
            f"Copying at d = {budget.dim}, n = {budget.context_length}: {int(left.sum())} of {left.size} models left the plateau within {budget.steps} "
            f"steps; risk {', '.join(f'{risk:.4f}' for risk in after.risk.values)}, where one GD step has {theory.best_risk:.4f} (exact). Half of the "
            f"gain is reached at step {_steps(falls)}, half of the copying at step {_steps(copies)} (measured every {budget.every})."
        ],
    )


def first_step(reached: xr.DataArray) -> xr.DataArray:
    """The first measured step at which something holds, for each seed; not a number where it never does."""
    return reached.step[reached.argmax("step")].where(reached.any("step")).drop_vars("step")


def _steps(values: xr.DataArray) -> str:
    return ", ".join("never" if np.isnan(step) else f"{step:g}" for step in values.values)


def _construction(
    laboratory: Laboratory, task: RegressionTask, descent: GradientDescent
) -> xr.DataArray:
    """How far the constructed model is from gradient descent, on prompts of every seed."""
    model = copying_transformer(
        descent,
        dim=task.dim,
        outputs=task.outputs,
        context_length=task.context_length,
        positions=POSITIONS,
        sharpness=SHARPNESS,
    )
    return furthest(model, descent, task, laboratory.key(7, 0), laboratory.seeds_of("copying"))


def _training_figure(training: Training, theory: OneStepRisk) -> Figure:
    metrics = training.metrics
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    risk_over_training(left, metrics, color=plots.TRAINED, label="two layers, one line a seed")
    left.axhline(
        theory.best_risk, color=plots.REFERENCE, linestyle="--", label="one GD step, exact"
    )
    left.axhline(theory.null_risk, color=plots.NEUTRAL, linestyle=":", label="predicting 0, exact")
    left.set(xlabel="training step", ylabel="risk  E(ŷ − y)²", ylim=(0, 1.1 * theory.null_risk))
    left.legend(loc="lower left")
    for name, color, words in (
        ("own", plots.NEUTRAL, "its own"),
        ("next", plots.REFERENCE, "the next (its y)"),
        ("other", plots.TRAINED, "all others, mean"),
    ):
        for place, line in enumerate(metrics[name]):
            right.plot(
                metrics.step,
                line,
                color=color,
                alpha=0.7,
                linewidth=1,
                label=words if place == 0 else None,
            )
    right.set(
        xlabel="training step",
        ylabel=r"sensitivity  $\Vert\partial h_j / \partial e_i\Vert$",
        ylim=(0, None),
    )
    right.legend(title="of x's row to the token", loc="center left", bbox_to_anchor=(1, 0.5))
    return Figure(
        "copying",
        "Left: risk over training of two layers on interleaved tokens, measured on fresh prompts, beside the exact risk of one step of gradient "
        "descent. Right: how the first layer's output at the rows of x depends on the tokens, over training, one line a seed; the next token is their y.",
        figure,
    )


def _attention_figure(maps: np.ndarray, single: np.ndarray, seed: int) -> Figure:
    figure, grid = plt.subplots(2, 2, figsize=(8.6, 7.6), layout="constrained")
    for row, kind in enumerate(("first layer, softmax", "second layer, linear")):
        limit = float(max(np.abs(single[row]).max(), np.abs(maps[row]).max()))
        for axes, weights, words in zip(
            grid[row], (single[row], maps[row]), ("one prompt", "mean"), strict=True
        ):
            plots.attention_map(axes, weights, limit=limit)
            axes.set_title(f"{kind}, {words}")
        figure.colorbar(grid[row, 0].images[0], ax=grid[row], shrink=0.8)
    return Figure(
        "copying-attention",
        f"Attention of both layers (seed {seed}) on one prompt and on average; rows ask, columns are seen (the query is not among them). The rows "
        "of x are the odd ones; their y is one to the right of the diagonal. What they give themselves adds nothing to their y-part, which is 0. In the second "
        "layer the last row, the query, is the one that is read out.",
        figure,
    )


PART = Part("copying", "Ordinary tokens and the copying layer", CLAIMS, run)
