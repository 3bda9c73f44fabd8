"""The optimal layer: its formula, its risk, its certificate, against brute force, simulation and closed forms."""

import functools
import time
import tracemalloc

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
from compiled import compiled
from hypothesis import given, settings
from hypothesis import strategies as st

from mesalens import GradientDescent, InputError, LinearTransformer
from mesalens.analysis import risk
from mesalens.learners import BayesianRegression, Ridge
from mesalens.models import Factors
from mesalens.tasks import (
    Covariates,
    CustomFunctions,
    Distractors,
    Exponential,
    Gaussian,
    GaussianNoise,
    HeteroscedasticNoise,
    Laplace,
    LaplaceNoise,
    LinearFunctions,
    RegressionTask,
    Sphere,
    TwoLayerNetworks,
    Uniform,
)
from mesalens.theory import (
    Certificate,
    ConditionWarning,
    bayes,
    bayes_risk,
    certify,
    exact_moments,
    gradient_descent_transformer,
    isotropic_step_size,
    layer_risk,
    lower_bound,
    one_step_risk,
    optimal_layer,
    population_risk,
    simulated_moments,
)
from mesalens.theory.linear_prediction import best_linear
from mesalens.theory.symmetric import smat, svec


def slow(value):
    """A case that `make test-slow` runs."""
    return pytest.param(value, marks=pytest.mark.slow)


def linear(covariates, outputs=1, *, n, noise=0.0, distractors=(0, 1.0), **options):
    functions = LinearFunctions(covariates.dim, outputs, **options)
    return RegressionTask(
        covariates,
        functions,
        context_length=n,
        noise=GaussianNoise(noise),
        distractors=Distractors(*distractors),
    )


def spd(seed, dim, condition=10.0):
    """A covariance with eigenvalues between 1 and `condition`, its axes at random."""
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    matrix = (axes * np.geomspace(1, condition, dim)) @ axes.T
    return (matrix + matrix.T) / 2


def simulated_risk(learner, task, prompts=100_000):
    return risk(learner, task, jax.random.key(11), prompts=prompts)


def in_double(layer):
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), layer)


# The formula for Gaussians


@pytest.mark.parametrize(
    ("d", "n", "m", "noise"), [(1, 1, 1, 0.5), (1, 4, 2, 0.0), (3, 1, 1, 0.0), (5, 2, 3, 0.7), (4, 9, 1, 0.3), (40, 7, 1, 0.2)]
)  # fmt: skip
def test_gaussian_inputs_and_weights_have_the_preconditioner_of_the_formula(d, n, m, noise):
    sigma, prior = spd(d, d), spd(d + 1, d)
    best = optimal_layer(
        linear(Gaussian(d, covariance=sigma), m, n=n, noise=noise, covariance=prior)
    )
    with_labels = n * prior @ sigma
    squares = n * (n + 1) * sigma @ prior @ sigma + n * (np.trace(sigma @ prior) + noise) * sigma
    expected = with_labels @ np.linalg.inv(squares)
    np.testing.assert_allclose(
        best.descent_preconditioner, expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max()
    )
    assert best.risk == pytest.approx(
        m * (np.trace(sigma @ prior) + noise - np.trace(expected @ with_labels.T @ sigma)),
        rel=1e-10,
    )
    assert best.implements == ("gradient-descent" if d == 1 else "preconditioned-gradient-descent")
    assert best.certificate.proves_optimality and best.certificate.method == "exact"
    assert best.standard_errors == best.certificate.standard_errors == {}
    assert (best.step_size is None) == (d > 1)


@pytest.mark.parametrize(
    ("n", "d", "noise"), [(10, 10, 0.0), (1, 1, 0.5), (3, 8, 0.2), (20, 40, 1.0)]
)
def test_isotropic_gaussians_have_the_step_size_of_mahankali_et_al(n, d, noise):
    best = optimal_layer(linear(Gaussian(d), n=n, noise=noise))
    assert best.implements == "gradient-descent"
    assert best.step_size == pytest.approx(n / (n + d + 1 + noise), rel=1e-11)
    assert best.step_size == pytest.approx(isotropic_step_size(d, n, noise), rel=1e-11)
    np.testing.assert_allclose(best.preconditioner, best.step_size / n * np.eye(d), rtol=1e-15)
    assert best.risk == pytest.approx(
        one_step_risk(linear(Gaussian(d), n=n, noise=noise)).best_risk, rel=1e-11
    )


def test_a_prior_that_undoes_the_covariance_gives_its_inverse():
    sigma = spd(2, 5)
    best = optimal_layer(
        linear(Gaussian(5, covariance=sigma), n=3, noise=0.4, covariance=np.linalg.inv(sigma))
    )
    np.testing.assert_allclose(
        best.preconditioner, np.linalg.inv(sigma) / (3 + 5 + 1 + 0.4), rtol=1e-9
    )


