"""Part `covariance`: x ~ N(0, Σ), w ~ N(0, Σ⁻¹) (Theorem 2)."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from mesalens import plots
from mesalens.studies.criterion import Evidence, every_seed_below, within
from mesalens.studies.mahankali_2023.laboratory import Laboratory, TrainedLayers, away
from mesalens.studies.study import Claim, Figure, Findings, Part
from mesalens.tasks import Gaussian, GaussianNoise, LinearFunctions, RegressionTask
from mesalens.theory import best_descent, lower_bound, task_moments

PLACE = "Section 4, Theorem 2"
NOISE = 0.25

CLAIMS = (
    Claim(
        "preconditioner",
        "The best layer is one step of gradient descent preconditioned by Σ⁻¹, with step size 1/(n + d + 1 + σ²).",
        PLACE,
        "‖P* - Σ⁻¹ η‖_F / ‖Σ⁻¹ η‖_F, P* from exact moments; each seed with a Σ of its own",
        every_seed_below(1e-9),
    ),
    Claim(
        "preconditioned-certificate",
        "No layer of linear self-attention has less risk than that step.",
        PLACE,
        "(least risk of a preconditioned step - certified bound) / bound, for the same Σ",
        every_seed_below(1e-9),
    ),
    Claim(
        "learned-preconditioner",
        "Layers that are trained on the population loss precondition by Σ⁻¹.",
        PLACE,
        "‖P - Σ⁻¹ η‖_F / ‖Σ⁻¹ η‖_F, P read off the trained weights",
        every_seed_below(0.01),
    ),
    Claim(
        "preconditioned-prompts",
        "Layers that are trained on prompts come to the bound.",
        PLACE,
        "R / bound - 1, with the exact risk R of each trained layer",
        within(0.01),
    ),
)


def run(laboratory: Laboratory) -> Findings:
    """Solves the task for one Σ a seed, and trains on that of the study."""
    d, n = laboratory.budget.dim, laboratory.budget.context_length
    rng = np.random.default_rng([laboratory.seed, 2])
    distances, gaps = [], []
    for _ in range(laboratory.seeds):
        factor = rng.normal(size=(d, 2 * d))
        sigma = factor @ factor.T / (2 * d)
        moments = task_moments(skewed(sigma, n))
        P, risk = best_descent(moments)
        distances.append(away(P, reference(laboratory, sigma)))
        gaps.append(risk / lower_bound(moments) - 1)
    sigma = laboratory.covariance()
    exact = reference(laboratory, sigma)
    population = laboratory.population("x ~ N(0, Σ), w ~ N(0, Σ⁻¹)", skewed(sigma, n))
    sampled = laboratory.sampled("x ~ N(0, Σ), w ~ N(0, Σ⁻¹)", skewed(sigma, n))
    learned = population.preconditioners()
    return Findings(
        evidence={
            "preconditioner": Evidence(xr.DataArray(distances, dims="seed")),
            "preconditioned-certificate": Evidence(xr.DataArray(gaps, dims="seed")),
            "learned-preconditioner": Evidence(
                xr.DataArray(away(learned, exact), dims="seed"), population.trained()
            ),
            "preconditioned-prompts": Evidence(sampled.excess(), sampled.trained()),
        },
        figures=[
            preconditioner_figure(population, sampled, exact),
            spectrum_figure(population, sampled, exact),
        ],
        datasets={
            "covariance": xr.Dataset(
                {
                    "learned": (("seed", "row", "column"), learned),
                    "learned_from_prompts": (("seed", "row", "column"), sampled.preconditioners()),
                    "claimed": (("row", "column"), exact),
                }
            )
        },
        remarks=[
            population.remark("the risk itself, with the covariance of the study"),
            sampled.remark("prompts, with the covariance of the study"),
        ],
        learners={
            "covariance": population.training.learners,
            "covariance-prompts": sampled.training.learners,
        },
    )


def skewed(sigma: np.ndarray, context_length: int) -> RegressionTask:
    """X ~ N(0, Σ), w ~ N(0, Σ⁻¹), noise 1/4."""
    inverse = np.linalg.inv(sigma)
    return RegressionTask(
        Gaussian(len(sigma), covariance=sigma),
        LinearFunctions(len(sigma), covariance=(inverse + inverse.T) / 2),
        context_length=context_length,
        noise=GaussianNoise(NOISE),
    )


def reference(laboratory: Laboratory, sigma: np.ndarray) -> np.ndarray:
    """The preconditioner of the theorem, Σ⁻¹/(n + d + 1 + σ²)."""
    step = laboratory.step_size(len(sigma), laboratory.budget.context_length, NOISE)
    return step * np.linalg.inv(laboratory.believed(sigma))


def preconditioner_figure(
    population: TrainedLayers, sampled: TrainedLayers, exact: np.ndarray
) -> Figure:
    """The learned preconditioners beside the claimed one."""
    figure, panels = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
    matrices = {
        "trained on the risk": population.preconditioners()[
            int(np.argmax(population.trained().values))
        ],
        "trained on prompts": sampled.preconditioners()[int(np.argmax(sampled.trained().values))],
        "Σ⁻¹ / (n + d + 1 + σ²)": exact,
    }
    limit = float(np.abs(exact).max())
    images = [
        plots.heat_map(axes, matrix, limit=limit)
        for axes, matrix in zip(panels, matrices.values(), strict=True)
    ]
    for axes, title in zip(panels, matrices, strict=True):
        axes.set_title(title)
    figure.colorbar(images[0], ax=panels, shrink=0.85)
    return Figure(
        "preconditioner",
        "The preconditioner P of the prediction x_queryᵀ P Σ yᵢxᵢ, read off the weights of a layer trained on the exact risk (left) and of one trained on "
        "prompts (middle), beside that of the theorem (right), in the same colours.",
        figure,
    )


def spectrum_figure(population: TrainedLayers, sampled: TrainedLayers, exact: np.ndarray) -> Figure:
    """Eigenvalues of the same."""
    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    places = np.arange(1, len(exact) + 1)
    axes.plot(
        places,
        np.linalg.eigvalsh(exact)[::-1],
        "_",
        color=plots.REFERENCE,
        markersize=26,
        markeredgewidth=2.5,
        label="Σ⁻¹ / (n + d + 1 + σ²)",
    )
    for layers, offset, color, label in (
        (population, -0.1, plots.TRAINED, "trained on the risk"),
        (sampled, 0.1, plots.INTERPOLATED, "trained on prompts"),
    ):
        for seed, P in enumerate(layers.preconditioners()):
            if layers.trained()[seed]:
                eigenvalues = np.linalg.eigvalsh((P + P.T) / 2)[::-1]
                axes.plot(
                    places + offset,
                    eigenvalues,
                    "o",
                    color=color,
                    markersize=5,
                    alpha=0.7,
                    label=label,
                )
                label = None
    axes.set(
        xlabel="number of the eigenvalue", ylabel="eigenvalue of P", xticks=places, ylim=(0, None)
    )
    axes.legend(loc="upper right")
    return Figure(
        "spectrum",
        "Eigenvalues of the preconditioner of the theorem (bars) and of the symmetric part of those that layers learned (one dot a seed): "
        "large where inputs vary little.",
        figure,
    )


PART = Part("covariance", "Theorem 2: inputs with a covariance", CLAIMS, run)
