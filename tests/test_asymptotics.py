"""Limits of the risks of fitted layers: random matrices, closed forms, fits, and other limits."""

import functools
import itertools

import jaxtyping
import numpy as np
import pytest
import scipy.optimize

from mesalens import InputError, Prompt
from mesalens.tasks import Gaussian, GaussianNoise, LinearFunctions, RegressionTask
from mesalens.theory import asymptotic_risk, best_preconditioner, layer_risk, task_moments
from mesalens.training import fit_layer

INF = np.inf


def on_sphere(rng, size, d):
    W = rng.normal(size=(size, d))
    return np.sqrt(d) * W / np.linalg.norm(W, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("alpha", "kappa", "tau", "rho", "ridge"),
    [
        (2.0, 0.3, 0.5, 0.1, 0.0),
        (2.0, 0.3, 3.0, 0.1, 0.0),
        (10.0, 2.0, 1.0, 0.0, 0.3),
        (0.5, 1.0, 0.7, 1.0, 0.01),
    ],
)
def test_the_formula_is_that_of_a_pool_of_many_tasks(alpha, kappa, tau, rho, ridge, d=1000):
    """With the spectrum of R = W^T W / K as it is, and traces as they are defined."""
    K = round(kappa * d)
    r = np.linalg.eigvalsh(np.cov(on_sphere(np.random.default_rng(0), K, d).T, bias=True))
    B = r + (1 + rho) / alpha

    def missing(nu):
        return nu - ridge - nu * np.mean(B / (B + nu)) / tau

    nu = scipy.optimize.brentq(missing, 1e-9, 100) if tau < 1 or ridge else 0.0
    gamma = r / (B + nu)
    residual = rho + np.mean(r - 2 * gamma * r + gamma**2 * B)
    pool = residual / (1 - np.mean((B / (B + nu)) ** 2) / tau)
    spread = np.mean(gamma**2) + pool / tau * np.mean(B / (B + nu) ** 2)
    new = 1 + rho - 2 * np.mean(gamma) + (1 + (1 + rho) / alpha) * spread
    limit = asymptotic_risk(alpha, kappa, tau, rho, ridge)
    np.testing.assert_allclose((limit.new_tasks, limit.pool), (new, pool), rtol=0.01)
    assert limit.gap == limit.new_tasks - limit.pool


def published(alpha, kappa, tau, rho):
    """The closed forms without a ridge of the paper's code, in its notation."""
    x = (1 + rho) / alpha

    def resolvent(k):
        b = x + 1 - 1 / k
        return 2 / (b + np.sqrt(b**2 + 4 * x / k))

    m, mu = resolvent(kappa), x * resolvent(kappa / tau)
    if tau < 1:
        inner = 1 - tau * (1 - mu) ** 2 - (x - rho) / x * mu
        return tau * (1 + x) / (1 - tau) * inner - 2 * tau * (1 - mu) + rho + 1
    k = 1 / (1 - kappa * (m / (kappa + m)) ** 2)
    first = (k - 1 / (tau - 1)) * (1 + x) * (x * m) ** 2 + (3 - 2 * tau) / (tau - 1) * m * x**2
    return first + ((1 + rho) / (tau - 1) * m + 1) * x + rho * m / (tau - 1) + rho


def test_without_a_ridge_the_values_are_the_published_ones():
    grid = itertools.product((0.3, 2.0, 100.0), (0.1, 1.0, 5.0), (0.2, 0.9, 1.1, 7.0), (0.0, 0.5))
    for alpha, kappa, tau, rho in grid:
        expected = published(alpha, kappa, tau, rho)
        found = asymptotic_risk(alpha, kappa, tau, rho).new_tasks
        assert found == pytest.approx(expected, rel=1e-7), (alpha, kappa, tau, rho)


@functools.cache
def moments_of_new_tasks(d, n, rho):
    functions, noise = LinearFunctions(d, scale=1 / d), GaussianNoise(rho)
    task = RegressionTask(Gaussian(d, scale=d**0.5), functions, noise=noise, context_length=n)
    return task_moments(task)


def risk_of_a_fit(seed, d, alpha, kappa, tau, rho, ridge):
    """The risk on new tasks of a layer that is fitted to prompts with x ~ N(0, d I)."""
    rng, n, N = np.random.default_rng(seed), round(alpha * d), round(tau * d * (d + 1))
    W = on_sphere(rng, round(kappa * d), d) / d
    w = W[rng.integers(len(W), size=N)]
    xs = np.sqrt(d) * rng.normal(size=(N, n + 1, d))
    ys = np.einsum("nid,nd->ni", xs, w)[..., None] + np.sqrt(rho) * rng.normal(size=(N, n + 1, 1))
    prompts = Prompt(xs[:, :-1], ys[:, :-1], xs[:, -1])
    layer = fit_layer(prompts, ys[:, -1], ridge=ridge * n**2 * d)
    return layer_risk(layer, moments_of_new_tasks(d, n, rho))