# The bound, and brute force


SYMMETRIC = linear(Uniform(2, 1.5), n=3, noise=0.2, covariance=[[1.0, 0.3], [0.3, 0.5]])
WITH_MEAN = linear(
    Gaussian(2, covariance=[[1.0, 0.4], [0.4, 0.5]]),
    n=4,
    noise=0.1,
    mean=[[1.0, 0.5]],
    covariance=[[0.5, 0.1], [0.1, 0.3]],
)
MEAN_2 = linear(
    Exponential(2),
    2,
    n=3,
    noise=0.2,
    mean=[[0.6, 0.0], [0.2, -0.4]],
    covariance=[[0.5, 0.0], [0.0, 0.2]],
)
LOPSIDED = linear(
    Uniform(2, 1.5),
    n=4,
    distractors=(2, 0.5),
    mean=[[0.7, -0.9]],
    covariance=[[0.2, 0.0], [0.0, 0.4]],
)


@functools.cache
def searched(outputs):
    """One compiled function: risk of a layer with one head, and its slope, from flat factors."""
    size = 2 + outputs

    @jax.jit
    @jax.value_and_grad
    def of(flat, moments):
        W_Q, W_K, W_V, P = flat.reshape(4, 1, 1, size, size)
        return population_risk(
            LinearTransformer(Factors(W_Q, W_K, W_V, P), layers=1, outputs=outputs), moments
        )

    return of


@pytest.mark.parametrize("task", [SYMMETRIC, WITH_MEAN, slow(MEAN_2), slow(LOPSIDED)], ids=["symmetric", "mean", "mean, m = 2", "distractors"])  # fmt: skip
def test_minimising_over_the_weights_finds_the_stated_risk_and_never_less_than_the_bound(task):
    moments = exact_moments(task)
    best = optimal_layer(task, moments)
    of, size = searched(task.outputs), 2 + task.outputs
    found = []
    with jax.enable_x64(True):
        for seed in range(12):
            start = 0.5 * np.random.default_rng(seed).normal(size=4 * size**2)
            end = scipy.optimize.minimize(
                lambda flat: tuple(np.asarray(out, np.float64) for out in of(jnp.asarray(flat), moments)),
                start, jac=True, method="L-BFGS-B", options={"maxiter": 3000, "ftol": 1e-15, "gtol": 1e-10},
            )  # fmt: skip
            found.append(end.fun)
    found = np.array(found)
    assert np.all(found > best.certificate.lower_bound - 1e-9)
    assert found.min() == pytest.approx(best.risk, rel=1e-6)
    assert np.all(found > best.risk * (1 - 1e-7))  # no start finds what the search has missed
    assert best.certificate.gap == pytest.approx(
        best.risk - best.certificate.lower_bound, abs=1e-12
    )
    assert best.certificate.proves_optimality == (task is SYMMETRIC)


@pytest.mark.parametrize("task", [WITH_MEAN, slow(MEAN_2)], ids=["m = 1", "m = 2"])
def test_enough_heads_attain_the_bound(task):
    """Γ_k = -Σ_h sym(b_hk ⊗ A_h): D heads for each output, head c with b = e_c, write any symmetric matrix."""
    moments = exact_moments(task)
    d, m = 2, task.outputs
    size = d + m
    gamma, _ = best_linear(moments.second, moments.cross, moments.query)
    matrices = smat(np.moveaxis(gamma, 0, -1), size)  # r, m, D, D, in z = R^-1 x
    to_z = np.eye(size)
    to_z[:d, :d] = np.linalg.inv(moments.inputs)
    A, B = np.zeros((2, 1, m * size, size, size))
    for k in range(m):
        for c in range(size):
            head = k * size + c
            B[0, head, d + k] = to_z[c]
            A[0, head, :, :d] = -to_z.T @ matrices[:, k, c].T @ to_z[:d, :d]
    with jax.enable_x64(True):
        layer = compiled(
            LinearTransformer.from_effective, jnp.asarray(A), jnp.asarray(B), layers=1, outputs=m
        )
    assert layer_risk(layer, moments) == pytest.approx(lower_bound(moments), rel=1e-10)
    assert optimal_layer(task, moments).risk > 1.001 * lower_bound(moments)


