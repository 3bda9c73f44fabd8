"""Part `deep`: two looped and five unshared layers beside gradient descent and GD++, and what a looped layer does beyond its depth.

The margins were fixed before any model of this part had been compared with GD++; one pilot, with another seed, had shown that two looped
layers end below two steps of gradient descent. The rates and steps of the budget `quick` were found with other seeds. GD++ is trained,
as in the paper; the best GD++ with rates of its own for each of five steps is a different matter: see docs/deep.md.
"""

import numpy as np
import xarray as xr

from mesalens.analysis import (
    curvature,
    largest_stable_damping,
    nearest_learners,
    risk_by_depth,
    similarities,
)
from mesalens.checks import InputError
from mesalens.learners import ChebyshevDescent, ConjugateGradient, GradientDescent, NewtonSchulz
from mesalens.models import LinearTransformer
from mesalens.studies.criterion import Evidence, above, below, within
from mesalens.studies.study import Claim, Findings, Part
from mesalens.studies.von_oswald_2023 import deep_figures
from mesalens.studies.von_oswald_2023.deep_models import DeepModels
from mesalens.studies.von_oswald_2023.laboratory import Laboratory
from mesalens.theory import gradient_descent_transformer

MARGIN = 0.1
TIMES = 50
DAMPING = 0.75
DAMPINGS = (1.0, DAMPING, 0.5, 0.25)
NEWTON_STEPS = 2
"""Steps of Newton's iteration for each layer: its first ones only bring the inverse into range."""
FIGURES = {"two-layers": "Figure 3, two looped layers", "five-layers": "Figure 3, five layers"}
SECTION = 'Section 3, "Multiple steps of gradient descent vs. multiple layers of self-attention"'

CURVATURE = "Section 3, GD++, and the appendix on curvature correction"


def _of_depth(depth: str, words: str) -> tuple[Claim, ...]:
    place = f"{SECTION}, {FIGURES[depth]}"
    return (
        Claim(
            f"{depth}-beat-descent",
            f"{words} have a lower risk than as many steps of gradient descent with their best step sizes.",
            place,
            "R / R_GD - 1, both on the same fresh prompts",
            below(0.0),
        ),
        Claim(
            f"{depth}-match-plus-plus",
            f"{words} have the risk of as many steps of trained GD++.",
            place,
            "R / R_GD++ - 1, both on the same fresh prompts",
            within(MARGIN),
        ),
        Claim(
            f"{depth}-cosine",
            f"The sensitivities ∂ŷ/∂x_query of {words[0].lower()}{words[1:]} and of trained GD++ point the same way.",
            place,
            "mean cosine of the two sensitivities",
            above(0.95),
        ),
        Claim(
            f"{depth}-nearer-plus-plus",
            f"The sensitivities of {words[0].lower()}{words[1:]} are nearer to those of GD++ than to those of plain gradient descent.",
            place,
            "mean cosine with GD++ minus mean cosine with gradient descent",
            above(0.0),
        ),
    )


CLAIMS = (
    *_of_depth("two-layers", "Two looped layers"),
    Claim(
        "two-layers-interpolation",
        "Two looped layers whose matrices are halfway between the trained and GD++'s, matched in scale, have the risk of trained GD++.",
        f"{SECTION}, {FIGURES['two-layers']}",
        "R_interpolated / R_GD++ - 1, both on the same fresh prompts",
        within(MARGIN),
    ),
    *_of_depth("five-layers", "Five unshared layers"),
    Claim(
        "beyond-depth",
        f"A layer that was trained to be applied twice keeps descending when it is applied {TIMES} times with damping {DAMPING}.",
        "Section 3 and the appendix on repeated application with damping",
        f"log10 of the risk after {TIMES} damped applications over that after two undamped ones",
        below(0.0),
    ),
    *(
        claim
        for depth, words in (
            ("two-layers", "two looped layers"),
            ("five-layers", "five unshared layers"),
        )
        for claim in (
            Claim(
                f"{depth}-condition",
                f"In {words} the layers before the last transform the inputs so that X^T X is better conditioned.",
                CURVATURE,
                "mean log condition number of the last layer's inputs minus that of the prompt's",
                below(0.0),
            ),
            Claim(
                f"{depth}-transformed-step",
                f"One step of gradient descent on the inputs that the last of {words} sees, with the best step size for them, is better than on "
                "the prompt's.",
                CURVATURE,
                "R / R_prompt - 1, R the risk of one step on the last layer's inputs and the prompt's labels",
                below(0.0),
            ),
        )
    ),
)


