"""Claims of mesalens: what one layer can know about a finite pool, or a mixture of tasks."""

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
    note="Moments of pools and mixtures are means of joint moments, so optimum, certificate and "
    "risk are exact. Each seed draws its own pools, means and covariances.",
    settings={"seeds": (12, 24, 48), "dim": 4, "length": 20, "noise": 0.1, "steps": 2000}
    | {"pools": (256, 1024, 4096, 16_384), "distances": (0.5, 1.0, 2.0, 4.0)},
    quick={"pools": (256, 4096), "distances": (0.5, 2.0)},
    full={},
    paper={"dim": 10, "pools": (64, 1024, 16_384)},
    small={"dim": 2, "length": 10, "pools": (32, 512), "distances": (0.5, 2.0), "steps": 1500},
)
PLACE = "a claim of mesalens"
moments_of = atlas.remembered(theory.task_moments)
optimum = atlas.remembered(theory.optimal_layer)


def law(s, functions, covariates=None):
    """Prompts with these functions, and x ~ N(0, I) or others."""
    covariates, noise = covariates or tasks.Gaussian(s.dim), tasks.GaussianNoise(s.noise)
    return tasks.RegressionTask(covariates, functions, context_length=s.length, noise=noise)


@STUDY.measurement
def pools(lab, always=None):
    """The best layer for each size of the pool: its gap to the bound, and its excess on new tasks.

    With `always`, every pool has this number of tasks.
    """
    s, found = lab.settings, []
    every = moments_of(law(s, tasks.LinearFunctions(s.dim)))
    for size in s.pools:
        W = lab.rng(f"pool of {size}").normal(size=(always or size, s.dim))
        best = optimum(law(s, tasks.FinitePool.of(W)))
        loses = theory.layer_risk(best.layer(), every) / theory.best_preconditioner(every)[1] - 1
        found.append((best.certificate.gap / best.certificate.lower_bound, loses))
    columns = zip(("gap", "loses"), zip(*found, strict=True), strict=True)
    return xr.Dataset({n: ("tasks", list(c)) for n, c in columns}, {"tasks": list(s.pools)})


TWO = {"measured": pools.given(always=2)}


@STUDY.claim(PLACE, below(0.05), headline=True, must_fail_on=TWO)
def pool_certificate(lab, measured=pools):
    """For a pool of a few hundred tasks or more, no layer, with any number of heads, has a risk
    more than 5% below that of the best layer with one head that was found.

    Measured: (R - bound) / bound, both exact, for each size of the pool.
    """
    return measured.gap


@STUDY.claim(PLACE, within(0.25), headline=True, must_fail_on=TWO)
def memorisation_gap(lab, measured=pools):
    """The best layer for a pool of M tasks has an excess risk on new tasks, which falls like 1/M.

    Measured: the slope of log(R_new / R_new* - 1) in log M between the smallest and the largest
    pool, plus 1; both risks are exact, and R_new* is that of the best layer for all tasks.
    """
    ends = np.log(measured.loses).isel(tasks=[0, -1])
    return np.diff(ends).item() / np.diff(np.log(ends.tasks)).item() + 1


@STUDY.experiment
def on_a_pool(s):
    """A layer trained on the exact risk of a pool of 64 tasks."""
    adam = {"kind": "adam", "learning_rate": 0.01, "b2": 0.999, "clip": 100.0, "schedule": "cosine"}

    def task(rng):
        return law(s, tasks.FinitePool.of(rng.normal(size=(64, s.dim))))

    given: Any = {"optimiser": adam, "objective": "population", "steps": s.steps}
    return atlas.Experiment(task=task, batch_size=1, **given)


@STUDY.claim(PLACE, below(0.01), headline=True, must_fail_on="untrained")
def pool_trained(lab, trained=on_a_pool):
    """Layers trained on the exact risk of a pool of 64 tasks reach the best layer for it.

    Measured: R / R* - 1 after training, both exact; seeds that stay on the plateau of rank one
    count too.
    """
    return float(trained.last.risk) / optimum(trained.task).risk - 1


def mixture(lab, distance, shares=(0.25, 0.75)):
    """Two Gaussian priors with means at ± half of a distance, and different covariances."""
    s, d = lab.settings, lab.settings.dim
    factors, direction = lab.rng().normal(size=(2, d, 4 * d)), lab.rng("mean").normal(size=(1, d))
    direction /= np.linalg.norm(direction)
    priors = [
        tasks.LinearFunctions(d, covariance=f @ f.T / (4 * d), mean=side * distance * direction)
        for f, side in zip(factors, (0.5, -0.5), strict=True)
    ]
    return tasks.Mixture(tuple(law(s, prior) for prior in priors), np.array(shares))


@STUDY.measurement
def price(lab, same=False, still=False):
    """Risks at each distance of the means, for the best layer for both components and for one layer
    per component, and the bounds of both.

    With `same` the components are equal; with `still` the distance is always 1.
    """

    def risks(distance):
        whole = mixture(lab, 1.0 if still else distance)
        if same:
            whole = dataclasses.replace(whole, components=whole.components[:1] * 2)
        best, each = optimum(whole), [optimum(component) for component in whole.components]
        shares, proofs = whole.probabilities, [one.certificate for one in each]
        knows = shares @ [one.risk for one in each], shares @ [one.lower_bound for one in proofs]
        return best.risk, best.certificate.lower_bound, *knows

    found = np.array([risks(distance) for distance in lab.settings.distances]).T
    columns = zip(("serves", "serves_bound", "knows", "knows_bound"), found, strict=True)
    distances = {"distance": list(lab.settings.distances)}
    return xr.Dataset({name: ("distance", column) for name, column in columns}, distances)


@STUDY.claim(PLACE, above(0.001), headline=True, must_fail_on={"measured": price.given(same=True)})
def component_matters(lab, measured=price):
    """The best layer with one head for a mixture has more risk than layers with one head that are
    told the component.

    Measured: R / Σ_k π_k R_k - 1 for the best such layers, exact, for several distances of means.
    """
    return measured.serves / measured.knows - 1


@STUDY.claim(PLACE, above(1.1), headline=True, must_fail_on={"measured": price.given(still=True)})
def price_grows(lab, measured=price):
    """The price of not knowing the component grows with the distance of the means.

    Measured: R - Σ_k π_k R_k, divided by its value at the previous distance, for each distance
    except the first.
    """
    paid = measured.serves - measured.knows
    return paid[1:] / paid[:-1].values


@STUDY.figure(shows=[memorisation_gap])
def memorisation(lab, measured=pools):
    """Exact relative excess risk on new tasks of the best layer for a pool, against the size of the
    pool; a dot for each seed, which draws its pools. The line falls like 1/M.
    """
    sizes = measured.tasks.values
    level = float(measured.loses.isel(tasks=-1).mean()) * sizes[-1]
    options: Any = {"ylabel": "R_new / R_new* − 1", "xscale": "log", "yscale": "log"}
    points = {"best layers of pools": measured.loses}
    return figures.risk_against("tasks M", {"1/M": (sizes, level / sizes)}, points, **options)


@STUDY.figure(shows=[component_matters])
def price_of_not_knowing(lab, measured=price):
    """Exact relative excess risk of the best layer for both components of a mixture over layers
    that are told the component, against the distance of the two means: for layers with one head,
    and for the bounds for any number of heads. A dot for each seed.
    """
    paid = {
        "one head": measured.serves / measured.knows - 1,
        "any number of heads, bounds": measured.serves_bound / measured.knows_bound - 1,
    }
    return figures.risk_against("distance of the means", {}, paid, ylabel="R / Σ_k π_k R_k − 1")