@pytest.mark.slow
def test_a_least_squares_fit_on_prompts_has_a_risk_near_the_bound():
    for task in (SYMMETRIC, WITH_MEAN):
        prompts, targets = eqx.filter_jit(lambda t, k: t.sample(k, (400_000,)))(
            task, jax.random.key(0)
        )
        tokens = np.concatenate([prompts.xs, prompts.ys], -1).astype(np.float64)
        s = svec(tokens.swapaxes(1, 2) @ tokens)
        features = (s[:, :, None] * np.asarray(prompts.query, np.float64)[:, None]).reshape(
            len(s), -1
        )
        y = np.asarray(targets, np.float64)[:, 0]
        half = len(y) // 2  # fitted on one half, measured on the other
        weights = np.linalg.lstsq(
            features[:half].T @ features[:half], features[:half].T @ y[:half], rcond=1e-12
        )[0]
        errors = (y - features @ weights)[half:] ** 2
        bound = lower_bound(exact_moments(task))
        assert abs(errors.mean() - bound) < 4.5 * errors.std() / np.sqrt(half) + 1e-3 * bound


# The risk of any layer

LAYER_TASKS = {
    "m = 2, distractors": linear(
        Uniform(3), 2, n=4, noise=0.3, distractors=(1, 0.6), mean=0.4 * np.ones((2, 3))
    ),
    "exponential": linear(Exponential(3, 0.6), 2, n=3, noise=0.1, covariance=spd(1, 3, 3.0)),
    "gaussian": linear(
        Gaussian(3, covariance=spd(4, 3, 4.0)), 2, n=2, mean=[[1.0, 0.0, 0.2], [0.0, -0.5, 0.1]]
    ),
}


@pytest.mark.parametrize(
    "name",
    ["exponential", *(slow(name) for name in LAYER_TASKS if name != "exponential")],
)
def test_the_exact_risk_of_a_random_layer_lies_in_the_interval_of_a_simulation(name):
    task = LAYER_TASKS[name]
    start = jnp.asarray(0.3 * np.random.default_rng(1).normal(size=(2, 3)), jnp.float32)
    options = {"heads": 3, "init_scale": 0.4, "initial_weights": start, "key": jax.random.key(2)}
    layer = LinearTransformer.initialise(3, 2, **options)
    exact = layer_risk(layer, exact_moments(task))
    simulated = simulated_risk(layer, task)
    assert abs(float(simulated.value) - exact) < 4.5 * float(simulated.standard_error)
    still = layer_risk(
        eqx.tree_at(lambda t: t.weights.P, layer, replace_fn=jnp.zeros_like), exact_moments(task)
    )
    assert abs(exact - still) > 5 * float(simulated.standard_error)  # the layer does something
    assert still == pytest.approx(
        one_step_risk(task, np.asarray(start, np.float64)).null_risk, rel=1e-12
    )


@pytest.mark.parametrize(
    "name",
    ["m = 2, distractors", *(slow(name) for name in LAYER_TASKS if name != "m = 2, distractors")],
)
@pytest.mark.parametrize("started", [False, True])
def test_the_construction_has_the_exact_risk_of_one_step(name, started):
    task, step_size = LAYER_TASKS[name], 0.4
    start = np.array([[0.5, -0.3, 0.1], [0.2, 0.7, 0.0]]) if started else None
    with jax.enable_x64(True):
        learner = GradientDescent(jnp.asarray(step_size), initial_weights=start)
        sizes = {"dim": 3, "outputs": 2, "context_length": task.context_length}
        layer = compiled(gradient_descent_transformer, learner, **sizes)
    assert layer_risk(layer, exact_moments(task)) == pytest.approx(
        one_step_risk(task, start).at(step_size), rel=1e-12
    )


@pytest.mark.slow
def test_one_step_from_a_start_with_a_prior_mean_and_distractors_lies_in_the_interval_of_a_simulation():
    task = LAYER_TASKS["m = 2, distractors"]
    start = np.array([[0.5, -0.3, 0.1], [0.2, 0.7, 0.0]])
    theory = one_step_risk(task, start)
    step_size = 1.3 * theory.best_step_size
    learner = GradientDescent(step_size, initial_weights=jnp.asarray(start, jnp.float32))
    simulated = simulated_risk(learner, task)
    assert abs(float(simulated.value) - theory.at(step_size)) < 4.5 * float(
        simulated.standard_error
    )
    assert theory.best_risk < theory.at(step_size)


def test_a_prior_of_zero_needs_no_step_and_a_start_that_is_none_gets_a_sentence():
    task = linear(Gaussian(2), n=3, covariance=np.zeros((2, 2)))
    assert (
        one_step_risk(task).best_step_size,
        one_step_risk(task).best_risk,
        optimal_layer(task).risk,
    ) == (0, 0, 0)
    with pytest.raises(InputError, match=r"initial_weights.*finite"):
        one_step_risk(task, np.full((1, 2), np.nan))


