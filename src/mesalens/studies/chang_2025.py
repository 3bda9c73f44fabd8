"""Chang, Li, Kara, Oymak and Roy-Chowdhury (2025): a prompt, and a head, for each kind of task."""

import dataclasses
from typing import Any

import numpy as np
import xarray as xr

from mesalens import atlas, tasks, theory
from mesalens.atlas import above, every_seed_below, figures

STUDY = atlas.Study(
    "chang-2025",
    title="Provable Benefits of Task-Specific Prompts for In-context Learning",
    citation="Chang, Li, Kara, Oymak and Roy-Chowdhury, AISTATS 2025, arXiv 2503.02102",
    system="K kinds of tasks, w ~ N(μ_k, Σ_k) with probability π_k, x ~ N(0, Σ_x), noise σ²; one "
    "layer of linear attention that is told k by a prompt token, and may have a linear head, for "
    "each k.",
    note="Claims are those of the abstract; formulas are derived here. A prompt token adds a "
    "vector to s = Σ yᵢxᵢ, and so a linear function of the query: ŷ = xᵀP(s + p_k). With a head "
    "too, the layer is a step from the start W_k: ŷ = W_k x + xᵀP Σ (yᵢ − W_k xᵢ)xᵢ. Losses are "
    "exact.",
    unchecked={"training of prompts and heads": "losses are minimised exactly, not by training"},
    settings={"seeds": (5, 10, 20), "dim": 5, "length": 10, "noise": 0.1, "kinds": 3},
    quick={},
    full={"seeds": (20,)},
    paper={"dim": 10, "length": 20, "kinds": 5},
    small={"dim": 2, "kinds": 2},
)
PLACE = "Abstract"


def components(s, rng, spread=1.0):
    """One task of each kind, and their probabilities; all inputs have one covariance."""
    d, factor = s.dim, rng.normal(size=(1 + s.kinds, s.dim, 4 * s.dim))
    sigma, *priors = factor @ factor.swapaxes(1, 2) / (4 * d)
    covariates, noise = tasks.Gaussian(d, covariance=sigma), tasks.GaussianNoise(s.noise)
    drawn = [
        tasks.LinearFunctions(d, covariance=prior, mean=spread * rng.normal(size=(1, d)))
        for prior in priors
    ]
    shares = rng.dirichlet(np.full(s.kinds, 3.0))
    options = {"context_length": s.length, "noise": noise}
    return [tasks.RegressionTask(covariates, each, **options) for each in drawn], shares


def less_constant(moments):
    """The moments after the best linear function of the query is subtracted, for each k.

    Given k, context and query are independent, so this subtracts E[s] from s, and E[y | x] from y.
    """
    explained = np.linalg.solve(moments.query, moments.target)
    return dataclasses.replace(
        moments,
        second=moments.second - np.outer(moments.mean, moments.mean),
        cross=moments.cross - np.multiply.outer(moments.mean, moments.target),
        mean=0 * moments.mean,
        target=0 * moments.target,
        null_risk=moments.null_risk - float(np.sum(explained * moments.target)),
    )


