"""Part `one-layer`: a trained layer is one step of gradient descent.

Not every initialisation trains at once. Labels and inputs meet in one block of S, which a layer can
read in two ways: with x in the keys and y in the values, which gives a step of gradient descent, or
with y in the keys and x in the values, which gives a step along one direction only. A layer that
does the latter gains 1/d of what it could, and stays on that plateau for hundreds to thousands of
steps (docs/pages/theory/plateaus.md). The claim `training` counts such seeds; the others are about
layers that left the plateau, by a rule that is far coarser than their margins (`LeftPlateau`).
"""

import functools

import numpy as np

from mesalens import analysis, atlas, learners
from mesalens.atlas import Experiment, above, below, beside, compared, figures, within
from mesalens.studies.von_oswald_2023.construction import wrong
from mesalens.studies.von_oswald_2023.study import STUDY, regression, training
from mesalens.theory import best_step_size, gradient_descent_transformer, one_step_risk

part = STUDY.part("one-layer", "One trained layer")
PLACE = (
    'Section 3, "One-step of gradient descent vs. a single trained self-attention layer", and '
    "Figure 2"
)
RISK, ALIKE = f"{PLACE}, outer left", f"{PLACE}, center left"
BEST_STEP = "the best step of gradient descent"
PLATEAU = atlas.LeftPlateau()


def step(factor, trained):
    """One step of gradient descent, `factor` times as long as the best one."""
    return learners.GradientDescent(factor * best_step_size(trained.task))


best_step, longer, twice_as_long, ascent = (
    functools.partial(step, factor) for factor in (1.0, 1.2, 2.0, -1.0)
)


def constructed(trained, construct=gradient_descent_transformer):
    """The layer that is the best step of gradient descent by construction."""
    return construct(best_step(trained), **trained.task.sizes)


def halfway(trained, reference, construct=gradient_descent_transformer):
    """The layer halfway between a trained one and the construction of the reference."""
    descent = getattr(reference, "descent", reference)
    return interpolated(trained.learner, descent, construct, trained.task.sizes)


@atlas.compiled_once
def interpolated(model, descent, construct, sizes):
    """The transformer halfway between a model and the construction of a descent."""
    return analysis.interpolate(model, construct(descent, **sizes))


def beside_best_step(task):
    """What is measured during training."""
    descent = learners.GradientDescent(best_step_size(task))
    return lambda learner, key: beside(learner, descent, task, key, prompts=2000)


def layer(s, dim, context_length):
    """The training of one layer of linear self-attention."""
    return Experiment(
        task=regression(dim, context_length),
        model={"kind": "linear-transformer", "init_scale": s.init_scale},
        stop={"kind": "near-optimum", "tolerance": s.tolerance} if s.tolerance else "never",
        measure=beside_best_step,
        counts=PLATEAU,
        **training(s),
    )


@part.experiment
def one_layer(s):
    """The layers of the paper's Figure 2."""
    return layer(s, s.dim, s.context_length)


beside_best = compared.given(trained=one_layer, reference=best_step)
too_long = beside_best.given(reference=longer)

trains = atlas.leaves_plateau(
    part,
    "training",
    f"{RISK}: five seeds, all of which do",
    above(0.5),
    one_layer,
    "layers",
    headline=True,
)
alike = atlas.Alike(part, beside_best, "the trained layer", BEST_STEP, headline=True)
risk = alike("risk", "risk", RISK, within(0.01), too_long)
# 0.1 is the length that goes with the margin of the risk: one step of GD is the best layer, so that
# a layer's excess risk is E(ŷ - ŷ_GD)²; 1% of the risk is 0.0041, a tenth of the root mean square
# of a prediction (0.42^½), squared.
predictions = alike("prediction-difference", "predictions", ALIKE, below(0.1), too_long)
upward = beside_best.given(reference=ascent)
cosine = alike("sensitivity-cosine", "cosine", ALIKE, above(0.99), upward)
sensitivities = alike("sensitivity-difference", "sensitivities", ALIKE, below(0.1), too_long)

INTERPOLATION = 'Section 3, "Interpolation", and Figure 2'
HALFWAY = "the layer halfway between the trained and the constructed one, matched in scale,"
between = beside_best.given(learner=halfway)
wrongly_between = between.given(learner=functools.partial(halfway, construct=wrong))
interpolation = atlas.Alike(part, between, HALFWAY, BEST_STEP, headline=True)(
    "interpolation", "risk", INTERPOLATION, within(0.01), wrongly_between
)


@part.figure(shows=[trains, risk])
def loss(lab, trained=one_layer):
    """Risk during training, measured on fresh prompts, and the exact risks of one step of gradient
    descent with its best step size, {best}, and of predicting 0, {null}. The exact risks are
    computed from moments of the task, not simulated. A line ends where the training ended.
    """
    theory = one_step_risk(trained[0].task)
    best, null = theory.best_risk, theory.null_risk
    lines = {"one step of gradient descent, exact": best, "predicting 0, exact": null}
    figure = figures.risk_over_training({"trained layers": trained}, lines)
    return figure, {"best": f"{best:.4f}", "null": f"{null:.4f}"}


@part.figure(shows=[predictions, cosine, sensitivities])
def alignment(lab, trained=one_layer):
    """Similarity of the layer and one step of gradient descent during training, for the seeds that
    count. Left and right: mean lengths of the differences of predictions and of sensitivities
    ∂ŷ/∂x_query, in units of the mean length for gradient descent (a layer that predicts 0 is at 1).
    Middle: mean cosine of the sensitivities. The differences that remain are due to the noise of
    stochastic gradients.
    """
    return figures.alignment_over_training({"one layer": trained}, {"to gradient descent": ""})


@part.figure(shows=[interpolation])
def weights(lab, trained=one_layer):
    """Effective matrices of a trained layer and of the construction, scaled so that the x-block of
    A has mean diagonal 1. A has become a multiple of the identity on x. In the last row of B, the
    only one that affects the prediction, only the y entry is left: the label is multiplied by −η/n.
    The last column of A, and the rows of B above the line, have no effect in a single layer (the
    query's label is 0, and the x-part is not read out).
    """
    run = trained.shown[0]
    shown = {f"trained (seed {run.seed})": run.learner, "constructed": constructed(run)}
    pairs = {title: analysis.normalised(learner) for title, learner in shown.items()}
    rows = {
        symbol: {title: np.asarray(pair[place][0]) for title, pair in pairs.items()}
        for place, symbol in enumerate(("$A = W_K^T W_Q$", "$B = P\\,W_V$"))
    }
    return figures.matrices(rows, split=run.task.dim)
