"""Part `deep`: two looped and five unshared layers beside gradient descent and GD++, and what a
looped layer does beyond its depth.

The margins were fixed before any model of this part had been compared with GD++; one pilot, with
another seed, had shown that two looped layers end below two steps of gradient descent.
"""

import dataclasses
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mesalens import analysis, plots
from mesalens.atlas import Lab, Runs, Trained, above, below, figures, within
from mesalens.checks import InputError
from mesalens.learners import ChebyshevDescent, ConjugateGradient, GradientDescent, NewtonSchulz
from mesalens.models import LinearTransformer
from mesalens.studies.von_oswald_2023.construction import WRONG, construct_on
from mesalens.studies.von_oswald_2023.deep_models import (
    constructed,
    descent_of,
    name_of,
    trained_plus_plus,
    transformer,
)
from mesalens.studies.von_oswald_2023.one_layer import measured
from mesalens.studies.von_oswald_2023.study import STUDY
from mesalens.theory import gradient_descent_transformer

part = STUDY.part("deep", "Several layers", looks="deep_seeds")

MARGIN = 0.1
TIMES, DAMPING = 50, 0.75
DAMPINGS = (1.0, DAMPING, 0.5, 0.25)
NEWTON_STEPS = 2
"""Steps of Newton's iteration for each layer: its first ones only bring the inverse into range."""
SECTION = 'Section 3, "Multiple steps of gradient descent vs. multiple layers of self-attention"'
CURVATURE = "Section 3, GD++, and the appendix on curvature correction"


@part.experiment
def two_layers(s, trained=True):
    """Two looped layers."""
    return transformer(s, s.two_layers, trained)


@part.experiment
def five_layers(s, trained=True):
    """Five unshared layers."""
    return transformer(s, s.five_layers, trained)


@part.experiment
def two_plus_plus(s):
    """GD++ of two steps that share their rates."""
    return trained_plus_plus(s, s.two_layers)


@part.experiment
def five_plus_plus(s):
    """GD++ of five steps with rates of their own."""
    return trained_plus_plus(s, s.five_layers)


# What is measured


def beside_both(lab: Lab, trained: Trained, plus_plus: Trained, sign: int = 1) -> dict[str, Any]:
    """A transformer beside gradient descent and GD++ on the same prompts; sign -1 for an ascent."""
    descent, _ = descent_of(trained, lab.settings.prompts_for_rates)
    gd = plus_plus.learner.descent
    gd = dataclasses.replace(gd, step_size=sign * gd.step_size)
    common = trained.task, lab.key(trained.name)
    prompts = lab.settings.prompts
    return {
        **measured(trained.learner, descent, *common, prompts=prompts, prefix="descent_"),
        **measured(trained.learner, gd, *common, prompts=prompts, prefix="plus_plus_"),
    }


@part.measurement
def compared(lab, trained=two_layers, plus_plus=two_plus_plus, sign=1):
    """A transformer beside gradient descent and GD++."""
    return beside_both(lab, trained, plus_plus, sign)


def the_learner(trained: Trained) -> LinearTransformer:
    """What was trained."""
    return trained.learner


def worsening(trained: Trained) -> LinearTransformer:
    """GD++ whose correction of the data has the wrong sign."""
    unit = 1 / trained.task.covariates.scale**2
    gd = GradientDescent(3 * unit, trained.learner.layers, data_correction=-0.5 * unit)
    return construct_on(trained.task, gd, gradient_descent_transformer)


@part.measurement
def curvature(lab, trained=two_layers, model=the_learner):
    """The spectrum of the inputs after each layer."""
    return analysis.curvature(model(trained), trained.task, lab.key())


def repeatable(lab: Lab, trained: Trained, plus_plus: Trained) -> dict[str, LinearTransformer]:
    """What can be applied more often than it was trained for."""
    descent, _ = descent_of(trained, lab.settings.prompts_for_rates)
    return {
        "trained layer": trained.learner,
        "gradient descent": construct_on(trained.task, descent, gradient_descent_transformer),
        "GD++": constructed(plus_plus),
    }


@part.measurement
def repeated(lab, trained=two_layers, plus_plus=two_plus_plus, dampings=DAMPINGS):
    """Risks over applications of a layer, and of GD and GD++ with their rates of two steps."""
    models = repeatable(lab, trained, plus_plus)
    names = xr.DataArray(list(models), dims="learner", name="learner")
    common: Any = {"task": trained.task, "key": lab.key(), "times": TIMES, "dampings": dampings}
    return xr.concat([analysis.risk_by_depth(m, **common) for m in models.values()], names)


