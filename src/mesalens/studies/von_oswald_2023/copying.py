"""Part `copying`: on ordinary tokens x_1, y_1, x_2, y_2, … a first layer copies each y to its x.

A second layer then takes a step of gradient descent. The first layer has softmax attention, and
sinusoidal positions are appended to the tokens, as in the paper; the second layer is linear.
`mesalens.theory.copying_transformer` has weights that do this exactly. The margins were fixed
before the models of this study were trained.
"""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from mesalens import analysis, atlas, learners, models, plots, theory
from mesalens.atlas import Experiment, above, compared, every_seed_below, figures, within
from mesalens.studies.von_oswald_2023.one_layer import (
    BEST_STEP,
    PLATEAU,
    beside_best_step,
    best_step,
)
from mesalens.studies.von_oswald_2023.study import STUDY, regression, training

part = STUDY.part("copying", "Ordinary tokens and the copying layer", looks="copying_seeds")
PLACE = 'Section 5, "Do self-attention layers build regression tasks?", and Figure 6'
ENTRIES = 10
"""Of a positional encoding."""


@part.experiment
def copying_layers(s, visibility="context"):
    """A layer of softmax attention and one of linear attention, on interleaved tokens."""
    s = s.of("copying")
    return Experiment(
        task=regression(s.dim, s.context_length),
        model={
            "kind": "transformer",
            "layers": 2,
            "first_attention": "softmax",
            "attention": "linear",
            "tokens": "interleaved",
            "positions": {"kind": "sinusoidal", "entries": ENTRIES},
            "visibility": visibility,
            "init_scale": s.init_scale,
        },
        measure=beside_best_step_and_copying,
        counts=PLATEAU,
        **training(s),
    )


def beside_best_step_and_copying(task):
    """What is measured during training."""
    beside = beside_best_step(task)
    return lambda model, key: beside(model, key) | first_layer(model, task, key, 128)


def first_layer(model, task, key, prompts):
    """Measures of the first layer, with the names of `mesalens.analysis.copying`."""
    measures = analysis.copying(model, task, key, prompts=prompts)
    return {n: getattr(measures, n).value for n in ("own", "next", "other", "attention")}


@part.measurement
def copied(lab, trained=copying_layers):
    """What the first layer does."""
    return first_layer(trained.learner, trained.task, lab.key(), 512)


beside_best = compared.given(trained=copying_layers, reference=best_step)
# Rows do not see what comes after them: those of x do not see their y
UNSEEN = {"copied": copied.given(trained=copying_layers.untrained.given(visibility="causal"))}


# The sharpness of the first layer is far above that at which other rows have no weight in float32
@part.claim(
    f"{PLACE}; weights of our own",
    every_seed_below(1e-4),
    headline=True,
    must_fail_on={"sharpness": 5.0},
)
def copying_construction(lab, sharpness=200.0):
    """Two layers on interleaved tokens can be one step of gradient descent: the first copies, the
    second descends.

    Measured: the largest |ŷ - ŷ_GD| over prompts, divided by the root mean square of ŷ_GD.
    """
    s = lab.settings.of("copying")
    task = regression(s.dim, s.context_length)
    descent = learners.GradientDescent(theory.best_step_size(task))
    options = {"positions": models.Sinusoidal(ENTRIES), "sharpness": sharpness}
    model = theory.copying_transformer(descent, **task.sizes, **options)
    return atlas.largest_difference(model, descent, task, lab.key())


atlas.leaves_plateau(
    part, "copying-training", PLACE, above(0.5), copying_layers, "two layers", headline=True
)
alike = atlas.Alike(part, beside_best, "the two layers", BEST_STEP, headline=True)
alike("copying-risk", "risk", PLACE, within(0.1))
JOINT = f"{PLACE} (alignment is shown for joint tokens)"
alike("copying-cosine", "cosine", JOINT, above(0.95))


