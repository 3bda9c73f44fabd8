"""Part `isotropic`: x ~ N(0, I), w ~ N(0, I) (Theorem 1)."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from jaxtyping import Array, Key

from mesalens import plots
from mesalens.studies.criterion import Evidence, below, every_seed_below, within
from mesalens.studies.mahankali_2023.laboratory import Laboratory, TrainedLayers, by_setting
from mesalens.studies.study import Claim, Figure, Findings, Part
from mesalens.tasks import RegressionTask
from mesalens.theory import best_descent, lower_bound, task_moments

PLACE = "Section 3, Theorem 1"

CLAIMS = (
    Claim(
        "step-size",
        "The best step size is 1/(n + d + 1 + σ²): it is E[ŵᵀXᵀy] / E[yᵀXXᵀy], ŵ the ridge regression that Bayes would use.",
        PLACE,
        "simulated E[ŵᵀXᵀy] / E[yᵀXXᵀy], times n + d + 1 + σ², minus 1, for each size",
        within(0.01),
    ),
    Claim(
        "certificate",
        "No layer of linear self-attention has less risk than one step of gradient descent from zero with that step size.",
        PLACE,
        "(risk of the step - certified bound) / bound, from exact moments; each seed with a d, an n and a σ² of its own",
        every_seed_below(1e-9),
    ),
    Claim(
        "trained-on-risk",
        "Layers that are trained on the population loss reach the bound, from every initialisation.",
        f"{PLACE}: the global minimum of the population loss",
        "R / bound - 1 after training on the exact risk, for each size",
        every_seed_below(1e-6),
    ),
    Claim(
        "trained-on-prompts",
        "Layers that are trained on prompts come to the bound.",
        f"{PLACE}: the global minimum of the population loss, seen through samples",
        "R / bound - 1, with the exact risk R of each trained layer",
        within(0.01),
    ),
    Claim(
        "one-function",
        "All global minimisers compute the same function.",
        PLACE,
        "(E(ŷ - ŷ')² / E ŷ²)^½ for layers trained on the risk from two initialisations, exactly, for each size",
        every_seed_below(1e-3),
    ),
    Claim(
        "one-function-prompts",
        "Layers that are trained on prompts come to one function too.",
        PLACE,
        "(E(ŷ - ŷ')² / E ŷ²)^½ for layers trained on prompts from two initialisations, exactly, where both left the plateau",
        below(0.1),  # as in von-oswald-2023: the length that goes with 1% of the risk
    ),
)


class Size(NamedTuple):
    """One size of the isotropic task."""

    dim: int
    context_length: int
    noise_variance: float

    def __str__(self):
        return f"d={self.dim}, n={self.context_length}, σ²={self.noise_variance:g}"


def sizes(laboratory: Laboratory) -> list[Size]:
    """The main size, and those that change one number of it."""
    main = Size(laboratory.budget.dim, laboratory.budget.context_length, 0.0)
    return [
        main,
        *(main._replace(context_length=n) for n in laboratory.budget.lengths),
        *(main._replace(dim=d) for d in laboratory.budget.dims),
        *(main._replace(noise_variance=s) for s in laboratory.budget.noises),
    ]


def run(laboratory: Laboratory) -> Findings:
    """Solves, simulates and trains at every size."""
    tasks = {size: laboratory.isotropic(*size) for size in sizes(laboratory)}
    layers = {size: laboratory.population(str(size), task) for size, task in tasks.items()}
    sampled = laboratory.sampled("isotropic", laboratory.isotropic())
    claimed = {
        str(size): papers_step_size(task, laboratory, index) / laboratory.step_size(*size) - 1
        for index, (size, task) in enumerate(tasks.items())
    }
    excess = by_setting({str(size): of.excess() for size, of in layers.items()}, "size")
    difference = by_setting({str(size): of.difference() for size, of in layers.items()}, "size")
    return Findings(
        evidence={
            "step-size": Evidence(by_setting(claimed, "size")),
            "certificate": Evidence(certificates(laboratory)),
            "trained-on-risk": Evidence(excess),
            "trained-on-prompts": Evidence(sampled.excess(), sampled.trained()),
            "one-function": Evidence(difference),
            "one-function-prompts": Evidence(
                sampled.difference(), sampled.trained() & sampled.trained().roll(seed=-1)
            ),
        },
        figures=[
            risk_figure(laboratory, layers),
            training_figure(layers[next(iter(layers))], sampled),
        ],
        datasets={
            "isotropic": xr.Dataset(
                {
                    "excess": excess,
                    "difference": difference,
                    "step_size": by_setting(claimed, "size"),
                }
            ),
            "isotropic-training": layers[next(iter(layers))].training.metrics,
        },
        learners={"isotropic": layers[next(iter(layers))].training.learners},
        remarks=[sampled.remark("prompts of the isotropic task")],
    )


def papers_step_size(task: RegressionTask, laboratory: Laboratory, place: int) -> xr.DataArray:
    """E[ŵᵀXᵀy] / E[yᵀXXᵀy] by simulation, for each seed."""
    n = task.context_length
    # Examples are independent: all lengths share the draw, and all variances the program, of one task; compiling takes longest
    longest = max((n, laboratory.budget.context_length, *laboratory.budget.lengths))
    drawn = laboratory.isotropic(task.dim, longest)
    drawn = eqx.tree_at(lambda t: t.noise.variance, drawn, jnp.asarray(task.noise.variance, float))  # pyright: ignore
    ratios = []
    for key in jax.random.split(laboratory.key(2, place), laboratory.seeds):
        prompts, _ = _draw(drawn, key, 2 * laboratory.budget.prompts)
        xs, ys = (
            np.asarray(prompts.xs[:, :n], np.float64),
            np.asarray(prompts.ys[:, :n], np.float64),
        )
        s = xs.swapaxes(1, 2) @ ys
        # Without noise ŵ is the limit of ridge regression; in float64 a penalty of 1e-9 is within 1e-6 of it
        gram = xs.swapaxes(1, 2) @ xs + max(float(task.noise.variance), 1e-9) * np.eye(task.dim)  # pyright: ignore
        ratios.append(np.sum(np.linalg.solve(gram, s) * s) / np.sum(s**2))
    return xr.DataArray(ratios, dims="seed")


@eqx.filter_jit
def _draw(task: RegressionTask, key: Key[Array, ""], prompts: int):
    return task.sample(key, (prompts,))


def certificates(laboratory: Laboratory) -> xr.DataArray:
    """The gap of the step with the claimed size, relative to the bound, at random sizes."""
    rng = np.random.default_rng(laboratory.seed)
    gaps = []
    for _ in range(laboratory.seeds):
        size = Size(int(rng.integers(1, 16)), int(rng.integers(1, 40)), float(rng.exponential()))
        moments = task_moments(laboratory.isotropic(*size))
        P, least = best_descent(moments)
        step = laboratory.step_size(*size)
        curvature = (moments.null_risk - least) / P[
            0, 0
        ] ** 2  # the risk of step sizes is a parabola, least at P
        risk = least + curvature * (step - P[0, 0]) ** 2
        gaps.append((risk - lower_bound(moments)) / lower_bound(moments))
    return xr.DataArray(gaps, dims="seed")


def risk_figure(laboratory: Laboratory, layers: dict[Size, TrainedLayers]) -> Figure:
    """Risk against n, d and σ²: theory as lines, trained layers as points."""
    main = next(iter(layers))
    figure, panels = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
    axes_of = {
        "context_length": ("context length n", np.unique(np.geomspace(1, 100, 25).astype(int))),
        "dim": ("dimension d", np.arange(1, max((main.dim, *laboratory.budget.dims)) + 1)),
        "noise_variance": (
            "noise variance σ²",
            np.linspace(0, max((1.0, *laboratory.budget.noises)), 15),
        ),
    }
    for axes, (name, (label, values)) in zip(panels, axes_of.items(), strict=True):
        here = [main._replace(**{name: value.item()}) for value in values]
        bound = [lower_bound(task_moments(laboratory.isotropic(*size))) for size in here]
        null = [size.dim + size.noise_variance for size in here]
        axes.plot(values, null, color=plots.NEUTRAL, linestyle=":", label="predicting 0")
        axes.plot(values, bound, color=plots.REFERENCE, label="bound = one GD step")
        points = [
            (getattr(size, name), risk)
            for size, of in layers.items()
            for risk in of.risks()
            if size._replace(**{name: None}) == main._replace(**{name: None})
        ]
        axes.plot(
            *np.transpose(points),
            "o",
            color=plots.TRAINED,
            markersize=5,
            alpha=0.6,
            label="trained layers",
        )
        axes.set(xlabel=label, ylim=(0, None))
    panels[0].set(xscale="log", ylabel="risk  E(ŷ − y)²")
    panels[1].legend(loc="upper left")
    return Figure(
        "risk",
        f"The least risk of one layer (line: certified bound, which is the exact risk of one step of gradient descent with step size 1/(n + d + 1 + σ²)) "
        f"against context length, dimension and noise, one at a time around {main}; the risk of predicting 0 (dotted); and the exact risk of "
        f"layers trained on the population loss (dots, {laboratory.seeds} seeds at each place, which lie on each other).",
        figure,
    )


def training_figure(population: TrainedLayers, sampled: TrainedLayers) -> Figure:
    """Relative gap over training on the risk itself, and where training on prompts ends."""
    figure, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
    gaps = population.training.metrics.risk / population.optimum.risk - 1
    for seed in gaps.seed.values:
        axes.plot(
            gaps.step,
            np.maximum(gaps.sel(seed=seed), 1e-16),
            color=plots.TRAINED,
            alpha=0.7,
            linewidth=1,
            label="trained on the risk itself, one line a seed" if seed == 0 else None,
        )
    ends = np.maximum(sampled.excess(), 1e-16)
    axes.plot(
        np.full(len(ends), gaps.step[-1]),
        ends,
        "o",
        color=plots.INTERPOLATED,
        label="after training on prompts, one dot a seed",
    )
    axes.set(
        yscale="log",
        xlabel="step of population training",
        ylabel="R / bound − 1",
        ylim=(3e-17, 1e3),
    )
    axes.legend(loc="upper right")
    return Figure(
        "training",
        "How far the risk is above the certified bound, relative to it, while layers are trained on the exact risk (lines; values below "
        "1e-16 are drawn there, where float64 ends), and where the same initial weights end when they are trained on prompts (dots at the right). What "
        "is left there is the noise of stochastic gradients.",
        figure,
    )


PART = Part("isotropic", "Theorem 1: isotropic Gaussian inputs", CLAIMS, run)
