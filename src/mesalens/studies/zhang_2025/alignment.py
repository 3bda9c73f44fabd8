"""Claims of mesalens: the paper's initial weights avoid the saddle of rank one."""

from functools import partial

import numpy as np

from mesalens import atlas, tasks, theory
from mesalens.atlas import above, every_seed_below
from mesalens.studies.mahankali_2023.study import linear_task, random_covariance
from mesalens.studies.zhang_2025.study import STUDY

OURS = "a claim of mesalens; the paper leaves it open"
headline = partial(STUDY.claim, OURS, headline=True)


@STUDY.experiment
def general(s, aligned=False):
    """All factors free, Adam on the risk; Σ and Λ are random and σ² = 1/4."""

    def task(rng):
        sigma, prior = (random_covariance(rng, 5) for _ in range(2))
        return linear_task(5, 10, 0.25, tasks.Gaussian(5, covariance=sigma), covariance=prior)

    structure = {"kind": "factors", "aligned": aligned}
    adam = {"kind": "adam", "learning_rate": 0.01, "schedule": "cosine"}
    model = {"kind": "linear-transformer", "structure": structure}
    options = {"optimiser": adam, "objective": "population", "steps": s.steps}
    return atlas.Experiment(task=task, model=model, **options)


aligned = general.given(aligned=True)


def excess(trained):
    """R / R_bound - 1 after training."""
    bound = theory.lower_bound(theory.task_moments(trained.task))
    return float(trained.last.risk) / bound - 1


@headline(every_seed_below(0.01), must_fail_on="untrained")
def aligned_weights_arrive(lab, trained=aligned):
    """A layer whose keys do not read y, and whose values do not read x, before training reaches the
    certified bound from every start.

    Measured: R / R_bound - 1 after training, for random Σ and Λ.
    """
    return excess(trained)


@STUDY.claim(OURS, above(0.1), must_fail_on={"trained": aligned})
def usual_weights_may_stop(lab, trained=general):
    """If all initial weights are random, a share of seeds stops at the other saddle of rank one,
    where keys read y and values read x.

    Measured: 1 where R / R_bound - 1 > 0.01 after training, else 0.
    """
    return float(excess(trained) > 0.01)


@headline(every_seed_below(1e-6), must_fail_on={"trained": general})
def aligned_blocks_stay_zero(lab, trained=aligned):
    """The blocks A_yx and B_yx, which make up the saddle, stay 0 during training.

    Measured: max |A_yx| / max |A_xx| or max |B_yx| / max |B_yy| at the end, the larger.
    """
    d, (A, B) = trained.task.dim, (np.abs(M[0, 0]) for M in trained.learner.effective())
    return max(A[d:, :d].max() / A[:d, :d].max(), B[d:, :d].max() / B[d, d])
