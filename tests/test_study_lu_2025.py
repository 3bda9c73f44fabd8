"""The parts of the study of Lu et al. (2025) that are formulas."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from mesalens import LinearTransformer, random
from mesalens.analysis import risk
from mesalens.atlas.study import Lab
from mesalens.studies import lu_2025
from mesalens.tasks import LinearFunctions, RegressionTask
from mesalens.theory import layer_risk, task_moments


def lab(**changes):
    values = lu_2025.STUDY.values("small", changes)
    return Lab(values, study_seed=0, purpose="test", seed=0)


def layer_of(A):
    d = A.shape[1]
    square = jnp.asarray(np.pad(A, ((0, 0), (0, 1))))
    labels = jnp.diag(jnp.array([0.0] * d + [-1.0]))
    return LinearTransformer.from_effective(square[None, None], labels[None, None], layers=1)


@pytest.mark.parametrize(("d", "size", "context"), [(3, 4, 2.0), (2, 1, 0.5), (1, 2, 1.0)])
def test_risks_are_means_over_known_tasks(d, size, context):
    """On new tasks they are those on any pool with the moments of the sphere: an orthogonal frame."""
    law = lu_2025.law(lab(context=context, noise=0.3), d, size)
    A = np.random.default_rng(0).normal(size=(d + 1, d)) / (d * law.context_length)

    def exact(w):
        functions = LinearFunctions(d, mean=w[None], covariance=np.zeros((d, d)))
        parts = {"noise": law.task.noise, "context_length": law.context_length}
        task = RegressionTask(law.task.covariates, functions, **parts)
        return layer_risk(layer_of(A), task_moments(task))

    functions: Any = law.task.functions
    W = np.asarray(functions.pool, float)[:, 0]
    np.testing.assert_allclose(np.linalg.norm(W, axis=1), d**-0.5, rtol=1e-6)
    frame = np.concatenate([np.eye(d), -np.eye(d)]) / np.sqrt(d)
    expected = [np.mean([exact(w) for w in each]) for each in (frame, W)]
    np.testing.assert_allclose(lu_2025.risks(A, law), expected, rtol=1e-5)


def test_prompts_of_a_pool_are_condensed():
    law = lu_2025.law(lab(), 4, 3)
    A = np.random.default_rng(1).normal(size=(5, 4)) / (4 * law.context_length)
    measured = risk(layer_of(A), law, random.key(0), prompts=20_000)
    exact = lu_2025.risks(A, law)[1]
    assert abs(measured.value - exact) < 5 * measured.standard_error < 0.2 * exact


def test_fits_depend_on_the_seed_and_on_nothing_else():
    first = lu_2025.fitted(lab(), 4, 0.5, (0.5, 2.0))
    np.testing.assert_array_equal(first, lu_2025.fitted(lab(), 4, 0.5, (0.5, 2.0)))
    assert first.shape == (2, 2)
    assert (lu_2025.fitted(lab(), 4, 0.5, (0.5, 2.0), ridge=1.0) != first).all()
