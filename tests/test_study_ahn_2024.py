"""The study of Ahn et al. (2024): its layers are those of the released code, on its laws."""

import jax
import numpy as np
import pytest
import scipy.stats

from mesalens import random
from mesalens.studies.ahn_2024 import LAWS, MAIN, STUDY


def released(P, Q, xs, ys, query):
    """The prediction as the released code computes it: tokens Z, Z <- Z + (1/n) P Z M Z^T Q Z."""
    n, d = xs.shape
    Z = np.column_stack([np.vstack([xs, query]), np.append(ys, 0)]).T
    M = np.diag(np.append(np.ones(n), 0))
    for P_x, Q_x in zip(P, Q, strict=True):
        full_P, full_Q = np.zeros((2, d + 1, d + 1))
        full_P[:d, :d], full_P[d, d], full_Q[:d, :d] = P_x, 1, Q_x
        Z = Z + full_P @ Z @ M @ Z.T @ full_Q @ Z / n
    return -Z[d, n]


@pytest.mark.parametrize("law", LAWS)
def test_layers_are_those_of_the_released_code(law):
    learner = LAWS[law]["start"](key=random.key(0))
    A, B = (np.asarray(blocks[:, 0], float) for blocks in learner.effective())
    prompt, _ = LAWS[law]["task"].sample(random.key(1))
    n = prompt.context_length
    rows = (np.asarray(part, float) for part in (prompt.xs, prompt.ys[:, 0], prompt.query))
    expected = released(B[:, :5, :5], n * A[:, :5, :5], *rows)
    assert float(learner(prompt)[0]) == pytest.approx(expected, rel=1e-4)
    assert sum(leaf.size for leaf in jax.tree.leaves(learner)) == 3 * 2 * 25


def test_entries_begin_with_the_deviation_of_the_released_code():
    learners = [LAWS[MAIN]["start"](key=key) for key in jax.random.split(random.key(2), 40)]
    entries = np.ravel([jax.tree.leaves(learner) for learner in learners])
    assert entries.std() == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize(
    ("law", "squares"),
    [
        ("normal, n = 5", scipy.stats.chi2(5)),
        ("gamma", scipy.stats.gamma(0.1, scale=10)),
    ],
)
def test_squared_lengths_have_the_laws_of_the_released_code(law, squares):
    x = LAWS[law]["task"].covariates.sample(random.key(3), (5000,))
    lengths = np.linalg.norm(np.asarray(x, float), axis=1)
    assert scipy.stats.kstest(lengths, lambda r: squares.cdf(r**2)).pvalue > 1e-3


def test_the_sphere_has_radius_one():
    x = LAWS["sphere"]["task"].covariates.sample(random.key(4), (10,))
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-6)


def test_all_laws_are_in_the_budgets_that_decide_every_claim():
    for budget in ("full", "paper"):
        assert STUDY.values(budget).laws == tuple(LAWS)
