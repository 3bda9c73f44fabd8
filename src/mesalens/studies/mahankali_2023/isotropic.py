"""Part `isotropic`: x ~ N(0, I), w ~ N(0, I) (Theorem 1)."""

import jax
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from mesalens import plots, theory
from mesalens.atlas import below, every_seed_below, figures, settings_of, within
from mesalens.studies.mahankali_2023 import study

part = study.STUDY.part("isotropic", "Theorem 1: isotropic Gaussian inputs")
PLACE = "Section 3, Theorem 1"
LEAST = f"{PLACE}: the global minimum of the population loss"
TOO_LONG = {"factor": 1.2}


def sizes(s):
    """d, n and σ² of the main size, and of sizes that differ in one of them, by label."""
    lengths, dims, noises = s.varied
    every = [(s.dim, n, 0.0) for n in (s.context_length, *lengths)]
    every += [(d, s.context_length, 0.0) for d in dims]
    every += [(s.dim, s.context_length, noise) for noise in noises]
    return {f"d={d}, n={n}, σ²={noise:g}": (d, n, noise) for d, n, noise in every}


@part.experiment
def isotropic_population(s, start=0):
    """Layers trained on the exact risk, for every size."""
    tasks = {label: study.linear_task(*size) for label, size in sizes(s).items()}
    return {name: study.trained_layer(s, task, "population", start) for name, task in tasks.items()}


@part.experiment
def isotropic_sampled(s, start=0):
    """Layers trained on prompts of the main size."""
    task = study.linear_task(s.dim, s.context_length, 0.0)
    return study.trained_layer(s, task, "sampled", start)


POPULATION_AGAIN = isotropic_population.given(start=1)
SAMPLED_AGAIN = isotropic_sampled.given(start=1)


@part.claim(PLACE, within(0.01), headline=True, must_fail_on=TOO_LONG)
def step_size(lab, factor=1.0):
    """The best step size is 1/(n + d + 1 + σ²): it is E[ŵᵀXᵀy] / E[yᵀXXᵀy], where ŵ are the weights
    of the Bayes predictor, a ridge regression.

    Measured: simulated E[ŵᵀXᵀy] / E[yᵀXXᵀy], times n + d + 1 + σ², minus 1, for each size.
    """
    every = sizes(lab.settings)

    def ratio(label):
        simulated = theory.simulated_step_size(*every[label], lab.rng(label), lab.settings.prompts)
        return simulated / (factor * theory.isotropic_step_size(*every[label]))

    return settings_of(ratio, every, "size") - 1


@part.claim(PLACE, every_seed_below(1e-9), headline=True, must_fail_on=TOO_LONG)
def certificate(lab, factor=1.0):
    """No layer of linear self-attention has less risk than one step of gradient descent from zero
    with that step size.

    Measured: (risk of the step - certified bound) / bound, exact; each seed draws d, n and σ².
    """
    rng = lab.rng()
    size = int(rng.integers(1, 16)), int(rng.integers(1, 40)), rng.exponential()
    step = factor * theory.isotropic_step_size(*size) / size[1] * np.eye(size[0])
    return study.step_gap(step, study.linear_task(*size))


@part.claim(
    LEAST, every_seed_below(1e-6), headline=True, count_all_seeds=True, must_fail_on="untrained"
)
def trained_on_risk(lab, trained=isotropic_population):
    """Layers trained on the population loss reach the bound, from every initialisation.

    Measured: R / bound - 1 after training on the exact risk, for each size.
    """
    return settings_of(lambda size: study.gap(trained[size]), trained, "size")


@part.claim(f"{LEAST}, seen through samples", within(0.01), must_fail_on={"longer": 2})
def trained_on_prompts(lab, trained=isotropic_sampled, longer=1):
    """Layers trained on prompts reach the bound.

    Measured: R / bound - 1, with the exact R.
    """
    return study.gap(trained, longer)