@part.measurement
def kinship(lab, trained=five_layers, plus_plus=five_plus_plus):
    """How far the predictions after each layer are from the iterates of each algorithm."""
    task, layers = trained.task, trained.learner.layers
    scale = task.covariates.second_moment().trace() / task.dim
    ratio = np.sqrt(task.dim / task.context_length)
    # Where the eigenvalues of X^T X / n lie as sizes grow (Marchenko and Pastur), not below a
    # hundredth of their mean
    lower, upper = scale * max((1 - ratio) ** 2, 0.01), scale * (1 + ratio) ** 2
    algorithms = {
        "gradient descent": descent_of(trained, lab.settings.prompts_for_rates)[0],
        "GD++": plus_plus.learner.descent,
        "conjugate gradient": ConjugateGradient(layers),
        "Newton": NewtonSchulz(NEWTON_STEPS * layers),
        "Chebyshev": ChebyshevDescent(layers, float(lower), float(upper)),
    }
    alike = analysis.similarities(trained.learner, algorithms, task, lab.key(), prompts=2000)
    return {name: t.difference.rename(iterate=f"{name} iterate") for name, t in alike.items()}


# What is claimed


def declare(depth: str, words: str, figure: str, trained, plus_plus, headline: bool = False) -> Any:
    """Declares the claims about transformers beside gradient descent and GD++ of their depth."""
    sound = compared.given(trained=trained, plus_plus=plus_plus)
    untrained = sound.given(trained=trained.given(trained=False))

    def claim(name: str, criterion: Any, wrong: Any) -> Any:
        options: Any = {"headline": headline, "must_fail_on": {"compared": wrong}}
        options |= {"name": f"{depth}-{name}", "words": words, "Words": words.capitalize()}
        return part.claim(f"{SECTION}, {figure}", criterion, **options)

    @claim("beat-descent", below(0.0), untrained)
    def beat_descent(lab, compared=sound):
        """{Words} have a lower risk than as many steps of gradient descent with their best step
        sizes.

        Measured: R / R_GD - 1, both on the same fresh prompts.
        """
        return compared.descent_risk_difference

    @claim("match-plus-plus", within(MARGIN), untrained)
    def match_plus_plus(lab, compared=sound):
        """{Words} have the risk of as many steps of trained GD++.

        Measured: R / R_GD++ - 1, both on the same fresh prompts.
        """
        return compared.plus_plus_risk_difference

    @claim("cosine", above(0.95), sound.given(sign=-1))
    def cosine(lab, compared=sound):
        """The sensitivities ∂ŷ/∂x_query of {words} and of trained GD++ point in the same direction.

        Measured: mean cosine of the two sensitivities.
        """
        return compared.plus_plus_cosine

    @claim("nearer-plus-plus", above(0.0), sound.given(sign=-1))
    def nearer_plus_plus(lab, compared=sound):
        """The sensitivities of {words} are nearer to those of GD++ than to those of plain gradient
        descent.

        Measured: mean cosine with GD++ minus mean cosine with gradient descent.
        """
        return compared.plus_plus_cosine - compared.descent_cosine


def declare_curvature(depth: str, words: str, trained) -> None:
    """Declares the claims about the inputs that the last layer sees."""
    sound = curvature.given(trained=trained)
    options: Any = {"must_fail_on": {"curvature": sound.given(model=worsening)}, "words": words}

    @part.claim(CURVATURE, below(0.0), name=f"{depth}-condition", **options)
    def condition(lab, curvature=sound):
        """In {words} the layers before the last transform the inputs so that X^T X is better
        conditioned.

        Measured: mean log condition number of the last layer's inputs minus that of the prompt's.
        """
        return change(curvature.log_condition)

    @part.claim(CURVATURE, below(0.0), name=f"{depth}-transformed-step", **options)
    def transformed_step(lab, curvature=sound):
        """One step of gradient descent on the inputs that the last of {words} sees, with the best
        step size for them, is better than on the prompt's.

        Measured: R / R_prompt - 1, R the risk of one step on the last layer's inputs and the
        prompt's labels.
        """
        return np.exp(change(np.log(curvature.step_risk))) - 1


def change(values: xr.DataArray) -> xr.DataArray:
    """From the prompt to the inputs of the last layer."""
    return (values.isel(layer=-2) - values.isel(layer=0)).reset_coords(drop=True)


