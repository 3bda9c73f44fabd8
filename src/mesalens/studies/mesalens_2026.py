"""Claims of mesalens: what one layer can know of a finite pool, or of a mixture of tasks."""

import dataclasses
from typing import Any

import numpy as np
import xarray as xr

from mesalens import atlas, tasks, theory
from mesalens.atlas import above, below, figures, within

STUDY = atlas.Study(
    "mesalens-2026",
    title="What one layer of linear self-attention can know of a pool or a mixture of tasks",
    citation="Claims of mesalens, not of a paper",
    system="x ~ N(0, Σ), w from a pool of M vectors or from a mixture of Gaussians, noise σ²; one "
    "layer of linear self-attention with one head, or any number of them.",
    note="Moments of pools and mixtures are means of joint moments: optimum, certificate and risk "
    "are exact. A seed draws its pools, means and covariances.",
    settings={"seeds": (12, 24, 48), "dim": 4, "length": 20, "noise": 0.1, "steps": 2000}
    | {"pools": (256, 1024, 4096, 16_384), "distances": (0.5, 1.0, 2.0, 4.0)},
    quick={"pools": (256, 4096), "distances": (0.5, 2.0)},
    full={},
    paper={"dim": 10, "pools": (64, 1024, 16_384)},
    small={"dim": 2, "length": 10, "pools": (32, 512), "distances": (1.0,), "steps": 1500},
)
PLACE = "a claim of mesalens"
moments_of = atlas.remembered(theory.task_moments)
optimum = atlas.remembered(theory.optimal_lsa)


def law(s, functions, covariates=None):
    """Prompts with these functions, and x ~ N(0, I) or others."""
    covariates, noise = covariates or tasks.Gaussian(s.dim), tasks.GaussianNoise(s.noise)
    return tasks.RegressionTask(covariates, functions, context_length=s.length, noise=noise)


@STUDY.measurement
def pools(lab, forgets=False):
    """For each size of a pool its best layer: the gap to the bound, and the excess on new tasks."""
    s, found = lab.settings, []
    every = moments_of(law(s, tasks.LinearFunctions(s.dim)))
    for size in s.pools:
        seed = int(lab.rng(f"pool of {size}").integers(2**32))
        best = optimum(law(s, tasks.FinitePool(s.dim, size=size, pool_seed=seed)))
        pays = theory.layer_risk(best.layer(), every) / theory.best_descent(every)[1] - 1
        gap, bound = best.certificate.gap, best.certificate.lower_bound
        found.append((gap, best.null_risk, pays * size if forgets else pays, bound))
    columns = zip(("gap", "null", "pays", "bound"), zip(*found, strict=True), strict=True)
    return xr.Dataset({n: ("tasks", list(c)) for n, c in columns}, {"tasks": list(s.pools)})


@STUDY.claim(PLACE, below(0.05), headline=True, must_fail_on={"of": "null"})
def pool_certificate(lab, measured=pools, of="gap"):
    """Given the tasks of a pool, no layer with any number of heads is more than 5% below the best
    one with one head that was found.

    Measured: (R - bound) / bound, both exact, for each size of the pool.
    """
    return measured[of] / measured.bound


@STUDY.claim(PLACE, within(0.25), headline=True, must_fail_on={"measured": pools.given(forgets=1)})
def memorisation_gap(lab, measured=pools):
    """The best layer for a pool of M tasks pays for what it knows of them: its excess on new tasks
    falls like 1/M.

    Measured: slope of log(R_new / R_new* - 1) in log M between the smallest and the largest pool,
    plus 1; both risks exact, R_new* that of the best layer for all tasks.
    """
    ends = np.log(measured.pays).isel(tasks=[0, -1])
    return np.diff(ends).item() / np.diff(np.log(ends.tasks)).item() + 1


@STUDY.experiment
def on_a_pool(s):
    """A layer trained on the exact risk of a pool of 64 tasks."""
    adam = {"kind": "adam", "learning_rate": 0.01, "b2": 0.999, "clip": 100.0, "schedule": "cosine"}
    pool = tasks.FinitePool(s.dim, size=64, pool_seed=64)
    return atlas.Experiment(
        task=law(s, pool), optimiser=adam, objective="population", steps=s.steps, batch_size=1
    )


