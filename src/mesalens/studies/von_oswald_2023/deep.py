"""Part `deep`: two looped and five unshared layers compared with gradient descent and GD++, and
what a looped layer does beyond its depth.

The margins were fixed before any model of this part was compared with GD++; one pilot, with another
seed, had shown that two looped layers end below two steps of gradient descent.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from mesalens import analysis, atlas, learners, plots
from mesalens.atlas import above, below, compared, compared_with_each, figures, within
from mesalens.checks import InputError
from mesalens.studies.von_oswald_2023 import deep_models as models
from mesalens.studies.von_oswald_2023.construction import wrong
from mesalens.studies.von_oswald_2023.one_layer import halfway
from mesalens.studies.von_oswald_2023.study import STUDY
from mesalens.theory import gradient_descent_transformer

part = STUDY.part("deep", "Several layers", looks="deep_seeds")

MARGIN = 0.1
TIMES = 50
SECTION = 'Section 3, "Multiple steps of gradient descent vs. multiple layers of self-attention"'
TWO, FIVE = f"{SECTION}, Figure 3, two looped layers", f"{SECTION}, Figure 3, five layers"
CURVATURE = "Section 3, GD++, and the appendix on curvature correction"


@part.experiment
def two_layers(s):
    """Two looped layers."""
    return models.transformer(s, s.two_layers)


@part.experiment
def five_layers(s):
    """Five unshared layers."""
    return models.transformer(s, s.five_layers)


@part.experiment
def two_plus_plus(s):
    """GD++ of two steps that share their rates."""
    return models.plus_plus(s, s.two_layers)


@part.experiment
def five_plus_plus(s):
    """GD++ of five steps with rates of their own."""
    return models.plus_plus(s, s.five_layers)


def beside_both(trained, plus_plus, **options):
    """Compares transformers with gradient descent and GD++."""
    references = {"descent": models.descent, "plus_plus": plus_plus}
    return compared_with_each.given(trained=trained, references=references, **options)


two_both = beside_both(two_layers, two_plus_plus)
five_both = beside_both(five_layers, five_plus_plus)


def constructed(trained):
    """The transformer that is a trained GD++ by construction."""
    return gradient_descent_transformer(trained.learner.descent, **trained.task.sizes)


def itself(trained):
    """The trained transformer."""
    return trained.learner


def ascent(trained):
    """Gradient descent in the wrong direction."""
    gd = models.descent(trained)
    return dataclasses.replace(gd, step_size=-gd.step_size)


def worsening(trained):
    """GD++ whose correction of the data has the wrong sign."""
    unit = 1 / trained.task.covariates.scale**2
    options = {"steps": trained.learner.layers, "data_correction": -0.5 * unit}
    gd = learners.GradientDescent(3 * unit, **options)
    return gradient_descent_transformer(gd, **trained.task.sizes)


@part.measurement
def curvature(lab, trained=two_layers, model=itself):
    """The spectrum of the inputs after each layer."""
    return analysis.input_spectra(model(trained), trained.task, lab.key())


def repeatable(trained, plus_plus):
    """The layer, GD and GD++, which can be applied more often than in training."""
    descent = models.descent(trained)
    return {
        "trained layer": trained.learner,
        "gradient descent": gradient_descent_transformer(descent, **trained.task.sizes),
        "GD++": constructed(plus_plus),
    }


@part.measurement
def repeated(lab, trained=two_layers, plus_plus=two_plus_plus, dampings=(1.0, 0.75, 0.5, 0.25)):
    """Risks by number of applications of a layer, and of GD and GD++ with rates of two steps."""
    common = {"task": trained.task, "key": lab.key(), "times": TIMES, "dampings": dampings}
    layers = repeatable(trained, plus_plus).items()
    return by_learner({name: analysis.risk_by_depth(layer, **common) for name, layer in layers})


@part.measurement
def kinship(lab, trained=five_layers, plus_plus=five_plus_plus):
    """Distances of the predictions after each layer from the iterates of each algorithm."""
    task, layers = trained.task, trained.learner.layers
    scale = task.covariates.second_moment().trace() / task.dim
    ratio = np.sqrt(task.dim / task.context_length)
    # The range of the eigenvalues of X^T X / n as sizes grow (Marchenko and Pastur), but not below
    # a hundredth of their mean
    lower, upper = scale * max((1 - ratio) ** 2, 0.01), scale * (1 + ratio) ** 2
    algorithms = {
        "gradient descent": models.descent(trained),
        "GD++": plus_plus.learner.descent,
        "conjugate gradient": learners.ConjugateGradient(layers),
        # Two steps for each layer: the first ones only bring the inverse into range
        "Newton": learners.NewtonSchulz(2 * layers),
        "Chebyshev": learners.ChebyshevDescent(layers, float(lower), float(upper)),
    }
    alike = analysis.similarities(trained.learner, algorithms, task, lab.key(), prompts=2000)
    return by_learner(alike)


def by_learner(tables):
    """Tables of several learners along a dimension, with NaN where one has no value."""
    table = xr.concat(list(tables.values()), "learner", join="outer")
    return table.assign_coords(learner=list(tables))


def declare_risks(part, place, name, words, both, **options):
    """Declares the claims about risks of transformers, gradient descent and GD++ of equal depth."""
    descent = "as many steps of gradient descent with their best step sizes"
    beside_descent = atlas.Alike(part, both, words, descent, name="descent_", **options)
    beside_descent(f"{name}-beat-descent", "risk", place, below(0.0))
    gd_plus_plus = "as many steps of trained GD++"
    alike = atlas.Alike(part, both, words, gd_plus_plus, name="plus_plus_", **options)
    alike(f"{name}-match-plus-plus", "risk", place, within(MARGIN))
    return alike


def declare(place, name, words, trained, both, headline=False):
    """Declares the claims about risks, sensitivities, and the inputs that the last layer sees."""
    alike = declare_risks(part, place, name, words, both, headline=headline)
    alike(f"{name}-cosine", "cosine", place, above(0.95))
    upward = both.given(references={"descent": models.descent, "plus_plus": ascent})
    options = {"headline": headline, "must_fail_on": {"both": upward}, "words": words}

    @part.claim(place, above(0.0), name=f"{name}-nearer-plus-plus", **options)
    def nearer_plus_plus(lab, both=both):
        """The sensitivities of {words} are nearer to those of GD++ than to those of plain gradient
        descent.

        Measured: mean cosine with GD++ minus mean cosine with gradient descent.
        """
        return both.plus_plus_cosine - both.descent_cosine

    spectrum = curvature.given(trained=trained)
    options = {"must_fail_on": {"curvature": spectrum.given(model=worsening)}, "words": words}

    @part.claim(CURVATURE, below(0.0), name=f"{name}-condition", **options)
    def condition(lab, curvature=spectrum):
        """In {words}, the layers before the last transform the inputs so that X^T X is better
        conditioned.

        Measured: the mean log condition number of the last layer's inputs minus that of the
        prompt's.
        """
        return change(curvature.log_condition)

    @part.claim(CURVATURE, below(0.0), name=f"{name}-transformed-step", **options)
    def transformed_step(lab, curvature=spectrum):
        """One step of gradient descent on the inputs of the last of {words}, with the best step
        size for them, has less risk than one step on the prompt's inputs.

        Measured: R / R_prompt - 1, with R the risk of one step on the last layer's inputs and the
        prompt's labels.
        """
        return np.exp(change(np.log(curvature.step_risk))) - 1


def change(values):
    """From the prompt to the inputs of the last layer."""
    return (values.isel(layer=-2) - values.isel(layer=0)).reset_coords(drop=True)


declare(TWO, "two-layers", "two looped layers", two_layers, two_both, headline=True)
declare(FIVE, "five-layers", "five unshared layers", five_layers, five_both)
between = compared.given(trained=two_layers, reference=two_plus_plus, learner=halfway)
HALFWAY = "two looped layers halfway between the trained ones and GD++, matched in scale,"
wrongly_between = between.given(learner=functools.partial(halfway, construct=wrong))
interpolated = atlas.Alike(part, between, HALFWAY, "trained GD++", headline=True)
name = "two-layers-interpolation"
interpolated(name, "risk", TWO, within(MARGIN), wrongly_between)


@part.claim(
    "Section 3 and the appendix on repeated application with damping",
    below(0.0),
    must_fail_on={"repeated": repeated.given(dampings=(1.0, 10.0)), "damping": 10.0},
)
def beyond_depth(lab, repeated=repeated, damping=0.75):
    """The risk of a layer that was trained to be applied twice is lower when it is applied 50 times
    with damping 0.75.

    Measured: log10 of the risk after 50 damped applications over that after two undamped ones.
    """
    risk = repeated.risk.sel(learner="trained layer")
    ratio = risk.sel(damping=damping, times=TIMES) / risk.sel(damping=1.0, times=2)
    return np.log10(ratio).reset_coords(drop=True)


@part.remark(shows=[beyond_depth])
def stable_damping(lab, trained=two_layers, plus_plus=two_plus_plus):
    """The largest stable dampings."""
    run = trained.shown[0]
    options = {"times": TIMES, "between": (0.05, 20.0), "precision": 0.05}
    found = []
    for name, layer in repeatable(run, plus_plus[run.seed]).items():
        try:
            damping = analysis.largest_stable_damping(layer, run.task, lab.key(), **options)
            found.append(f"{damping:.2f} for {name}")
        except InputError:  # a layer that has learned nothing is stable for any damping
            found.append(f"outside [0.05, 20] for {name}")
    return (
        f"Largest damping with which {TIMES} applications do not diverge on 2000 prompts "
        f"(seed {run.seed}): {', '.join(found)}."
    )


def draw_risks(panels):
    """Draws risks during training, with those of gradient descent and of trained GD++, by title."""
    rows = -(-len(panels) // 2)
    figure: Any = Figure((figures.WIDE, 3.3 * rows), layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes, (title, (runs, risks)) in zip(grid, panels.items(), strict=False):
        lines = {
            "gradient descent, best rates": risks.descent_reference_risk.mean(),
            "GD++, trained": risks.plus_plus_reference_risk.mean(),
        }
        figures.risk_over_training({"transformers": runs}, lines, log=True, title=title, axes=axes)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure


@part.figure
def deep_risk(lab, two=two_layers, five=five_layers, two_both=two_both, five_both=five_both):
    """Risk during training, measured on fresh prompts, of deep linear transformers, and of as many
    steps of plain gradient descent with the best step sizes and of trained GD++ (mean over seeds).
    """
    titles = map(models.name_of, (lab.settings.two_layers, lab.settings.five_layers))
    return draw_risks(dict(zip(titles, [(two, two_both), (five, five_both)], strict=True)))


@part.figure
def deep_alignment(lab, two=two_layers, five=five_layers):
    """Similarity of transformers to gradient descent and to GD++ of their depth during training.
    Lengths of differences are in units of the mean length for the reference. GD++ has the best
    rates shared by all steps, also for unshared layers, because the best separate rates diverge on
    rare prompts; the claims compare with trained GD++ instead.
    """
    kinds = {lab.settings.two_layers: two, lab.settings.five_layers: five}
    runs = {models.name_of(kind).replace(", ", "\n", 1): each for kind, each in kinds.items()}
    references = {"to gradient descent": "descent_", "to GD++": "plus_plus_"}
    return figures.alignment_over_training(runs, references)


@part.figure
def deep_weights(lab, trained=five_layers, plus_plus=five_plus_plus):
    """Effective matrices A and B of each layer of one trained transformer ({name}), above those of
    GD++, scaled so that the x-block of A has mean diagonal 1. Lines separate x and y. In GD++, the
    x-block of B is −γ I, the correction of the data, and its y entry −η, the step. The x-rows of B
    in the last layer have no effect.
    """
    run = trained.shown[0]
    shown = {f"seed {run.seed}": run.learner, "GD++": constructed(plus_plus[run.seed])}
    rows = {
        f"{symbol}, {name}": {
            f"layer {layer}": np.asarray(matrix)
            for layer, matrix in enumerate(analysis.normalised(model)[place], start=1)
        }
        for place, symbol in enumerate("AB")
        for name, model in shown.items()
    }
    figure = figures.matrices(rows, split=run.task.dim, limits="panel")
    return figure, {"name": models.name_of(lab.settings.five_layers)}


def first_shown(table):
    """The first seed that counts, or the first of all seeds if none does."""
    return table.isel(seed=int(table.counted.values.astype(bool).argmax()))


@part.figure
def deep_beyond(lab, repeated=repeated):
    """Risk of a layer that was trained to be applied twice (grey line) when it is applied more
    often with damping λ, and of gradient descent and GD++ with their rates of two steps; seed
    {seed}. Lines that leave the frame at the top diverge.
    """
    table = first_shown(repeated)
    figure = Figure((figures.WIDE, 3.4), layout="constrained")
    panels: Any = figure.subplots(1, table.sizes["learner"], sharey=True)
    for axes, name in zip(panels, table.learner.values, strict=True):
        plots.risk_by_depth(axes, table.sel(learner=name))
        axes.axvline(2, color=plots.NEUTRAL, linewidth=0.8)
        axes.set(title=name, xlabel="applications", ylabel="")
        axes.get_legend().remove()
    least = float(table.risk.where(table.risk > 0).min())
    panels[0].set(ylabel="risk  E(ŷ − y)²", ylim=(least / 1.5, None))
    return figures.legend_below(panels[0]), {"seed": int(table.seed)}


five_curvature = curvature.given(trained=five_layers)
plus_plus_curvature = five_curvature.given(trained=five_plus_plus, model=constructed)


@part.figure
def deep_spectra(lab, trained=five_curvature, plus_plus=plus_plus_curvature):
    """Left and middle: eigenvalues of X^T X/n as the layers transform the inputs, with the
    geometric mean κ of the condition number. Right: the risk of a single step of gradient descent
    on the inputs of a layer and the prompt's labels, with the best step size for them. The change
    of x in the last layer has no effect and is not trained.
    """
    return figures.spectra({"trained": first_shown(trained), "GD++": first_shown(plus_plus)})


@part.figure
def deep_similarity(lab, kinship=kinship):
    """Mean squared difference of predictions read after each layer of a trained transformer (rows,
    seed {seed}) and after each iterate of algorithms (columns); the nearest iterate is framed.
    Nearest of all, layer by layer: {winners}.
    """
    table = first_shown(kinship)
    figure: Any = Figure((figures.WIDE, 5.6), layout="constrained")
    names = list(table.learner.values)
    for half, row in zip(figure.subfigures(2, 1), (names[:3], names[3:]), strict=True):
        maps = [table.sel(learner=name).dropna("iterate") for name in row]
        widths = [each.sizes["iterate"] for each in maps]
        panels = half.subplots(1, len(row), width_ratios=widths)
        for axes, name, each in zip(panels, row, maps, strict=True):
            plots.similarity_map(axes, each, floor=1e-3)
            axes.set(title=name, ylabel="layer" if axes is panels[0] else "")
        half.colorbar(panels[0].images[0], ax=list(panels), label="E‖ŷ_l − ŷ_k‖² / E‖y‖²")
    nearest = table.difference.min("iterate").idxmin("learner").values
    winners = ", ".join(f"{layer}: {name}" for layer, name in enumerate(nearest) if layer)
    return figure, {"seed": int(table.seed), "winners": winners}