TWO = "two-layers", "two looped layers"
FIVE = "five-layers", "five unshared layers"

declare(*TWO, "Figure 3, two looped layers", two_layers, two_plus_plus, headline=True)


@part.claim(
    f"{SECTION}, Figure 3, two looped layers", within(MARGIN), headline=True, must_fail_on=WRONG
)
def two_layers_interpolation(
    lab, trained=two_layers, plus_plus=two_plus_plus, construct=gradient_descent_transformer
):
    """Two looped layers whose matrices are halfway between the trained and GD++'s, matched in
    scale, have the risk of trained GD++.

    Measured: R_interpolated / R_GD++ - 1, both on the same fresh prompts.
    """
    between = analysis.interpolate(trained.learner, constructed(plus_plus, construct))
    learners, prompts = (between, plus_plus.learner.descent), lab.settings.prompts
    return measured(*learners, trained.task, lab.key(), prompts=prompts)["risk_difference"]


declare(*FIVE, "Figure 3, five layers", five_layers, five_plus_plus)


@part.claim(
    "Section 3 and the appendix on repeated application with damping",
    below(0.0),
    must_fail_on={"repeated": repeated.given(dampings=(1.0, 10.0)), "damping": 10.0},
)
def beyond_depth(lab, repeated=repeated, damping=DAMPING):
    """A layer that was trained to be applied twice keeps descending when it is applied 50 times
    with damping 0.75.

    Measured: log10 of the risk after 50 damped applications over that after two undamped ones.
    """
    risk = repeated.risk.sel(learner="trained layer")
    ratio = risk.sel(damping=damping, times=TIMES) / risk.sel(damping=1.0, times=2)
    return np.log10(ratio).reset_coords(drop=True)


declare_curvature(*TWO, two_layers)
declare_curvature(*FIVE, five_layers)


@part.remark(shows=[beyond_depth])
def stable_damping(lab, trained=two_layers, plus_plus=two_plus_plus):
    """The largest stable dampings."""
    run = trained.shown[0]
    options: Any = {"times": TIMES, "between": (0.05, 20.0), "precision": 0.05}

    def stable(model: LinearTransformer) -> str:
        try:
            return f"{analysis.largest_stable_damping(model, run.task, lab.key(), **options):.2f}"
        except InputError:  # a layer that has learned nothing changes nothing, with any damping
            return "outside [0.05, 20]"

    models = repeatable(lab, run, plus_plus[run.seed])
    return (
        f"Largest damping with which {TIMES} applications do not diverge on 2000 prompts "
        f"(seed {run.seed}): {', '.join(f'{stable(m)} for {name}' for name, m in models.items())}."
    )


# What is drawn

five_compared = compared.given(trained=five_layers, plus_plus=five_plus_plus)
five_curvature = curvature.given(trained=five_layers)
plus_plus_curvature = curvature.given(trained=five_plus_plus, model=constructed)


@part.figure
def deep_risk(lab, two=two_layers, five=five_layers, two_risks=compared, five_risks=five_compared):
    """Risk over training, measured on fresh prompts, of deep linear transformers, beside as many
    steps of plain gradient descent with the best step sizes and of GD++, which is trained by the
    same call (mean over seeds).
    """
    left, right = Figure((figures.WIDE, 3.4), layout="constrained").subplots(1, 2)
    draw_risk(left, name_of(lab.settings.two_layers), two, two_risks)
    return draw_risk(right, name_of(lab.settings.five_layers), five, five_risks)


def draw_risk(axes: Axes, title: str, runs: Runs, risks: xr.Dataset) -> Figure:
    """Risk over training beside those of gradient descent and of trained GD++."""
    lines = {
        "gradient descent, best rates": risks.descent_reference_risk.mean(),
        "GD++, trained": risks.plus_plus_reference_risk.mean(),
    }
    options: Any = {"log": True, "title": title, "axes": axes}
    return figures.risk_over_training({"transformers": runs}, lines, **options)


@part.figure
def deep_alignment(lab, two=two_layers, five=five_layers):
    """How alike trained transformers are to gradient descent and to GD++ of their depth, over
    training. Lengths of differences are in units of the reference's own mean length. GD++ has here
    the best rates that all steps share, beside unshared layers too, because the best rates of each
    step diverge on rare prompts; the claims compare with trained GD++ instead.
    """
    kinds = {lab.settings.two_layers: two, lab.settings.five_layers: five}
    runs = {name_of(kind).replace(", ", "\n", 1): each for kind, each in kinds.items()}
    references = {"to gradient descent": "descent_", "to GD++": "plus_plus_"}
    return figures.alignment_over_training(runs, references)