@STUDY.claim(PLACE, below(0.01), headline=True, must_fail_on="untrained")
def pool_trained(lab, trained=on_a_pool):
    """Layers that are trained on the risk of a pool of 64 tasks come to the best layer for it.

    Measured: R / R* - 1 after training, both exact; seeds that stay on the plateau of rank one
    count.
    """
    return float(trained.last.risk) / optimum(trained.task).risk - 1


def mixture(lab, distance, shares=(0.25, 0.75)):
    """Two Gaussian priors with means at ± half of a distance, and covariances of their own."""
    s, d = lab.settings, lab.settings.dim
    factors, direction = lab.rng().normal(size=(2, d, 4 * d)), lab.rng("mean").normal(size=(1, d))
    direction /= np.linalg.norm(direction)
    priors = [
        tasks.LinearFunctions(d, covariance=f @ f.T / (4 * d), mean=side * distance * direction)
        for f, side in zip(factors, (0.5, -0.5), strict=True)
    ]
    return tasks.Mixture(tuple(law(s, prior) for prior in priors), np.array(shares))


@STUDY.measurement
def price(lab, same=False):
    """Risks at each distance: of the best layer for all, its bound, of one for each component."""

    def risks(distance):
        whole = mixture(lab, distance)
        if same:
            whole = dataclasses.replace(whole, components=whole.components[:1] * 2)
        best = optimum(whole)
        knows = whole.probabilities @ [optimum(each).risk for each in whole.components]
        return best.risk, best.certificate.lower_bound, knows

    found = np.array([risks(distance) for distance in lab.settings.distances])
    columns = zip(("serves", "bound", "knows"), found.T, strict=True)
    distances = {"distance": list(lab.settings.distances)}
    return xr.Dataset({name: ("distance", column) for name, column in columns}, distances)


@STUDY.claim(PLACE, above(0.001), headline=True, must_fail_on={"measured": price.given(same=True)})
def component_matters(lab, measured=price):
    """A layer that has to serve a mixture has more risk than one that is told the component.

    Measured: R / Σ_k π_k R_k - 1 for the best layers with one head, both exact, for several
    distances of the means.
    """
    return measured.serves / measured.knows - 1


@STUDY.claim(PLACE, above(1.0), headline=True, must_fail_on={"last": 0})
def price_grows(lab, measured=price, last=-1):
    """The price of not knowing the component grows with the distance of the means.

    Measured: R / Σ_k π_k R_k - 1 at the largest distance over that at the smallest.
    """
    paid = (measured.serves / measured.knows - 1).values
    return paid[last] / paid[0]


@STUDY.figure(shows=[memorisation_gap])
def memorisation(lab, measured=pools):
    """What the best layer for a pool of tasks pays on new ones, exactly, against the size of the
    pool; a dot for each seed, which draws its pools. The line falls like 1/M.
    """
    sizes = measured.tasks.values
    level = float(measured.pays.isel(tasks=-1).mean()) * sizes[-1]
    options: Any = {"ylabel": "R_new / R_new* − 1", "xscale": "log", "yscale": "log"}
    points = {"best layers of pools": measured.pays}
    return figures.risk_against("tasks M", {"1/M": (sizes, level / sizes)}, points, **options)


@STUDY.figure(shows=[component_matters])
def price_of_not_knowing(lab, measured=price):
    """How much more risk the best layer has that serves both components of a mixture than layers
    that are told the component, exactly, against the distance of the two means; and the bound of
    that for any number of heads, which know the component with one. A dot for each seed.
    """
    names = {"one head": measured.serves, "any number of heads, bound": measured.bound}
    paid = {name: risk / measured.knows - 1 for name, risk in names.items()}
    return figures.risk_against("distance of the means", {}, paid, ylabel="R / Σ_k π_k R_k − 1")
