"""Part `shift`: the trained layer behaves as gradient descent where it was not trained."""

import equinox as eqx
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from mesalens import plots
from mesalens.analysis import interpolate, risks_under_shift, scaled_functions, scaled_inputs
from mesalens.studies.criterion import Evidence, within
from mesalens.studies.study import Claim, Figure, Findings, Part
from mesalens.studies.von_oswald_2023.laboratory import Laboratory, TrainedLayers
from mesalens.tasks import Exponential, Gaussian, Laplace

PLACE = 'Section 3, "Out-of-distribution validation tasks", and Figure 2'
MARGIN = 0.1
# Away from the training distribution GD's step size is not the best one, so an error of the layer counts to first order and
# not squared: the 10% that a prediction may differ at the margin of the claim `risk` is 10% of the risk here.

INPUT_SCALES = np.array([0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0])
FUNCTION_SCALES = np.array([0.5, 1.0, 2.0, 3.0, 4.0, 5.0])
COVARIATES = {"Gaussian": (Gaussian, 3), "Laplace": (Laplace, 6), "exponential": (Exponential, 6)}
COVARIATE_SCALES = np.array([0.5, 1.0, 2.0])


def _claim(name: str, statement: str, settings: str) -> Claim:
    return Claim(
        name,
        statement,
        PLACE,
        f"R / R_GD - 1, both on the same prompts; {settings}",
        within(MARGIN),
    )


CLAIMS = (
    _claim(
        "scaled-inputs",
        "With inputs scaled by α, the trained and the interpolated layer have the risk of gradient descent.",
        "α from 0.5 to 2",
    ),
    _claim(
        "scaled-functions",
        "With functions scaled by α, the trained and the interpolated layer have the risk of gradient descent.",
        "α from 0.5 to 5",
    ),
    _claim(
        "other-covariates",
        "On covariates of other distributions, the trained and the interpolated layer have the risk of gradient descent.",
        "Gaussian, Laplace, exponential with E[x_i²] of the training, times α² for α in {0.5, 1, 2}",
    ),
)


def run(laboratory: Laboratory) -> Findings:
    """Risk of the trained layer, the interpolated one and GD under shifts of inputs, functions and covariates."""
    layers = laboratory.trained()
    inputs = shifted_risks(laboratory, layers, scaled_inputs(layers.task), INPUT_SCALES, place=1)
    functions = shifted_risks(
        laboratory, layers, scaled_functions(layers.task), FUNCTION_SCALES, place=2
    )
    others: list[xr.DataArray] = []
    for place, (family, ratio) in enumerate(COVARIATES.values(), start=3):
        # The same E[x_i²] as U[-scale, scale]: scale²/3, where these families have 1, 2 and 2 times their own scale²
        covariates = family(layers.task.dim, layers.task.covariates.scale / np.sqrt(ratio))
        task = eqx.tree_at(lambda t: t.covariates, layers.task, covariates)
        others.append(
            shifted_risks(laboratory, layers, scaled_inputs(task), COVARIATE_SCALES, place=place)
        )
    covariates = xr.concat(
        others, dim=xr.DataArray(list(COVARIATES), dims="covariates", name="covariates")
    )
    return Findings(
        evidence={
            "scaled-inputs": Evidence(relative(inputs.sel(alpha=slice(0.5, 2))), layers.trained()),
            "scaled-functions": Evidence(relative(functions), layers.trained()),
            "other-covariates": Evidence(relative(covariates), layers.trained()),
        },
        figures=[
            shift_figure(inputs.sel(seed=layers.shown()), functions.sel(seed=layers.shown())),
            covariates_figure(covariates.sel(seed=layers.shown())),
        ],
        datasets={
            "shift": xr.Dataset(
                {
                    "scaled_inputs": inputs.rename(alpha="input_scale"),
                    "scaled_functions": functions.rename(alpha="function_scale"),
                    "other_covariates": covariates.rename(alpha="covariate_scale"),
                }
            )
        },
    )