def test_the_gradient_of_the_risk_is_that_of_finite_differences():
    moments = exact_moments(LAYER_TASKS["gaussian"])
    with jax.enable_x64(True):
        start = jnp.asarray(0.3 * np.random.default_rng(1).normal(size=(2, 3)))
        layer = in_double(
            LinearTransformer.initialise(3, 2, heads=2, init_scale=0.3, key=jax.random.key(3))
        )
        layer = eqx.tree_at(
            lambda t: t.initial_weights, layer, start, is_leaf=lambda leaf: leaf is None
        )
        flat, unravel = jax.flatten_util.ravel_pytree(layer)
        of = jax.jit(jax.value_and_grad(lambda flat: population_risk(unravel(flat), moments)))
        slope = of(flat)[1]
        for seed in range(8):
            along = np.random.default_rng(seed).normal(size=flat.shape)
            ahead, behind = (of(flat + sign * 1e-5 * along)[0] for sign in (1, -1))
            assert float((ahead - behind) / 2e-5) == pytest.approx(float(slope @ along), rel=1e-6)


def test_the_risk_is_known_for_one_layer_of_the_tasks_size():
    moments = exact_moments(SYMMETRIC)
    for dim, outputs, layers in ((2, 1, 2), (3, 1, 1), (2, 2, 1)):
        layer = LinearTransformer.initialise(dim, outputs, layers=layers, key=jax.random.key(0))
        with pytest.raises(InputError, match=f"layers={layers}, dim={dim} and outputs={outputs}"):
            layer_risk(layer, moments)


# What it implements


@pytest.mark.slow
def test_a_prior_mean_makes_it_another_learner_and_the_layer_has_the_stated_risk():
    for task in (WITH_MEAN, MEAN_2):
        best = optimal_layer(task)
        assert best.implements == "other" and best.preconditioner is None and best.step_size is None
        assert best.certificate.lower_bound < best.risk < best.descent_risk < best.null_risk
        assert not best.certificate.proves_optimality and "more heads" in best.certificate.meaning
        assert certify(task) == best.certificate
        assert layer_risk(best.layer(), exact_moments(task)) == pytest.approx(
            best.risk, rel=1e-5
        )  # float32 weights
    simulated = simulated_risk(best.layer(), task)
    assert abs(float(simulated.value) - best.risk) < 4.5 * float(simulated.standard_error)


@pytest.mark.parametrize(
    "task",
    [
        SYMMETRIC,
        linear(Sphere(3), n=2),
        linear(Laplace(3, 0.5), 2, n=5, noise=0.3, distractors=(2, 1.0)),
        linear(Gaussian(3, covariance=spd(0, 3)), 2, n=4, covariance=spd(1, 3)),
        linear(Exponential(2), n=4, noise=0.5),
    ],
    ids=["uniform", "sphere", "laplace, m = 2", "gaussian, m = 2", "exponential"],
)
def test_symmetric_tasks_are_descent_with_a_proof_and_the_layer_has_the_stated_risk(task):
    best = optimal_layer(task)
    assert (
        best.certificate.proves_optimality and "no weights of one layer" in best.certificate.meaning
    )
    isotropic = isinstance(task.covariates, Sphere | Laplace)
    assert best.implements == (
        "gradient-descent" if isotropic else "preconditioned-gradient-descent"
    )
    P = best.preconditioner
    with jax.enable_x64(True):
        learner = GradientDescent(
            jnp.asarray(float(task.context_length)), preconditioner=jnp.asarray(P).T
        )
        sizes = {"dim": task.dim, "outputs": task.outputs, "context_length": task.context_length}
        layer = compiled(gradient_descent_transformer, learner, **sizes)
    assert layer_risk(layer, exact_moments(task)) == pytest.approx(best.risk, rel=1e-10)
    same = best.gradient_descent()
    np.testing.assert_allclose(
        same.preconditioner, learner.step_size * learner.preconditioner, rtol=1e-6
    )
    assert layer_risk(best.layer(), exact_moments(task)) == pytest.approx(best.risk, rel=1e-5)
    assert layer_risk(best.layer(), task) == layer_risk(best.layer(), exact_moments(task))
    assert best.descent_risk == best.risk


def test_the_best_step_of_plain_descent_is_that_of_the_exact_risk():
    task = linear(Uniform(3, 0.5), n=6, noise=0.1)
    best, theory = optimal_layer(task), one_step_risk(task)
    assert best.step_size == pytest.approx(theory.best_step_size, rel=1e-11)
    assert best.risk == pytest.approx(theory.best_risk, rel=1e-11)


def test_reprs_show_numbers_and_sizes_on_short_lines():
    task = linear(Gaussian(3), n=4, noise=0.1)
    best, step = optimal_layer(task), one_step_risk(task)
    simulated = optimal_layer(task, simulated_moments(task, relative_error=0.3))
    for result in (step, best, simulated):
        assert f"null_risk={result.null_risk!r}" in repr(result)
        assert "np." not in repr(result)
        lines = repr(result).splitlines()
        assert len(lines) <= 30 and max(map(len, lines)) <= 80
    assert "context_length=4" in repr(step)
    assert f"lower_bound={best.certificate.lower_bound!r}" in repr(best)
    assert "A=f64[4,4](numpy)" in repr(best)