def difference(run, other):
    """(E(ŷ - ŷ')² / E ŷ²)^½ between two trained layers, exactly."""
    layer, other = (jax.tree.map(lambda leaf: leaf[None], r.learner) for r in (run, other))
    (ratio,) = theory.distances(layer, other, study.moments_of(run.task))
    return np.sqrt(max(ratio, 0))


@part.claim(
    PLACE, every_seed_below(1e-3), headline=True, count_all_seeds=True, must_fail_on="untrained"
)
def one_function(lab, trained=isotropic_population, other=POPULATION_AGAIN):
    """All global minimisers compute the same function.

    Measured: (E(ŷ - ŷ')² / E ŷ²)^½, exact, for layers from two initialisations, for each size.
    """
    return settings_of(lambda size: difference(trained[size], other[size]), trained, "size")


# The limit is that of von-oswald-2023: the length that goes with 1% of the risk
@part.claim(PLACE, below(0.1), must_fail_on={"other": SAMPLED_AGAIN.untrained})
def one_function_prompts(lab, trained=isotropic_sampled, other=SAMPLED_AGAIN):
    """Layers trained on prompts compute the same function too.

    Measured: as for one-function, for layers trained on prompts that left the plateau.
    """
    return difference(trained, other)


@part.figure(shows=[certificate, trained_on_risk])
def risk(lab, trained=isotropic_population):
    """Risk against dimension, context length and noise around {main}: the certified bound, which is
    the exact risk of one step of gradient descent with step size 1/(n + d + 1 + σ²) (dashed);
    predicting 0 (dotted); and layers trained on the exact risk (a dot per seed).
    """
    every = sizes(lab.settings)
    label, main = next(iter(every.items()))
    (d, n, noise), largest = main, max(size[0] for size in every.values())
    lengths = np.unique(np.geomspace(1, 100, 25).astype(int)).tolist()
    varied = {
        "dimension d": [(x, n, noise) for x in range(1, largest + 1)],
        "context length n": [(d, x, noise) for x in lengths],
        "noise variance σ²": [(d, n, x) for x in np.linspace(0, 2, 15).tolist()],
    }
    figure = Figure((figures.WIDE, 3.2), layout="constrained")
    panels = figure.subplots(1, 3)
    for place, (xlabel, along) in enumerate(varied.items()):
        values = [size[place] for size in along]
        bounds = [study.bound(study.linear_task(*size)) for size in along]
        nulls = [d + noise for d, _, noise in along]
        lines = {"certified bound = one GD step": (values, bounds), "predicting 0": (values, nulls)}
        rest = np.delete(main, place)
        shown = {k: z[place] for k, z in every.items() if all(np.delete(z, place) == rest)}
        ends = [trained[name].metrics.risk.isel(step=-1).values for name in shown]
        points = xr.DataArray(ends, {"x": [*shown.values()]}, ("x", "seed"))
        figures.risk_against(xlabel, lines, {"trained layers": points}, axes=panels[place])
    panels[1].set_xscale("log")
    return figure, {"main": label}


@part.figure(shows=[trained_on_risk, trained_on_prompts])
def training(lab, trained=isotropic_population, sampled=isotropic_sampled):
    """Relative excess of the risk over the certified bound: during training on the exact risk (a
    line per seed; values below 1e-16, the precision of float64, are drawn there), and after
    training on prompts from the same weights (a dot per seed), where the noise of stochastic
    gradients remains.
    """
    risks = next(iter(trained.values())).metrics.risk
    gaps = np.maximum(risks / study.bound(sampled[0].task) - 1, 1e-16)
    axes = Figure((figures.NARROW, 3.4), layout="constrained").subplots()
    look = {"color": plots.INTERPOLATED, "alpha": 0.7, "linewidth": 1}
    axes.plot(gaps.step, gaps.T, label="training on the risk itself", **look)
    ends = [[max(study.gap(run), 1e-16)] for run in sampled]
    ends = xr.DataArray(ends, {"step": gaps.step[-1:]}, ("seed", "step"))
    words = {"xlabel": "step of population training", "ylabel": "R / bound − 1", "yscale": "log"}
    return figures.risk_against(**words, lines={}, points={"on prompts": ends}, axes=axes)
