"""Part `isotropic`: x ~ N(0, I), w ~ N(0, I) (Theorem 1)."""

from typing import Any

import jax
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from mesalens import plots, theory
from mesalens.atlas import below, every_seed_below, figures, over, settings_of, within
from mesalens.studies.mahankali_2023 import study

part = study.STUDY.part("isotropic", "Theorem 1: isotropic Gaussian inputs")
PLACE = "Section 3, Theorem 1"
MINIMUM = f"{PLACE}: the global minimum of the population loss"
TOO_LONG = {"factor": 1.2}


def sizes(s) -> dict[str, tuple[int, int, float]]:
    """d, n and σ² of the main size, and of those that differ from it in one, by their labels."""
    lengths, dims, noises = s.varied
    every = [(s.dim, n, 0.0) for n in (s.context_length, *lengths)]
    every += [(d, s.context_length, 0.0) for d in dims]
    every += [(s.dim, s.context_length, noise) for noise in noises]
    return {f"d={d}, n={n}, σ²={noise:g}": (d, n, noise) for d, n, noise in every}


@part.experiment
def isotropic_population(s, start=0, key_size=None):
    """Layers trained on the risk itself, at every size."""
    options = {"objective": "population", "start": start, "key_size": key_size}
    tasks = {label: study.linear_task(*size) for label, size in sizes(s).items()}
    return {label: study.trained_layer(s, task, **options) for label, task in tasks.items()}


@part.experiment
def isotropic_sampled(s, start=0, longer=1):
    """Layers trained on prompts of the main size, or of `longer` times its length."""
    task = study.linear_task(s.dim, longer * s.context_length, 0.0)
    return study.trained_layer(s, task, "sampled", start=start)


NARROW = {"trained": isotropic_population.given(key_size=1)}
POPULATION_AGAIN = isotropic_population.given(start=1)
SAMPLED_AGAIN = isotropic_sampled.given(start=1)


@part.claim(PLACE, within(0.01), headline=True, must_fail_on=TOO_LONG)
def step_size(lab, factor=1.0):
    """The best step size is 1/(n + d + 1 + σ²): it is E[ŵᵀXᵀy] / E[yᵀXXᵀy], ŵ the ridge regression
    that Bayes would use.

    Measured: simulated E[ŵᵀXᵀy] / E[yᵀXXᵀy], times n + d + 1 + σ², minus 1, for each size.
    """
    every = sizes(lab.settings)

    def ratio(label: str) -> float:
        simulated = theory.simulated_step_size(*every[label], lab.rng(label), lab.settings.prompts)
        return simulated / (factor * theory.isotropic_step_size(*every[label]))

    return settings_of(ratio, every, "size") - 1


@part.claim(PLACE, every_seed_below(1e-9), headline=True, must_fail_on=TOO_LONG)
def certificate(lab, factor=1.0):
    """No layer of linear self-attention has less risk than one step of gradient descent from zero
    with that step size.

    Measured: (risk of the step - certified bound) / bound, from exact moments; each seed with a d,
    an n and a σ² of its own.
    """
    rng = lab.rng()
    size = int(rng.integers(1, 16)), int(rng.integers(1, 40)), rng.exponential()
    step = factor * theory.isotropic_step_size(*size) * np.eye(size[0])
    return study.step_gap(step, study.linear_task(*size))


@part.claim(MINIMUM, every_seed_below(1e-6), headline=True, every_seed=True, must_fail_on=NARROW)
def trained_on_risk(lab, trained=isotropic_population):
    """Layers that are trained on the population loss reach the bound, from every initialisation.

    Measured: R / bound - 1 after training on the exact risk, for each size.
    """
    return over(trained, lambda r: {"R": float(r.last.risk) / study.bound(r.task)}, "size").R - 1


@part.claim(f"{MINIMUM}, seen through samples", within(0.01), must_fail_on={"longer": 2})
def trained_on_prompts(lab, trained=isotropic_sampled, longer=1):
    """Layers that are trained on prompts come to the bound.

    Measured: R / bound - 1, R exact.
    """
    return study.layer_gap(trained, longer)