def test_a_certificate_proves_up_to_its_tolerance():
    within, beyond = (Certificate(2.0, gap, "simulation", 0.1, {}) for gap in (0.05, 0.5))
    assert within.proves_optimality and "within four standard errors" in within.meaning
    assert not beyond.proves_optimality and "0.5 above the bound, 25.00% of it" in beyond.meaning
    assert (
        "%" not in Certificate(-1e-16, 0.5, "exact", 1e-9, {}).meaning
    )  # a share of rounding says nothing


# Covariances that are singular, or nearly


def test_a_singular_covariance_is_the_task_of_lower_dimension():
    axes, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(4, 4)))
    low = linear(
        Gaussian(2, covariance=np.diag([1.0, 3.0])),
        n=3,
        noise=0.2,
        covariance=[[1.0, 0.4], [0.4, 2.0]],
    )
    prior = np.eye(4)
    prior[:2, :2] = low.functions.covariance
    turned = (axes * [1.0, 3.0, 0.0, 0.0]) @ axes.T
    high = linear(
        Gaussian(4, covariance=(turned + turned.T) / 2),
        n=3,
        noise=0.2,
        covariance=axes @ prior @ axes.T,
    )
    with pytest.warns(ConditionWarning, match="rank 2 of 4, condition number 3"):
        best = optimal_layer(high)
    expected = optimal_layer(low)
    assert best.risk == pytest.approx(expected.risk, rel=1e-10)
    assert best.certificate.proves_optimality
    np.testing.assert_allclose(
        axes.T @ best.preconditioner @ axes,
        np.pad(expected.preconditioner, (0, 2)),
        rtol=1e-8,
        atol=1e-10,
    )


@pytest.mark.parametrize("smallest", [1e-9, 1e-12])
def test_a_nearly_singular_covariance_has_the_risk_of_the_same_task_in_better_units(smallest):
    units = np.diag([1.0, np.sqrt(smallest)])
    prior = np.array([[1.0, 0.3], [0.3, 0.5]])
    to_prior = np.linalg.inv(units)
    near = linear(
        Gaussian(2, covariance=units @ units),
        n=3,
        noise=0.2,
        covariance=to_prior @ prior @ to_prior,
    )
    with pytest.warns(ConditionWarning, match=r"condition number 1e\+"):
        best = optimal_layer(near)
    expected = optimal_layer(linear(Gaussian(2), n=3, noise=0.2, covariance=prior))
    assert best.risk == pytest.approx(expected.risk, rel=1e-9)
    assert best.certificate.lower_bound == pytest.approx(expected.risk, rel=1e-9)
    np.testing.assert_allclose(
        units @ best.preconditioner @ units, expected.preconditioner, rtol=1e-6
    )
    with pytest.warns(ConditionWarning):  # a mean of the prior, and a search
        other = optimal_layer(linear(Gaussian(2, covariance=units @ units), n=3, mean=[[1.0, 0.0]]))
    assert other.risk == pytest.approx(
        optimal_layer(linear(Gaussian(2), n=3, mean=[[1.0, 0.0]], covariance=units @ units)).risk,
        rel=1e-7,
    )


class Doubled(Covariates):
    """Two coordinates that are one."""

    def sample(self, key, shape=()):
        return jnp.repeat(jax.random.normal(key, (*shape, 1)), 2, axis=-1)

    def second_moment(self):
        return np.ones((2, 2))

    def fourth_moment(self, weight):
        return 3 * weight.sum() * np.ones((2, 2))


def test_own_covariates_that_depend_on_each_other_are_warned_about_and_right():
    with pytest.warns(ConditionWarning, match="rank 1 of 2"):
        best = optimal_layer(linear(Doubled(2), n=3, noise=0.3))
    assert best.risk == pytest.approx(
        optimal_layer(linear(Gaussian(1), n=3, noise=0.3, scale=2**0.5)).risk, rel=1e-10
    )


# Simulated families


@functools.cache
def networks():
    task = RegressionTask(
        Gaussian(3), TwoLayerNetworks(3, hidden=4), context_length=4, noise=GaussianNoise(0.1)
    )
    return task, optimal_layer(task, relative_error=0.01, key=jax.random.key(1))


def test_relu_networks_are_one_step_of_gradient_descent_with_standard_errors():
    _, best = networks()
    assert best.implements == "gradient-descent" and best.certificate.method == "simulation"
    assert (
        best.certificate.proves_optimality
        and abs(best.certificate.gap) <= best.certificate.tolerance
    )
    assert set(best.standard_errors) >= {"risk", "null_risk", "preconditioner", "step_size"}
    assert set(best.certificate.standard_errors) == {"lower_bound", "gap"}
    assert 0 < best.standard_errors["risk"] <= 0.011 * best.risk
    assert np.allclose(best.preconditioner, best.step_size / 4 * np.eye(3))