@part.figure
def deep_weights(lab, trained=five_layers, plus_plus=five_plus_plus):
    """Effective matrices A and B of each layer of one trained transformer ({name}) above those of
    GD++, scaled so that the x-block of A has mean diagonal 1. Lines part x from y. In GD++ the
    x-block of B is −γ I, the correction of the data, and its y entry −η, the step. The x-rows of B
    in the last layer act on nothing.
    """
    run = trained.shown[0]
    models = {f"seed {run.seed}": run.learner, "GD++": constructed(plus_plus[run.seed])}
    rows = {
        f"{symbol}, {name}": {
            f"layer {layer}": np.asarray(matrix)
            for layer, matrix in enumerate(analysis.normalised(model)[place], start=1)
        }
        for place, symbol in enumerate("AB")
        for name, model in models.items()
    }
    figure = figures.matrices(rows, split=run.task.dim, limits="panel")
    return figure, {"name": name_of(lab.settings.five_layers)}


def shown(table: xr.Dataset) -> xr.Dataset:
    """The first seed that counts, or the first of all where none does."""
    return table.isel(seed=int(table.counted.values.astype(bool).argmax()))


@part.figure
def deep_beyond(lab, repeated=repeated):
    """Risk of a layer that was trained to be applied twice (grey line) when it is applied more
    often, with damping λ, beside gradient descent and GD++ with their rates of two steps; seed
    {seed}. Lines that leave through the top diverge.
    """
    table = shown(repeated)
    figure = Figure((figures.WIDE, 3.4), layout="constrained")
    panels = figure.subplots(1, table.sizes["learner"], sharey=True)
    for axes, name in zip(panels, table.learner.values, strict=True):
        plots.risk_over_depth(axes, table.sel(learner=name))
        axes.axvline(2, color=plots.NEUTRAL, linewidth=0.8)
        axes.set(title=name, xlabel="applications", ylabel="")
        axes.get_legend().remove()
    least = float(table.risk.where(table.risk > 0).min())
    panels[0].set(ylabel="risk  E(ŷ − y)²", ylim=(least / 1.5, None))
    return figures.legend_below(panels[0]), {"seed": str(int(table.seed))}


@part.figure
def deep_spectra(lab, trained=five_curvature, plus_plus=plus_plus_curvature):
    """Left and middle: eigenvalues of X^T X/n as the layers transform the inputs, with the
    geometric mean κ of the condition number. Right: the risk of a single step of gradient descent
    that uses the inputs of a layer, the prompt's own labels and the best step size for them. The
    last layer's change of x acts on nothing and is not trained.
    """
    return figures.spectra({"trained": shown(trained), "GD++": shown(plus_plus)})


@part.figure
def deep_similarity(lab, kinship=kinship):
    """Mean squared difference of predictions read after each layer of a trained transformer (rows,
    seed {seed}) and after each iterate of algorithms (columns); the nearest iterate is framed.
    Nearest of all, layer by layer: {winners}.
    """
    table = shown(kinship).drop_vars("counted")
    maps = {name: table[name].rename({f"{name} iterate": "iterate"}) for name in table.data_vars}
    names, figure = list(maps), Figure((figures.WIDE, 5.6), layout="constrained")
    halves: Any = figure.subfigures(2, 1)
    for half, row in zip(halves, (names[:3], names[3:]), strict=True):
        widths = [maps[name].sizes["iterate"] for name in row]
        panels = half.subplots(1, len(row), width_ratios=widths)
        for axes, name in zip(panels, row, strict=True):
            both = {"difference": maps[name], "nearest": maps[name].argmin("iterate")}
            plots.similarity_map(axes, xr.Dataset(both), floor=1e-3)
            axes.set(title=name, ylabel="layer" if axes is panels[0] else "")
        half.colorbar(panels[0].images[0], ax=list(panels), label="E‖ŷ_l − ŷ_k‖² / E‖y‖²")
    least = xr.concat([each.min("iterate") for each in maps.values()], "algorithm")
    nearest = [names[place] for place in least.argmin("algorithm").values]
    winners = ", ".join(f"{layer}: {name}" for layer, name in enumerate(nearest) if layer)
    return figure, {"seed": str(int(table.seed)), "winners": winners}