@STUDY.measurement
def losses(lab, spread=1.0):
    """The least losses of all methods, and the matrices that have them."""
    each, shares = components(lab.settings, lab.rng(), spread)
    priors: list[Any] = [task.functions for task in each]
    plain = theory.mixture_moments([theory.task_moments(task) for task in each], shares)
    prompts = [less_constant(theory.task_moments(task)) for task in each]
    prompts = theory.mixture_moments(prompts, shares)
    without = [dataclasses.replace(f, mean=None) for f in priors]
    heads = [
        theory.task_moments(dataclasses.replace(task, functions=f))
        for task, f in zip(each, without, strict=True)
    ]
    heads, ways = theory.mixture_moments(heads, shares), {}
    P, ways["plain"] = theory.best_preconditioner(plain)
    ways["prompts, fine-tuned"] = theory.preconditioned_risk(P, prompts)
    ways["prompts, trained jointly"] = theory.best_preconditioner(prompts)[1]
    ways["prompts and heads, fine-tuned"] = theory.preconditioned_risk(P, heads)
    P_heads, ways["prompts and heads, trained jointly"] = theory.best_preconditioner(heads)
    known = [
        theory.best_preconditioner(theory.task_moments(replace_prior(each[0], f))) for f in without
    ]
    ways["a layer for each kind"] = shares @ [risk for _, risk in known]

    def spread_of(mean):
        each = [f.row_covariance() + mean * f.weight_mean().T @ f.weight_mean() for f in priors]
        return np.einsum("k,kab->ab", shares, np.stack(each))

    def away(P, mean):
        prior = tasks.LinearFunctions(lab.settings.dim, covariance=spread_of(mean))
        formula = theory.gaussian_preconditioner(replace_prior(each[0], prior))
        return np.linalg.norm(P - formula) / np.linalg.norm(formula)

    formulas = {"biased": away(P, 1), "decoupled": away(P_heads, 0), "crossed": away(P_heads, 1)}
    formulas["unbiased"] = away(P, 0)
    loss = xr.DataArray(list(ways.values()), {"way": list(ways)}, ("way",))
    return xr.Dataset({"loss": loss} | formulas)


def replace_prior(task, functions):
    """The task with other functions."""
    return dataclasses.replace(task, functions=functions)


@STUDY.claim(PLACE, every_seed_below(1e-9), headline=True, must_fail_on={"of": "unbiased"})
def plain_sees_the_means(lab, measured=losses, of="biased"):
    """Trained without prompts, attention treats the means as variance: it is the best step for
    w ~ N(0, Σ_k π_k (Σ_k + μ_k μ_kᵀ)).

    Measured: ‖P - formula‖_F / ‖formula‖_F.
    """
    return measured[of]


@STUDY.claim(PLACE, every_seed_below(1e-9), headline=True, must_fail_on={"of": "crossed"})
def heads_decouple(lab, measured=losses, of="decoupled"):
    """With a prompt and a head for each kind, mean and variance are decoupled: the starts W_k
    explain the means, and attention is the best step for w ~ N(0, Σ_k π_k Σ_k).

    Measured: ‖P - formula‖_F / ‖formula‖_F.
    """
    return measured[of]


@STUDY.measurement
def gain(lab, measured=losses, better="", worse=""):
    """{words}

    Measured: L_worse / L_better - 1, both exact.
    """
    return measured.loss.sel(way=worse, drop=True) / measured.loss.sel(way=better, drop=True) - 1


TUNED, JOINT = "prompts, fine-tuned", "prompts, trained jointly"
BOTH = "prompts and heads, trained jointly"
ALIKE = {"measured": losses.given(spread=0.0)}
GAINS = {
    "prompts-help": (TUNED, "plain", "Prompts that are tuned after training lower the loss."),
    "joint-helps": (JOINT, TUNED, "Training prompts and attention jointly lowers it further."),
    "heads-help": (BOTH, JOINT, "A head for each kind lowers the loss further."),
}
for name, (better, worse, words) in GAINS.items():
    options = {"headline": True, "must_fail_on": ALIKE, "name": name, "words": words}
    STUDY.claim(PLACE, above(0.001), **options)(gain.given(better=better, worse=worse))


@STUDY.figure
def ways(lab, measured=losses):
    """The exact least loss of each method, relative to that of prompts and heads trained jointly; a
    dot for each seed, which draws the kinds of tasks.
    """
    ratio = measured.loss / measured.loss.sel(way=BOTH)
    labels = [str(way).replace(", ", ",\n") for way in ratio.way.values]
    return figures.risk_against(
        "", {}, {"exact": ratio.assign_coords(way=labels)}, ylabel="loss, relative"
    )
