"""Part `beyond`: what the paper leaves open. General (Σ, Λ), other covariates, correlated priors, priors with a mean."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from mesalens import plots
from mesalens.learners import GradientDescent
from mesalens.studies.criterion import Evidence, above, every_seed_below
from mesalens.studies.mahankali_2023.laboratory import Laboratory, TrainedLayers, away, by_setting
from mesalens.studies.study import Claim, Figure, Findings, Part
from mesalens.tasks import (
    Exponential,
    Gaussian,
    GaussianNoise,
    Laplace,
    LinearFunctions,
    RegressionTask,
    Sphere,
    StudentT,
    Uniform,
)
from mesalens.theory import (
    best_descent,
    gradient_descent_transformer,
    layer_risk,
    lower_bound,
    one_step_risk,
    optimal_lsa,
    task_moments,
)

PLACE = "a claim of mesalens; the paper leaves it open"
NOISE = 0.25

CLAIMS = (
    Claim(
        "general-preconditioner",
        "For x ~ N(0, Σ), w ~ N(0, Λ) with any Σ and Λ the best layer preconditions by ΛΣ[(n + 1)ΣΛΣ + (tr ΣΛ + σ²)Σ]⁻¹.",
        PLACE,
        "‖P* - formula‖_F / ‖formula‖_F, P* from exact moments; each seed with a Σ and a Λ of its own",
        every_seed_below(1e-9),
    ),
    Claim(
        "general-certificate",
        "With linear functions without a mean one step of preconditioned descent is the best layer for every Σ and Λ, for correlated weights, and for covariates that are not Gaussian.",
        PLACE,
        "(risk of the best step - certified bound) / bound, for each kind of task; each seed with covariances of its own",
        every_seed_below(1e-9),
    ),
    Claim(
        "general-trained",
        "Layers that are trained on the population loss reach the bound there too, unless they stay where the prediction is near a step of rank one.",
        PLACE,
        "R / bound - 1 after training on the exact risk, for each kind of task",
        every_seed_below(1e-6),
    ),
    Claim(
        "mean-not-descent",
        "Where the prior of the weights has a mean, the best layer is no step of descent from zero: another layer has at least 1% less risk than every such step.",
        PLACE,
        "R_step / R_layer - 1, the best preconditioned step from zero beside the best layer found; each seed with a mean of its own, of length 1 to 2",
        above(0.01),
    ),
    Claim(
        "mean-trained",
        "Layers that are trained on the population loss come to the layer that the search found.",
        PLACE,
        "R / R_layer - 1 after training on the exact risk",
        every_seed_below(1e-6),
    ),
    Claim(
        "mean-one-head",
        "One head does not reach the certified bound there.",
        PLACE,
        "R_layer / bound - 1, the best layer with one head that was found; each seed with a mean of its own",
        above(0.0),
    ),
    Claim(
        "descent-from-mean",
        "With the prior mean as W_0 in the query token, one step of descent from it is the best layer again.",
        PLACE,
        "risk of that constructed layer / certified bound of layers with this W_0, minus 1; each seed with a mean of its own",
        every_seed_below(1e-9),
    ),
)


def run(laboratory: Laboratory) -> Findings:
    """Solves tasks that each seed draws, and trains on those of the first."""
    rng = np.random.default_rng([laboratory.seed, 4])
    formula, gaps, means = [], [], []
    for _ in range(laboratory.seeds):
        drawn = symmetric_tasks(laboratory, rng)
        formula.append(
            away(
                best_descent(task_moments(drawn["general Σ, Λ"]))[0],
                gaussian_preconditioner(drawn["general Σ, Λ"]),
            )
        )
        gaps.append([relative_gap(task) for task in drawn.values()])
        means.append(
            with_mean(laboratory, rng.normal(size=laboratory.budget.dim), rng.uniform(1, 2))
        )
    drawn = symmetric_tasks(laboratory, np.random.default_rng([laboratory.seed, 4]))
    trained = {
        name: laboratory.population(name, drawn[name]) for name in ("general Σ, Λ", "exponential")
    }
    optima = [optimal_lsa(task) for task in means]
    with_first_mean = laboratory.population("a prior with a mean", means[0])
    gap = xr.DataArray(gaps, dims=("seed", "task"), coords={"task": list(drawn)})
    lost = xr.DataArray([best.descent_risk / best.risk - 1 for best in optima], dims="seed")
    one_head = xr.DataArray(
        [best.certificate.gap / best.certificate.lower_bound for best in optima], dims="seed"
    )
    return Findings(
        evidence={
            "general-preconditioner": Evidence(xr.DataArray(formula, dims="seed")),
            "general-certificate": Evidence(gap),
            "general-trained": Evidence(
                by_setting({name: layers.excess() for name, layers in trained.items()}),
                by_setting({name: layers.trained() for name, layers in trained.items()}),
            ),
            "mean-not-descent": Evidence(lost),
            "mean-trained": Evidence(with_first_mean.excess()),
            "mean-one-head": Evidence(one_head),
            "descent-from-mean": Evidence(
                xr.DataArray([from_mean(task) for task in means], dims="seed")
            ),
        },
        figures=[mean_figure(laboratory, means[0], with_first_mean)],
        datasets={
            "beyond": xr.Dataset(
                {"gap": gap, "descent_above_layer": lost, "layer_above_bound": one_head}
            )
        },
        learners={"mean": with_first_mean.training.learners},
        remarks=[
            *(layers.remark(f"the risk itself, {name}") for name, layers in trained.items()),
            "The claims of the part beyond are not the paper's: they are ours about what it leaves open.",
        ],
    )


def prior(task: RegressionTask) -> LinearFunctions:
    """The prior of the weights; all tasks of this part have one."""
    assert isinstance(task.functions, LinearFunctions)
    return task.functions


def symmetric_tasks(laboratory: Laboratory, rng: np.random.Generator) -> dict[str, RegressionTask]:
    """Linear functions without a mean, of every kind, with covariances drawn by the generator."""
    d = laboratory.budget.dim

    def covariance() -> np.ndarray:
        factor = rng.normal(size=(d, 2 * d))
        return factor @ factor.T / (2 * d)

    def task(covariates, covariance_of_weights=None) -> RegressionTask:
        return RegressionTask(
            covariates,
            LinearFunctions(d, covariance=covariance_of_weights),
            context_length=laboratory.budget.context_length,
            noise=GaussianNoise(NOISE),
        )

    correlated = 0.8 ** np.abs(np.subtract.outer(np.arange(d), np.arange(d)))
    return {
        "general Σ, Λ": task(Gaussian(d, covariance=covariance()), covariance()),
        "correlated weights": task(Gaussian(d), correlated),
        "uniform": task(Uniform(d), covariance()),
        "sphere": task(Sphere(d), covariance()),
        "Laplace": task(Laplace(d), covariance()),
        "exponential": task(Exponential(d), covariance()),
        "Student-t, ν=9": task(StudentT(d, degrees_of_freedom=9.0), covariance()),
    }


def gaussian_preconditioner(task: RegressionTask) -> np.ndarray:
    """ΛΣ[(n + 1)ΣΛΣ + (tr ΣΛ + σ²)Σ]⁻¹, for Gaussian covariates."""
    sigma, of_weights, n = (
        task.covariates.second_moment(),
        prior(task).row_covariance(),
        task.context_length,
    )
    spread = np.trace(sigma @ of_weights) + task.noise.variance  # pyright: ignore
    return of_weights @ sigma @ np.linalg.inv((n + 1) * sigma @ of_weights @ sigma + spread * sigma)


def relative_gap(task: RegressionTask) -> float:
    """(risk of the best step of preconditioned descent - bound) / bound."""
    moments = task_moments(task)
    return best_descent(moments)[1] / lower_bound(moments) - 1


def with_mean(laboratory: Laboratory, direction: np.ndarray, length: float) -> RegressionTask:
    """X ~ N(0, I), w ~ N(w̄, I), w̄ of the given direction and length."""
    d = laboratory.budget.dim
    return RegressionTask(
        Gaussian(d),
        LinearFunctions(d, mean=length * direction[None] / np.linalg.norm(direction)),
        context_length=laboratory.budget.context_length,
        noise=GaussianNoise(NOISE),
    )


def from_mean(task: RegressionTask) -> float:
    """Risk of the layer that descends from W_0 = w̄ beside the bound of all layers with this W_0, relative.

    Subtracting W_0 x from labels is a linear map of S, so the bound is that of the task without its mean.
    """
    mean = prior(task).weight_mean()
    centred = RegressionTask(
        task.covariates,
        LinearFunctions(task.dim),
        context_length=task.context_length,
        noise=task.noise,
    )
    with jax.enable_x64(True):
        descent = GradientDescent(
            jnp.asarray(one_step_risk(task, mean).best_step_size, jnp.float64),
            initial_weights=jnp.asarray(mean),
        )
        layer = gradient_descent_transformer(
            descent, dim=task.dim, context_length=task.context_length
        )
    return layer_risk(layer, task_moments(task)) / lower_bound(task_moments(centred)) - 1


def mean_figure(laboratory: Laboratory, task: RegressionTask, layers: TrainedLayers) -> Figure:
    """Risks and bound against the length of the prior mean."""
    direction = prior(task).weight_mean()[0]
    lengths = np.linspace(0, 3, 13)
    tasks = [with_mean(laboratory, direction, length) for length in lengths]
    optima = [optimal_lsa(each) for each in tasks]
    figure, axes = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
    axes.plot(
        lengths,
        [best.null_risk for best in optima],
        color=plots.NEUTRAL,
        linestyle=":",
        label="predicting 0",
    )
    axes.plot(
        lengths,
        [best.descent_risk for best in optima],
        color=plots.REFERENCE,
        linestyle="--",
        label="best preconditioned step from 0",
    )
    axes.plot(
        lengths,
        [best.risk for best in optima],
        color=plots.TRAINED,
        label="best layer with one head",
    )
    axes.plot(
        lengths,
        [best.certificate.lower_bound for best in optima],
        color="black",
        linewidth=1,
        label="certified bound, any number of heads",
    )
    from_prior = [one_step_risk(each, prior(each).weight_mean()).best_risk for each in tasks]
    axes.plot(
        lengths,
        from_prior,
        color=plots.INTERPOLATED,
        linestyle="-.",
        label="one step from the prior mean",
    )
    here = np.full(laboratory.seeds, np.linalg.norm(prior(task).weight_mean()))
    axes.plot(here, layers.risks(), "o", color=plots.TRAINED, markersize=5, label="trained layers")
    axes.set(
        xlabel="length of the prior mean of w",
        ylabel="risk  E(ŷ − y)²",
        ylim=(0, 2.4 * optima[0].null_risk),
    )
    axes.legend(loc="upper left", fontsize=8)
    return Figure(
        "mean",
        "Risk against the length of the prior mean of the weights. At 0 the best layer is one step of gradient descent and lies on the "
        "certified bound. With a mean the best layer with one head (line; dots: layers trained on the exact risk) is better than every preconditioned step from zero "
        "(dashed), and above the bound, which more heads can reach. A layer whose query token starts at the prior mean (dash-dotted) does not feel it.",
        figure,
    )


PART = Part("beyond", "Beyond the paper", CLAIMS, run)
