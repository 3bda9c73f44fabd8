"""Part `one-layer`: a trained layer is one step of gradient descent.

Not every initialisation trains at once. Labels meet inputs in one block of S, which a layer can
read in two ways: with x in the keys and y in the values, which gives a step of gradient descent; or
with y in the keys and x in the values, which gives the step along one direction. A layer that falls
into the second gains 1/d of what it could, and stays on that plateau for hundreds to thousands of
steps (docs/plateau.md). The claim `training` counts such seeds; the others are about layers that
left the plateau, by a rule that is far coarser than their margins (`LeftPlateau`).
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
between = beside_best.given(learner=halfway)
TOO_LONG = {"compared": beside_best.given(reference=longer)}
UPWARD = {"compared": beside_best.given(reference=ascent)}
WRONG = {"compared": between.given(learner=functools.partial(halfway, construct=wrong))}


@part.claim(
    f"{RISK}: five seeds, all of which do",
    above(0.5),
    name="training",
    headline=True,
    every_seed=True,
    must_fail_on="untrained",
)
def leaves_plateau(lab, trained=one_layer):
    """Training leaves the plateau: averaged over initialisations, layers gain more than half of
    what gradient descent gains over predicting 0.

    Measured: (R_0 - R) / (R_0 - R_GD) after the last step, R_0 the risk of predicting 0; this claim
    counts every seed.
    """
    return PLATEAU.gain(trained)


@part.claim(RISK, within(0.01), headline=True, must_fail_on=TOO_LONG)
def risk(lab, compared=beside_best):
    """After training, the layer's risk is that of one step of gradient descent with the best step
    size.

    Measured: R / R_GD - 1, both on the same fresh prompts.
    """
    return compared.risk_difference


# 0.1 is the length that goes with the margin of the risk: one step of GD is the best layer, so that
# a layer's excess risk is E(ŷ - ŷ_GD)²; 1% of the risk is 0.0041, a tenth of the root mean square
# of a prediction (0.42^½), squared.
@part.claim(ALIKE, below(0.1), headline=True, must_fail_on=TOO_LONG)
def prediction_difference(lab, compared=beside_best):
    """The predictions of the trained layer approach those of gradient descent.

    Measured: E‖ŷ - ŷ_GD‖ / E‖ŷ_GD‖.
    """
    return compared.prediction_difference


@part.claim(ALIKE, above(0.99), headline=True, must_fail_on=UPWARD)
def sensitivity_cosine(lab, compared=beside_best):
    """The sensitivities ∂ŷ/∂x_query of the trained layer and of gradient descent point in the same
    direction.

    Measured: mean cosine of the two sensitivities.
    """
    return compared.cosine


@part.claim(ALIKE, below(0.1), headline=True, must_fail_on=TOO_LONG)
def sensitivity_difference(lab, compared=beside_best):
    """The sensitivities of the trained layer approach those of gradient descent in length too.

    Measured: E‖∂ŷ/∂x - ∂ŷ_GD/∂x‖ / E‖∂ŷ_GD/∂x‖.
    """
    return compared.sensitivity_difference


@part.claim(
    'Section 3, "Interpolation", and Figure 2', within(0.01), headline=True, must_fail_on=WRONG
)
def interpolation(lab, compared=between):
    """The layer halfway between the trained and the constructed one, matched in scale, is as good
    as gradient descent.

    Measured: R_interpolated / R_GD - 1, both on the same fresh prompts.
    """
    return compared.risk_difference


@part.figure(shows=[leaves_plateau, risk])
def loss(lab, trained=one_layer):
    """Risk over training, measured on fresh prompts, against the exact risks of one step of
    gradient descent with its best step size, {best}, and of predicting 0, {null}: both come from
    moments of the task and not from a simulation. A line ends where training ended.
    """
    theory = one_step_risk(trained[0].task)
    best, null = theory.best_risk, theory.null_risk
    lines = {"one step of gradient descent, exact": best, "predicting 0, exact": null}
    figure = figures.risk_over_training({"trained layers": trained}, lines)
    return figure, {"best": f"{best:.4f}", "null": f"{null:.4f}"}


@part.figure(shows=[prediction_difference, sensitivity_cosine, sensitivity_difference])
def alignment(lab, trained=one_layer):
    """How alike a trained layer and one step of gradient descent are, over training, for the seeds
    that count. Left and right: mean lengths of the differences of predictions and of sensitivities
    ∂ŷ/∂x_query, in units of gradient descent's own mean length (a layer that predicts 0 is at 1).
    Middle: mean cosine of the sensitivities. What remains of the differences is the noise of
    stochastic gradients.
    """
    return figures.alignment_over_training({"one layer": trained}, {"to gradient descent": ""})


@part.figure(shows=[interpolation])
def weights(lab, trained=one_layer):
    """Effective matrices of a trained layer beside those of the construction, scaled so that the
    x-block of A has mean diagonal 1. A has become a multiple of the identity on x, and the last row
    of B, the only one that reaches the prediction, has kept its y entry: the label is multiplied by
    the negative rate −η/n. The last column of A, and the rows of B above the line in both, act on
    nothing in one layer (the query's label is 0, and the x-part is not read out).
    """
    run = trained.shown[0]
    shown = {f"trained (seed {run.seed})": run.learner, "constructed": constructed(run)}
    pairs = {title: analysis.normalised(learner) for title, learner in shown.items()}
    rows = {
        symbol: {title: np.asarray(pair[place][0]) for title, pair in pairs.items()}
        for place, symbol in enumerate(("$A = W_K^T W_Q$", "$B = P\\,W_V$"))
    }
    return figures.matrices(rows, split=run.task.dim)