CASES = [(2.0, 0.5, 0.5, 0.1, 0.0), (2.0, 0.5, 2.0, 0.1, 0.0), (2.0, 2.0, 1.0, 0.1, 0.3)]


@pytest.mark.parametrize("case", CASES)
def test_fitted_layers_come_to_the_limit_as_d_grows(case, seeds=40):
    few, many = (np.array([risk_of_a_fit(i, d, *case) for i in range(seeds)]) for d in (8, 16))
    extrapolated = 2 * many - few
    error = extrapolated.std(ddof=1) / np.sqrt(seeds)
    limit = asymptotic_risk(*case).new_tasks
    assert abs(extrapolated.mean() - limit) < 4 * error + 0.05 * limit
    assert error < 0.15 * limit


@pytest.mark.parametrize("rho", [0.0, 0.4])
def test_for_all_prompts_and_tasks_the_layer_is_the_best_step_of_descent(rho, alpha=2):
    def best(d):
        task = RegressionTask(
            Gaussian(d),
            LinearFunctions(d, scale=d**-0.5),
            noise=GaussianNoise(rho),
            context_length=alpha * d,
        )
        return best_preconditioner(task_moments(task))[1]

    limit = asymptotic_risk(float(alpha), INF, INF, rho)
    assert limit.new_tasks == pytest.approx(2 * best(24) - best(12), rel=2e-3)
    assert limit.gap == pytest.approx(0, abs=1e-12)


def test_the_gap_of_the_best_layer_for_long_contexts_is_that_of_the_missing_directions():
    for kappa in (0.1, 0.5, 0.9, 1.1, 2.0, 10.0):
        gap = asymptotic_risk(1e7, kappa, INF, 0.1).gap
        assert gap == pytest.approx(max(1 - kappa, 0), abs=1e-4), kappa
    assert asymptotic_risk(1e13, 0.1, INF, 0.1).gap == pytest.approx(0.9, abs=1e-9)
    x = 1.1e-3  # and above κ = 1 it is of second order in x* = (1 + ρ)/α
    for kappa in (2.0, 5.0):
        expected = x**2 * kappa * (2 * kappa - 1) / (kappa - 1) ** 3
        assert asymptotic_risk(1e3, kappa, INF, 0.1).gap == pytest.approx(expected, rel=0.02)


def test_limits_of_single_arguments():
    for tau, ridge in ((0.5, 0.0), (3.0, 0.0), (1.0, 0.2), (INF, 0.2)):
        np.testing.assert_allclose(
            asymptotic_risk(2.0, INF, tau, 0.1, ridge),
            asymptotic_risk(2.0, 1e9, tau, 0.1, ridge),
            rtol=1e-7,
        )
        np.testing.assert_allclose(
            asymptotic_risk(2.0, 0.7, tau, 0.1, ridge),
            asymptotic_risk(2.0, 0.7, tau, 0.1, ridge + 1e-9),
            rtol=1e-7,
        )
    np.testing.assert_allclose(
        asymptotic_risk(2.0, 0.7, INF, 0.1, 0.2),
        asymptotic_risk(2.0, 0.7, 1e9, 0.1, 0.2),
        rtol=1e-7,
    )
    one = asymptotic_risk(2.0, 1e-7, INF, 0.1)  # a single direction helps no new task
    np.testing.assert_allclose(one, (1.1, 0.1), rtol=1e-5)
    np.testing.assert_allclose(asymptotic_risk(2.0, 0.7, 0.5, 0.1, 1e9), (1.1, 1.1), rtol=1e-6)
    np.testing.assert_allclose(asymptotic_risk(2.0, 0.7, 1e-6, 0.1), (1.1, 1.1), rtol=1e-5)


def test_without_a_ridge_the_peak_is_infinite():
    assert asymptotic_risk(2.0, 0.5, 1.0, 0.1) == (INF, INF)
    for tau in (1 - 1e-6, 1 + 1e-6):
        assert asymptotic_risk(2.0, 0.5, tau, 0.1).pool > 1e4
    assert asymptotic_risk(2.0, 0.5, 1.0, 0.1, 0.1).new_tasks < 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 1, 1, 0), "context"),
        ((INF, 1, 1, 0), "context"),
        ((1, -1, 1, 0), "diversity"),
        ((1, 1, 0, 0), "prompts"),
        ((1, 1, float("nan"), 0), "prompts"),
        ((1, 1, 1, -0.1), "noise"),
        ((1, 1, 1, 0, -1), "ridge"),
    ],
)
def test_bad_input_gets_a_sentence(arguments, words, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match=words) as caught:
        asymptotic_risk(*arguments)
    assert str(caught.value).endswith(".")