@part.claim(f"{PLACE}, right: norms of partial derivatives", above(0.0), must_fail_on=UNSEEN)
def copying_sensitivity(lab, copied=copied):
    """The first layer copies: its outputs at the rows of x depend more on the next token, their y,
    than on other tokens on average.

    Measured: log10 of the sensitivity to the next token over the mean of that to all others.
    """
    return np.log10(np.maximum(copied.next, 1e-9) / copied.other)  # rows may not see the next


@part.claim(f"{PLACE}: attention maps", above(0.5), must_fail_on=UNSEEN, name="copying-attention")
def attends(lab, copied=copied):
    """In the first layer, the rows of x attend to their y, with more than half of their attention.

    Measured: the mean weight of the next token.
    """
    return copied.attention


def half_of_the_gain(trained):
    """The step at which half of what one step of gradient descent gains is reached."""
    exact, risk = theory.one_step_risk(trained.task), trained.metrics.risk
    return first_step((exact.null_risk - risk) / (exact.null_risk - exact.best_risk) > 0.5)


def end_of_training(trained):
    """The last step, which is not when the loss falls."""
    return float(trained.metrics.step[-1])


def first_step(reached):
    """The first measured step at which something holds; not a number if it never does."""
    steps = reached.step.values[reached.values]
    return float(steps[0]) if len(steps) else np.nan


LATE = {"trained": copying_layers.but(counts=None), "fall": end_of_training, "rise": 0.0}


@part.claim(PLACE, within(0.1), must_fail_on=LATE)
def copying_onset(lab, trained=copying_layers, fall=half_of_the_gain, rise=2.0):
    """Copying begins when the loss falls.

    Measured: the step at which the sensitivity to the next token is halfway between its first and
    last values, over the step at which half of gradient descent's gain is reached, minus 1; for
    seeds that left the plateau and whose sensitivity at least doubled.
    """
    sensitivity = trained.metrics["next"]
    start, end = sensitivity.values[[0, -1]]
    onset = first_step(sensitivity > (start + end) / 2)
    counted = trained.counts and end > rise * start
    return xr.DataArray(onset / fall(trained) - 1, {"counted": counted})


@part.figure
def copying(lab, trained=copying_layers):
    """Left: risk during training of two layers on interleaved tokens, measured on fresh prompts,
    and exact risks; lines that start above the frame are cut. Right: how much the first layer's
    output at the rows of x depends on the tokens, one line per seed; the next token is their y.
    """
    exact = theory.one_step_risk(trained[0].task)
    lines = {"one step of gradient descent": exact.best_risk, "predicting 0": exact.null_risk}
    figure = Figure((figures.WIDE, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    figures.risk_over_training({"two layers": trained}, lines, axes=left)
    left.set_ylim(0, 1.3 * exact.null_risk)  # first weights of variance 1 have a risk of 50
    for name, label, color in (
        ("own", "on their own token", plots.NEUTRAL),
        ("next", "on the next token", plots.REFERENCE),
        ("other", "on all others, mean", plots.INTERPOLATED),
    ):
        for run in trained:
            line = run.metrics[name]
            right.plot(line.step, line, color=color, alpha=0.7, linewidth=1, label=label)
    right.set(xlabel="training step", ylabel="dependence of x's rows  ‖∂h / ∂e‖", ylim=(0, None))
    return figures.legend_below(right)


@part.figure(shows=[attends])
def copying_attention(lab, trained=copying_layers):
    """Attention of both layers (seed {seed}) on one prompt and on average. Rows attend to columns
    (the query is not one of them). The rows of x are the odd ones; their y is one to the right of
    the diagonal. Their attention to themselves adds nothing to their y-part, which is 0. In the
    second layer only the last row, the query, is read out.
    """
    run = trained.shown[0]
    mean = analysis.attention_maps(run.learner, run.task, lab.key("mean"))
    single = run.learner.attention_weights(run.task.sample(lab.key("one prompt"))[0])
    rows = {
        label: {"one prompt": single[layer, 0], "mean": mean[layer, 0]}
        for layer, label in enumerate(("first layer, softmax", "second layer, linear"))
    }
    return figures.attention_maps(rows), {"seed": str(run.seed)}
