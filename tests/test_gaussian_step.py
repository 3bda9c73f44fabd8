"""Closed forms of one step on Gaussian inputs, and the exact risk of any preconditioned step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from mesalens import InputError
from mesalens.analysis import odd_signs, risk
from mesalens.learners import GradientDescent
from mesalens.tasks import (
    Distractors,
    Gaussian,
    GaussianNoise,
    LinearFunctions,
    RegressionTask,
    Uniform,
)
from mesalens.theory import (
    best_preconditioner,
    gaussian_preconditioner,
    isotropic_step_size,
    preconditioned_risk,
    simulated_step_size,
    task_moments,
)


def covariance(seed, dim=3):
    factor = np.random.default_rng(seed).normal(size=(dim, 2 * dim))
    return factor @ factor.T / (2 * dim)


def skewed(**changes):
    laws = {
        "covariates": Gaussian(3, covariance=covariance(0)),
        "functions": LinearFunctions(3, covariance=covariance(1)),
        "noise": GaussianNoise(0.25),
        "context_length": 5,
    }
    return RegressionTask(**laws | changes)


@pytest.mark.parametrize(("dim", "n", "noise"), [(3, 6, 0.0), (2, 4, 0.5), (4, 3, 2.0)])
def test_the_step_size_is_that_of_a_simulation(dim, n, noise):
    simulated = simulated_step_size(dim, n, noise, np.random.default_rng(0), 60_000)
    assert simulated == pytest.approx(isotropic_step_size(dim, n, noise), rel=0.02)


def test_the_preconditioner_is_that_of_the_moments():
    P, _ = best_preconditioner(task_moments(skewed()))
    np.testing.assert_allclose(gaussian_preconditioner(skewed()), P, rtol=1e-10)


def test_the_preconditioner_of_a_prior_that_undoes_the_covariance_is_its_inverse():
    sigma = covariance(0)
    inverse = np.linalg.inv(sigma)
    task = skewed(functions=LinearFunctions(3, covariance=(inverse + inverse.T) / 2))
    expected = inverse * isotropic_step_size(3, 5, 0.25) / 5
    np.testing.assert_allclose(gaussian_preconditioner(task), expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"covariates": Uniform(3)}, "Gaussian"),
        ({"functions": LinearFunctions(3, mean=np.ones((1, 3)))}, "mean"),
        ({"distractors": Distractors(1)}, "distractors"),
    ],
)
def test_the_formula_is_refused_where_it_does_not_hold(changes, word):
    with pytest.raises(InputError, match=word):
        gaussian_preconditioner(skewed(**changes))


@pytest.mark.parametrize("task", [skewed(), skewed(covariates=Uniform(3, 2.0))])
def test_the_risk_of_a_preconditioned_step_is_that_of_a_simulation(task):
    P = 0.1 * covariance(2) + np.diag([0.1, 0.0, -0.05])
    step = GradientDescent(float(task.context_length), preconditioner=jnp.asarray(P))
    simulated = risk(step, task, jax.random.key(0), prompts=100_000)
    exact = preconditioned_risk(P, task_moments(task))
    assert abs(simulated.value - exact) < 4 * simulated.standard_error
    assert simulated.standard_error < 0.03 * exact


def test_the_best_preconditioner_has_the_least_risk_of_all():
    moments = task_moments(skewed())
    P, least = best_preconditioner(moments)
    assert preconditioned_risk(P, moments) == pytest.approx(least, rel=1e-12)
    found = scipy.optimize.minimize(
        lambda entries: preconditioned_risk(entries.reshape(3, 3), moments), np.zeros(9)
    )
    assert found.fun == pytest.approx(least, rel=1e-6)
    assert preconditioned_risk(np.zeros((3, 3)), moments) == pytest.approx(moments.null_risk)


def test_odd_signs_vanish_where_f_and_its_negative_are_equally_likely():
    symmetric = odd_signs(skewed(), jax.random.key(0), prompts=10_000)
    assert list(symmetric) == ["y₁", "y₁+y₂+y₃", "y₁x₁,1", "y₁x₁,2", "y₁x₁,3"]
    assert max(map(abs, symmetric.values())) < 0.04  # four standard errors
    shifted = skewed(functions=LinearFunctions(3, mean=np.ones((1, 3))))
    signs = odd_signs(shifted, jax.random.key(0), prompts=10_000)
    assert max(signs.values()) > 0.1 and abs(signs["y₁"]) < 0.04
