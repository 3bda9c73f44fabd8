"""Li, Rawat and Oymak (2024): low-rank attention, retrieved contexts, low-rank adaptation."""

from typing import Any

import numpy as np

from mesalens import atlas, tasks, theory
from mesalens.atlas import above, every_seed_below, figures, over, settings_of, within
from mesalens.theory.linear_prediction import whitening

STUDY = atlas.Study(
    "li-2024",
    title="Fine-grained Analysis of In-context Linear Estimation: Data, Architecture, and Beyond",
    citation="Li, Rawat and Oymak, NeurIPS 2024, arXiv 2407.10005",
    system="x ~ N(0, Σ), w ~ N(0, Λ), noise σ²; one layer of linear attention: with rank r; on a "
    "context retrieved for its query, xᵢ = αx_q + √(1-α²) zᵢ; or adapted to another Λ by a change "
    "of rank r.",
    note="Claims are those of the abstract: the paper's text was not available. Formulas are "
    "derived here. That one layer takes one step of preconditioned descent is checked in "
    "mahankali-2023.",
    unchecked={
        "H3 and its sample weighting": "the package has no state space models yet",
        "task-feature alignment": "the joint law of tasks and queries is not known to us",
    },
    settings={"seeds": (10, 20, 40), "dim": 4, "length": 12, "noise": 0.1, "steps": 3000}
    | {"relevance": (0.0, 0.25, 0.5, 0.75, 1.0), "large": 400, "lengths": (100, 400, 1600)},
    quick={},
    full={"dim": 6, "length": 20, "steps": 5000},
    paper={"dim": 20, "length": 40, "steps": 20_000},
    small={"dim": 2, "length": 5, "steps": 1000, "relevance": (0.0, 0.5)},
)
PLACE = "Abstract"
moments_of = atlas.remembered(theory.task_moments)


def law(s, rng, shift=None):
    """A task with random Σ and Λ; `shift` is the rank of a change of Λ."""
    d = s.dim
    sigma, prior = (f @ f.T / (4 * d) for f in rng.normal(size=(2, d, 4 * d)))
    if shift is not None:
        directions = rng.normal(size=(d, shift))
        prior = prior + 2 * directions @ directions.T
    covariates = tasks.Gaussian(d, covariance=sigma)
    functions = tasks.LinearFunctions(d, covariance=prior)
    noise = tasks.GaussianNoise(s.noise)
    return tasks.RegressionTask(covariates, functions, context_length=s.length, noise=noise)


@STUDY.experiment
def low_rank(s):
    """Layers of every rank, trained on the exact risk."""
    adam = {"kind": "adam", "learning_rate": 0.01, "b2": 0.999, "clip": 100.0, "schedule": "cosine"}

    def of(rank):
        structure = {"kind": "low-rank", "rank": rank}
        return atlas.Experiment(
            task=lambda rng: law(s, rng),
            model={"kind": "linear-transformer", "structure": structure, "init_scale": 0.1},
            optimiser=adam,
            objective="population",
            steps=s.steps,
            batch_size=1,
        )

    return {rank: of(rank) for rank in range(1, s.dim + 1)}


@STUDY.claim(PLACE, every_seed_below(1e-3), headline=True, must_fail_on="untrained")
def low_rank_risk(lab, trained=low_rank):
    """The least risk of attention of rank r is E y² minus the r largest squared singular values of
    M^-½ L K^-½, and trained layers of every rank reach it.

    Measured: R / formula - 1 after training on the exact risk, for each rank; both exact.
    """

    def away(run):
        risks = theory.plateau_risks(moments_of(run.task))
        rank = run.learner.weights.W_K.shape[2]
        return {"away": float(run.last.risk) / risks[rank] - 1}

    return over(trained, away, "rank").away


def retrieved(lab, relevance, length=None) -> Any:
    """A task with contexts of this relevance."""
    s = lab.settings
    factors = tasks.Retrieved(s.dim, relevance=relevance), tasks.LinearFunctions(s.dim)
    noise = tasks.GaussianNoise(float(lab.rng().uniform(0.05, 0.5)))
    return tasks.RegressionTask(*factors, context_length=length or s.length, noise=noise)


@STUDY.claim(PLACE, every_seed_below(1e-9), headline=True, must_fail_on={"shared": 0.5})
def retrieval_risk(lab, shared=1.0):
    """With retrieved examples, the best layer is one step of gradient descent with the risk of the
    formula, and no layer, with any number of heads, has less.

    Measured: |bound / R - 1| for each α, with R from the formula and the certified bound from exact
    moments; a random σ².
    """

    def away(relevance):
        task = retrieved(lab, relevance)
        formula = theory.retrieval_risk(
            task.dim, task.context_length, shared * relevance, task.noise.variance
        )
        return abs(theory.lower_bound(moments_of(task)) / formula.best_risk - 1)

    return settings_of(away, lab.settings.relevance, "relevance")


@STUDY.claim(PLACE, within(0.02), headline=True, must_fail_on={"counts": 0.0})
def retrieval_counts_more(lab, counts=1.0):
    """If α²d is of order 1, a retrieved example is worth α²d + 1 independent ones.

    Measured: R(n, α) / R((α²d + 1) n, 0) - 1, exact, for a large d and several n; α²d is random,
    from 0.5 to 2.
    """
    d, strength = lab.settings.large, float(lab.rng().uniform(0.5, 2))

    def away(n):
        counted = round((counts * strength + 1) * n)
        one = theory.retrieval_risk(d, n, np.sqrt(strength / d)).best_risk
        return one / theory.retrieval_risk(d, counted, 0.0).best_risk - 1

    return settings_of(away, lab.settings.lengths, "examples")


@STUDY.claim(PLACE, above(0.5), headline=True, must_fail_on={"rank": 0})
def low_rank_adaptation(lab, rank=1):
    """A change of rank one in the matrix of the best layer adapts it to a shift of rank one in the
    covariance of tasks: it recovers more than half of the loss.

    Measured: the share of R_old - R* that the best such change recovers on the shifted task; all
    risks are exact; random Σ, Λ and shift.
    """
    old, _ = theory.best_preconditioner(moments_of(law(lab.settings, lab.rng())))
    moments = moments_of(law(lab.settings, lab.rng(), shift=1))
    best, least = theory.best_preconditioner(moments)
    lost = theory.preconditioned_risk(old, moments) - least
    # R_P - R* = ‖M^½ (P - P*) K^½‖²: the change of rank r takes the r largest singular values
    squares = moments.of_labels()[0]
    left, right = (np.linalg.pinv(whitening(each)) for each in (moments.query, squares))
    change = left.T @ moments.inputs.T @ (best - old) @ moments.inputs @ right
    taken = np.linalg.svd(change, compute_uv=False)[:rank]
    return np.sum(taken**2) / lost


@STUDY.figure(shows=[retrieval_risk, retrieval_counts_more])
def risk_over_relevance(lab):
    """Exact risk of the best layer against the similarity of retrieved inputs to their query, for
    several numbers of examples; d = 20, without noise.
    """
    alphas = np.linspace(0, 1, 41)
    lines = {
        f"n = {n}": (alphas, [theory.retrieval_risk(20, n, float(a)).best_risk for a in alphas])
        for n in (5, 20, 80)
    }
    return figures.risk_against("relevance α", lines, {})