def difference(run, other) -> float:
    """(E(ŷ - ŷ')² / E ŷ²)^½ between two trained layers, exactly."""
    layer, other = (jax.tree.map(lambda leaf: leaf[None], r.learner) for r in (run, other))
    (ratio,) = theory.distances(layer, other, study.moments_of(run.task))
    return float(np.sqrt(max(ratio, 0)))


@part.claim(PLACE, every_seed_below(1e-3), headline=True, every_seed=True, must_fail_on=NARROW)
def one_function(lab, trained=isotropic_population, other=POPULATION_AGAIN):
    """All global minimisers compute the same function.

    Measured: (E(ŷ - ŷ')² / E ŷ²)^½, exactly, for layers trained on the risk from two
    initialisations, for each size.
    """
    return settings_of(lambda size: difference(trained[size], other[size]), trained, "size")


# The limit is that of von-oswald-2023: the length that goes with 1% of the risk
@part.claim(PLACE, below(0.1), must_fail_on={"other": SAMPLED_AGAIN.given(longer=3)})
def one_function_prompts(lab, trained=isotropic_sampled, other=SAMPLED_AGAIN):
    """Layers that are trained on prompts come to one function too.

    Measured: as for one-function, for layers trained on prompts that left the plateau.
    """
    return difference(trained, other)


@part.figure(shows=[certificate, trained_on_risk])
def risk(lab, trained=isotropic_population):
    """The certified bound (dashed), which is the exact risk of one step of gradient descent with
    step size 1/(n + d + 1 + σ²), against dimension, context length and noise around {main}; the
    risk of predicting 0 (dotted); and that of layers trained on the exact risk (a dot a seed).
    """
    every = sizes(lab.settings)
    label, main = next(iter(every.items()))
    (d, n, noise), (dims, _, noises) = main, zip(*every.values(), strict=True)
    lengths = np.unique(np.geomspace(1, 100, 25).astype(int)).tolist()
    varied: dict[str, Any] = {
        "dimension d": [(x, n, noise) for x in range(1, max(dims) + 1)],
        "context length n": [(d, x, noise) for x in lengths],
        "noise variance σ²": [(d, n, x) for x in np.linspace(0, max(1, *noises), 15).tolist()],
    }
    figure = Figure((figures.WIDE, 3.2), layout="constrained")
    panels = figure.subplots(1, 3)
    for place, (xlabel, along) in enumerate(varied.items()):
        values = [size[place] for size in along]
        bounds = [study.bound(study.linear_task(*size)) for size in along]
        nulls = [size[0] + size[2] for size in along]
        lines = {"certified bound = one GD step": (values, bounds), "predicting 0": (values, nulls)}
        rest = np.delete(main, place)
        shown = {k: z[place] for k, z in every.items() if all(np.delete(z, place) == rest)}
        ends = [trained[name].metrics.risk.isel(step=-1, drop=True) for name in shown]
        points: Any = xr.concat(ends, xr.DataArray([*shown.values()], dims="x", name="x"))
        figures.risk_against(xlabel, lines, {"trained layers": points}, axes=panels[place])
    panels[1].set_xscale("log")
    return figure, {"main": label}


@part.figure(shows=[trained_on_risk, trained_on_prompts])
def training(lab, trained=isotropic_population, sampled=isotropic_sampled):
    """How far the risk is above the certified bound, relative to it, in training on the exact risk
    (lines; values below 1e-16, where float64 ends, are drawn there), and after training on prompts
    from the same weights (dots). What is left there is the noise of stochastic gradients.
    """
    runs, bound = next(iter(trained.values())), study.bound(sampled[0].task)
    axes = Figure((figures.NARROW, 3.4), layout="constrained").subplots()
    label = "trained on the risk itself, one line per seed"
    for gap in np.maximum(runs.metrics.risk / bound - 1, 1e-16):
        axes.plot(gap.step, gap, color=plots.TRAINED, alpha=0.7, linewidth=1, label=label)
    label, last = "after training on prompts, one dot per seed", runs.metrics.step.values[-1]
    ends = [max(study.layer_gap(run), 1e-16) for run in sampled]
    axes.plot([last] * len(ends), ends, "o", color=plots.INTERPOLATED, label=label)
    axes.set(yscale="log", xlabel="step of population training", ylabel="R / bound − 1")
    return figures.legend_below(axes)