@pytest.mark.slow
def test_the_simulated_optimum_has_the_risk_of_its_step_on_fresh_prompts():
    task, best = networks()
    simulated = simulated_risk(GradientDescent(best.step_size), task)
    error = np.hypot(float(simulated.standard_error), best.standard_errors["risk"])
    assert abs(float(simulated.value) - best.risk) < 5 * error
    relu_null = task.functions.scale**2 / 2 + 0.1  # E φ(u)² = 1/2 for u ~ N(0, |x|²/d), E|x|² = d
    assert abs(best.null_risk - relu_null) < 6 * best.standard_errors["null_risk"]


def test_a_symmetry_that_functions_do_not_have_is_found_out():
    lopsided = CustomFunctions(
        2, lambda key, x: (1 + 0.5 * jax.random.normal(key, (2,))) @ x, sign_symmetric=True
    )
    with pytest.raises(InputError, match=r"sign_symmetric.*CustomFunctions"):
        optimal_layer(RegressionTask(Gaussian(2), lopsided, context_length=2), relative_error=0.03)


@pytest.mark.slow
def test_outputs_that_ask_for_different_preconditioners_are_no_broken_symmetry():
    """The second output is even in x: no use of s, so that its P is 0 and one head has a P for the first alone."""

    def both(key, x):
        first, second = jax.random.split(key)
        return jnp.stack(
            [jax.random.normal(first, (1,)) @ x, 3 * jax.random.normal(second) * x[0] ** 2]
        )

    task = RegressionTask(
        Gaussian(1), CustomFunctions(1, both, 2, sign_symmetric=True), context_length=4
    )
    best = optimal_layer(task, relative_error=0.02)
    assert best.implements == "other" and best.risk < best.descent_risk
    assert best.certificate.proves_optimality


# The Bayes risk


def closed_form_in_one_dimension(n, noise, prior):
    """σ² + E[λ σ² / (σ² + λ g)], g ~ χ²_n."""
    value, _ = scipy.integrate.quad(
        lambda g: scipy.stats.chi2.pdf(g, n) * prior * noise / (noise + prior * g),
        0,
        np.inf,
        epsabs=1e-13,
    )
    return noise + value


@pytest.mark.parametrize(
    ("n", "noise", "prior", "scale"), [(1, 0.5, 1.0, 1.0), (3, 0.1, 2.0, 0.7), (2, 0.05, 0.3, 2.0)]
)
def test_the_bayes_risk_in_one_dimension(n, noise, prior, scale):
    found = bayes_risk(
        linear(Gaussian(1, scale), n=n, noise=noise, covariance=[[prior]]), relative_error=3e-3
    )
    exact = closed_form_in_one_dimension(n, noise, prior * scale**2)
    assert abs(found.value - exact) < 4.5 * found.standard_error
    assert found.standard_error <= 3e-3 * found.value


@pytest.mark.parametrize("noise", [0.0, 1e-12, 1e-16])
def test_without_noise_the_bayes_risk_is_what_the_context_leaves_open(noise):
    assert bayes_risk(linear(Gaussian(5), 2, n=3, noise=noise)).value == pytest.approx(
        2 * (5 - 3), rel=1e-9
    )
    assert bayes_risk(linear(Gaussian(4), n=5, noise=noise)).value == pytest.approx(0, abs=1e-5)
    assert bayes_risk(linear(Gaussian(4), n=5)).value == 0
    assert bayes_risk(linear(Sphere(4), n=4)).value == 0


def with_noise(covariates, noise, *, n, **options):
    functions = LinearFunctions(covariates.dim, **options)
    return RegressionTask(covariates, functions, context_length=n, noise=noise)


def drawn_risk(task, contexts, seed=0):
    """The Bayes risk by brute force in float64: every context drawn, the posterior of each from its rows."""
    xs = np.asarray(
        task.covariates.sample(jax.random.key(seed), (contexts, task.context_length + 1)),
        np.float64,
    )
    growth = getattr(task.noise, "growth", 0.0)
    variances = task.noise.variance * (1 + growth * np.mean(xs**2, axis=-1))
    prior = task.functions.row_covariance()
    risks = np.empty(contexts)
    for i, (x, v) in enumerate(zip(xs, variances, strict=True)):
        X, q = x[:-1], x[-1]
        gain = prior @ X.T @ np.linalg.inv(X @ prior @ X.T + np.diag(v[:-1]))
        risks[i] = task.outputs * (q @ (prior - gain @ X @ prior) @ q + v[-1])
    return risks.mean(), risks.std() / contexts**0.5