def run(laboratory: Laboratory) -> Findings:
    """Trains both depths, then looks at them from outside and inside."""
    models = {name: laboratory.deep(name) for name in ("two-layers", "five-layers")}
    evidence: dict[str, Evidence] = {}
    for name, of_depth in models.items():
        after, counted = of_depth.after_training(), of_depth.trained()
        evidence |= {
            f"{name}-beat-descent": Evidence(after.descent_risk_difference, counted),
            f"{name}-match-plus-plus": Evidence(after.plus_plus_risk_difference, counted),
            f"{name}-cosine": Evidence(after.plus_plus_cosine, counted),
            f"{name}-nearer-plus-plus": Evidence(
                after.plus_plus_cosine - after.descent_cosine, counted
            ),
        }
    two = models["two-layers"]
    evidence["two-layers-interpolation"] = Evidence(
        two.after_training().interpolated_risk_difference, two.trained()
    )

    repeated, references, damping_remark = beyond_depth(laboratory, two)
    ratio = np.log10(
        repeated.risk.sel(damping=DAMPING, times=TIMES) / repeated.risk.sel(damping=1.0, times=2)
    ).reset_coords(drop=True)
    evidence["beyond-depth"] = Evidence(ratio, two.trained())

    spectra = {
        name: of_depth.for_each_seed(_curvature(laboratory, of_depth))
        for name, of_depth in models.items()
    }
    for name, measured in spectra.items():
        last = models[name].constructed.layers - 1
        lowered = measured.log_condition.isel(layer=last) - measured.log_condition.isel(layer=0)
        step = measured.step_risk.isel(layer=last) / measured.step_risk.isel(layer=0) - 1
        evidence[f"{name}-condition"] = Evidence(
            lowered.reset_coords(drop=True), models[name].trained()
        )
        evidence[f"{name}-transformed-step"] = Evidence(
            step.reset_coords(drop=True), models[name].trained()
        )

    five = models["five-layers"]
    key = laboratory.key(6, 3)
    transformer = five.training.learner(five.shown())
    kin = kindred(five)
    alike = similarities(transformer, kin, five.task, key, prompts=2000)
    nearest = nearest_learners(alike)
    plus_plus_spectra = curvature(five.constructed, five.task, key)
    return Findings(
        evidence=evidence,
        figures=[
            deep_figures.risks("deep-risk", list(models.values())),
            deep_figures.alignment(list(models.values())),
            deep_figures.weights(five),
            deep_figures.beyond(repeated.isel(seed=two.shown()), references),
            deep_figures.spectra(spectra["five-layers"].isel(seed=five.shown()), plus_plus_spectra),
            deep_figures.similarities(alike, nearest),
        ],
        datasets={name: of_depth.training.metrics for name, of_depth in models.items()}
        | {"beyond-depth": repeated, "nearest-learners": nearest},
        learners={name: of_depth.training.learners for name, of_depth in models.items()},
        remarks=[*(of_depth.remark() for of_depth in models.values()), damping_remark],
    )


def beyond_depth(
    laboratory: Laboratory, two: DeepModels
) -> tuple[xr.Dataset, dict[str, xr.Dataset], str]:
    """Risk over applications, of every seed and of GD and GD++ with the rates of two steps; and the largest stable dampings."""
    key = laboratory.key(6, 1)
    repeated = two.for_each_seed(
        lambda model, _: risk_by_depth(model, two.task, key, times=TIMES, dampings=DAMPINGS)
    )
    constructed = {
        "gradient descent": gradient_descent_transformer(
            two.references["descent"],
            dim=two.task.dim,
            outputs=two.task.outputs,
            context_length=two.task.context_length,
        ),
        "GD++": two.constructed,
    }
    references = {
        name: risk_by_depth(model, two.task, key, times=TIMES, dampings=DAMPINGS)
        for name, model in constructed.items()
    }
    of_seed = two.training.learner(two.shown())

    def stable(name: str, model: LinearTransformer) -> str:
        try:
            damping = largest_stable_damping(
                model, two.task, key, times=TIMES, between=(0.05, 20.0), precision=0.05
            )
        except InputError:  # a layer that has learned nothing changes nothing, with any damping; that loses no study
            return f"outside [0.05, 20] for {name}"
        return f"{damping:.2f} for {name}"

    words = ", ".join(
        stable(name, model) for name, model in {"the trained layer": of_seed, **constructed}.items()
    )
    return (
        repeated,
        references,
        f"Largest damping with which {TIMES} applications do not diverge on 2000 prompts: {words}.",
    )


def kindred(
    models: DeepModels,
) -> dict[str, GradientDescent | ConjugateGradient | NewtonSchulz | ChebyshevDescent]:
    """The algorithms that deep models are compared with, as many steps as layers (Newton's more)."""
    layers, scale = (
        models.constructed.layers,
        models.task.covariates.second_moment().trace() / models.task.dim,
    )
    ratio = np.sqrt(models.task.dim / models.task.context_length)
    # Where the eigenvalues of X^T X / n lie as sizes grow (Marchenko and Pastur), not below a hundredth of their mean
    lower, upper = scale * max((1 - ratio) ** 2, 0.01), scale * (1 + ratio) ** 2
    return {
        "gradient descent": models.references["descent"],
        "GD++": models.references["plus_plus"],
        "conjugate gradient": ConjugateGradient(layers),
        "Newton": NewtonSchulz(NEWTON_STEPS * layers),
        "Chebyshev": ChebyshevDescent(layers, float(lower), float(upper)),
    }


def _curvature(laboratory: Laboratory, models: DeepModels):
    return lambda model, place: curvature(model, models.task, laboratory.key(6, 2, place))


PART = Part("deep", "Several layers", CLAIMS, run)