def shifted_risks(
    laboratory: Laboratory, layers: TrainedLayers, shift, values, *, place: int, name: str = "alpha"
) -> xr.DataArray:
    """Risks with dimensions learner, seed and the shift."""

    def measure(layer, key):
        learners = (layer, interpolate(layer, layers.constructed), layers.descent)
        estimates = risks_under_shift(
            learners, shift, jnp.asarray(values), key, prompts=laboratory.budget.prompts
        )
        return jnp.stack([estimate.value for estimate in estimates])

    measured = layers.for_each_seed(measure, laboratory.key(3, place))
    return xr.DataArray(
        np.asarray(measured),
        dims=("seed", "learner", name),
        coords={
            "seed": layers.training.metrics.seed,
            "learner": ["trained", "interpolated", "gradient descent"],
            name: values,
        },
        name="risk",
    )


def relative(risk: xr.DataArray) -> xr.DataArray:
    """R / R_GD - 1 of the trained and the interpolated layer."""
    return (
        risk.sel(learner=["trained", "interpolated"])
        / risk.sel(learner="gradient descent", drop=True)
        - 1
    )


def draw_learners(axes, risk: xr.DataArray) -> None:
    """The three learners, drawn so that lines that lie on each other can all be seen."""
    plots.curve(
        axes,
        risk.sel(learner="gradient descent"),
        color=plots.REFERENCE,
        label="one GD step",
        linewidth=5,
        alpha=0.5,
    )
    plots.curve(axes, risk.sel(learner="trained"), color=plots.TRAINED, label="trained layer")
    plots.curve(
        axes,
        risk.sel(learner="interpolated"),
        color=plots.INTERPOLATED,
        label="interpolated layer",
        linestyle="",
        marker="o",
        markersize=4,
    )


def shift_figure(inputs: xr.DataArray, functions: xr.DataArray) -> Figure:
    """Risk against the scale of inputs and of functions."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axes, risk, title in (
        (left, inputs, "inputs scaled by α"),
        (right, functions, "functions scaled by α"),
    ):
        draw_learners(axes, risk)
        axes.axvline(1, color=plots.NEUTRAL, linestyle=":", linewidth=1)
        axes.set(title=title, xlabel="α", ylabel="risk", yscale="log")
    left.legend()
    return Figure(
        "shift",
        "Risk (log scale) where inputs x (left) or functions f (right) are scaled by α; all learners keep what they had at α = 1 (dotted), "
        "where the layers were trained and the step size is the best. The trained layer (line, with a band from the least to the "
        "greatest seed) and the layer halfway to the construction (dots) lie on gradient descent (wide line), where it does badly too.",
        figure,
    )


def covariates_figure(risk: xr.DataArray) -> Figure:
    """Risk relative to GD on other covariates."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    difference = relative(risk)
    reach = 1.15 * max([1.4 * MARGIN, *np.abs(difference.values).ravel()])
    places = np.arange(risk.sizes["covariates"] * risk.sizes["alpha"])
    labels = [
        f"{name}\nα = {alpha:g}" for name in risk.covariates.values for alpha in risk.alpha.values
    ]
    for offset, learner, color in (
        (-0.12, "trained", plots.TRAINED),
        (0.12, "interpolated", plots.INTERPOLATED),
    ):
        values = (
            difference.sel(learner=learner)
            .transpose("seed", "covariates", "alpha")
            .values.reshape(risk.sizes["seed"], -1)
        )
        for number, of_seed in enumerate(values):
            axes.plot(
                places + offset,
                of_seed,
                "o",
                color=color,
                markersize=4,
                alpha=0.7,
                label=f"{learner} layer" if number == 0 else None,
            )
    axes.axhspan(-MARGIN, MARGIN, color=plots.NEUTRAL, alpha=0.08)
    axes.axhline(0, color=plots.REFERENCE, linestyle="--", linewidth=1)
    axes.set(xticks=places, ylabel="R / R_GD − 1", ylim=(-reach, reach))
    axes.set_xticklabels(labels, fontsize=8)
    axes.legend(loc="lower left", ncols=2)
    return Figure(
        "other-covariates",
        "Risk relative to gradient descent on covariates that the layers never saw, one dot a seed, scaled to the second moment of the training "
        "times α². The shaded band is the margin of the claim. At α = 2 the step size is far too large for all of these inputs, and "
        "small differences between layers show more.",
        figure,
    )


PART = Part("shift", "Out of distribution", CLAIMS, run)