DRAWN = {
    "gaussian, n > d": linear(
        Gaussian(3, covariance=spd(5, 3)), 2, n=7, noise=0.3, covariance=spd(6, 3)
    ),
    "gaussian, singular": linear(Gaussian(3, covariance=np.diag([1.0, 2.0, 0.0])), n=4, noise=0.3),
    "uniform": linear(Uniform(3), n=5, noise=0.2),
    "heteroscedastic": with_noise(
        Gaussian(3, covariance=spd(5, 3)), HeteroscedasticNoise(0.3, 2.0), n=7
    ),
    "heteroscedastic, n < d": with_noise(
        Exponential(3), HeteroscedasticNoise(0.3, 0.5), n=2, covariance=spd(6, 3)
    ),
}


@pytest.mark.parametrize(
    "name", ["heteroscedastic", *(slow(name) for name in DRAWN if name != "heteroscedastic")]
)
def test_the_bayes_risk_is_that_of_contexts_drawn_one_by_one(name, monkeypatch):
    task = DRAWN[name]
    expected, error = drawn_risk(task, 20_000)
    found = bayes_risk(task, key=jax.random.key(1))
    assert abs(found.value - expected) < 4.5 * np.hypot(error, found.standard_error)
    assert found.standard_error <= 1e-3 * found.value
    # the same from contexts in pieces of few examples
    monkeypatch.setattr(bayes, "MOST_NUMBERS", 300)
    pieces = bayes_risk(task, key=jax.random.key(2), relative_error=4e-3)
    assert abs(pieces.value - expected) < 4.5 * np.hypot(error, pieces.standard_error)


def test_heteroscedastic_noise_in_one_dimension_by_quadrature():
    """One example: E[v] + E[x²] E[λ v(x) / (v(x) + λ x²)]."""

    def variance(x):
        return 0.4 * (1 + 1.5 * x**2)

    value, _ = scipy.integrate.quad(
        lambda x: scipy.stats.norm.pdf(x) * 2 * variance(x) / (variance(x) + 2 * x**2), -10, 10
    )
    task = with_noise(Gaussian(1), HeteroscedasticNoise(0.4, 1.5), n=1, covariance=[[2.0]])
    found = bayes_risk(task)
    assert abs(found.value - (0.4 * 2.5 + value)) < 4.5 * found.standard_error


def test_the_bayes_risk_of_a_million_examples_takes_little_time_and_memory():
    task = linear(Gaussian(10), n=1_000_000, noise=0.5)
    tracemalloc.start()
    begin = time.perf_counter()
    found = bayes_risk(task)
    assert time.perf_counter() - begin < 5
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    # E tr(W^-1) of a Wishart matrix is d / (n - d - 1); the next order is below rounding here
    assert found.value == pytest.approx(0.5 * (1 + 10 / (1_000_000 - 11)), rel=1e-9)


BAYES = {
    "gaussian": linear(Gaussian(3, covariance=spd(5, 3)), 2, n=2, noise=0.3, covariance=spd(6, 3)),
    "exponential, a mean": linear(
        Exponential(3), n=4, noise=0.5, covariance=spd(7, 3), mean=[[2.0, 0.0, -1.0]]
    ),
}


@pytest.mark.parametrize("name", [next(iter(BAYES)), *(slow(name) for name in list(BAYES)[1:])])
def test_the_bayes_risk_is_that_of_bayesian_regression_and_below_the_optimal_layer(name):
    task = BAYES[name]
    mean = task.functions.mean
    learner = BayesianRegression(
        jnp.asarray(task.functions.covariance, jnp.float32),
        task.noise.variance,
        prior_mean=None if mean is None else jnp.asarray(mean, jnp.float32),
    )
    simulated, exact = simulated_risk(learner, task), bayes_risk(task)
    error = np.hypot(float(simulated.standard_error), exact.standard_error)
    assert abs(float(simulated.value) - exact.value) < 4.5 * error
    assert exact.value < lower_bound(exact_moments(task))


@pytest.mark.slow
def test_bayesian_regression_with_an_isotropic_prior_is_ridge():
    task = linear(Gaussian(3), 2, n=5, noise=0.4, scale=1.5)
    with jax.enable_x64(True):
        prompts = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64), task.sample(jax.random.key(0), (32,))[0]
        )
        bayes, ridge = BayesianRegression(2.25 * jnp.eye(3), 0.4), Ridge(0.4 / 2.25)
        np.testing.assert_allclose(jax.vmap(bayes)(prompts), jax.vmap(ridge)(prompts), rtol=1e-10)


def test_no_bayes_risk_for_other_tasks():
    for task, keyword in (
        (networks()[0], "functions.*TwoLayerNetworks"),
        (linear(Gaussian(2), n=3, distractors=(1, 1.0)), "distractors"),
        (with_noise(Gaussian(2), LaplaceNoise(0.3), n=3), "noise.*LaplaceNoise"),
    ):
        with pytest.raises(InputError, match=keyword):
            bayes_risk(task)


# Properties


@settings(max_examples=25, deadline=None)
@given(
    d=st.integers(1, 4), m=st.integers(1, 2), n=st.integers(1, 6), noise=st.sampled_from([0.0, 0.3, 20.0]),
    scale=st.sampled_from([1e-3, 1.0, 30.0]), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_the_risk_does_not_depend_on_the_frame_and_lies_between_the_bound_and_nothing(
    d, m, n, noise, scale, seed
):
    """x -> s T x with W -> W T^-1 / s is the same task."""
    rng = np.random.default_rng(seed)
    sigma, prior = spd(seed, d), spd(seed + 1, d)
    T = np.linalg.qr(rng.normal(size=(d, d)))[0] * rng.uniform(0.5, 2, size=d)
    back = np.linalg.inv(T)
    here = linear(Gaussian(d, covariance=sigma), m, n=n, noise=noise, covariance=prior)
    turned, of_prior = T @ sigma @ T.T, back.T @ prior @ back / scale**2
    there = linear(
        Gaussian(d, scale, covariance=(turned + turned.T) / 2), m, n=n, noise=noise, covariance=(of_prior + of_prior.T) / 2
    )  # fmt: skip
    best, same = optimal_layer(here), optimal_layer(there)
    assert best.risk == pytest.approx(same.risk, rel=1e-9)
    np.testing.assert_allclose(
        scale**2 * T.T @ same.descent_preconditioner @ T,
        best.descent_preconditioner,
        rtol=1e-6,
        atol=1e-9,
    )
    assert best.certificate.lower_bound - 1e-9 * best.null_risk <= best.risk <= best.null_risk
    assert best.certificate.proves_optimality


@settings(max_examples=8, deadline=None)
@given(n=st.integers(1, 5), m=st.integers(1, 2), k=st.integers(0, 2), seed=st.integers(0, 10**6))
@pytest.mark.slow
def test_with_a_prior_mean_the_risk_lies_between_the_bound_and_the_best_step(n, m, k, seed):
    mean = np.random.default_rng(seed).normal(size=(m, 2))
    best = optimal_layer(
        linear(Exponential(2), m, n=n, noise=0.2, distractors=(min(k, n), 0.5), mean=mean), starts=2
    )
    assert 0 < best.certificate.lower_bound <= best.risk * (1 + 1e-9)
    assert best.risk <= best.descent_risk * (1 + 1e-12) and best.descent_risk <= best.null_risk


# The saddle of docs/pages/theory/plateaus.md


@pytest.mark.parametrize("d", [2, 3])
def test_the_rank_one_reading_is_a_saddle_without_slope_or_negative_curvature(d):
    """y in the keys, x in the values: W_K reads y, W_Q and W_V read a direction v, P writes to minus the label."""
    task = linear(Gaussian(d), n=4, noise=0.1)
    moments = exact_moments(task)
    v = np.random.default_rng(0).normal(size=d)
    v /= np.linalg.norm(v)
    size = d + 1
    e, label = np.eye(size)[0], np.eye(size)[d]
    direction = np.append(v, 0.0)

    def layer(c):
        return (
            c * np.outer(e, direction),
            np.outer(e, label),
            np.outer(e, direction),
            -np.outer(label, e),
        )

    def of(flat):
        W_Q, W_K, W_V, P = flat.reshape(4, 1, 1, size, size)
        return population_risk(LinearTransformer(Factors(W_Q, W_K, W_V, P), layers=1), moments)

    with jax.enable_x64(True):
        risk_at = jax.jit(of)
        flat = lambda c: jnp.asarray(np.stack(layer(c)).ravel())  # noqa: E731
        at = [float(risk_at(flat(c))) for c in (0.0, 1.0, -1.0)]  # a parabola in c
        c = (at[2] - at[1]) / (2 * (at[1] + at[2] - 2 * at[0]))
        least = float(risk_at(flat(c)))
        slope, hessian = (
            np.asarray(part(flat(c))) for part in (jax.jit(jax.grad(of)), jax.jit(jax.hessian(of)))
        )
    best = optimal_layer(task, moments)
    assert least < at[0]
    assert (moments.null_risk - least) == pytest.approx(
        (moments.null_risk - best.risk) / d, rel=1e-9
    )
    assert np.abs(slope).max() < 1e-12
    eigenvalues = np.linalg.eigvalsh(hessian)
    assert eigenvalues[0] > -1e-10 * eigenvalues[-1] and eigenvalues[-1] > 0.1
