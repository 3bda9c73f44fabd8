"""Reference learners against NumPy, SciPy, optimality conditions, enumeration and each other."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.spatial.distance
import scipy.special
import scipy.stats
import sklearn.linear_model
from compiled import compiled
from compiled import mapped as mapped_program
from hypothesis import given, settings
from hypothesis import strategies as st

from mesalens import GradientDescent, InputError, LeastSquares, Prompt, Ridge, kinds
from mesalens._precision import in_precision
from mesalens.learners import (
    CentredDescent,
    ConstantPrediction,
    DiscreteBayes,
    KernelRidge,
    KernelSmoother,
    KNearestNeighbours,
    Lasso,
    MeanLabel,
    OnlineDescent,
    PrincipalComponentRegression,
    SoftmaxHead,
    WeightedRidge,
    WithIntercept,
)
from mesalens.learners.base import predict, predict_iterates

n, d, m = 9, 4, 2
BATCH = 6
SEEDS = st.integers(0, 10_000)
FEW = settings(max_examples=10, deadline=None)


def prompt_of(seed, shape=(n, d, m)) -> Prompt:
    n, d, m = shape
    rng = np.random.default_rng(seed)
    return Prompt(rng.normal(size=(n, d)), rng.normal(size=(n, m)), rng.normal(size=d))


def batch_of(seed, shape=(n, d, m)) -> Prompt:
    return stacked(*(prompt_of(seed + i, shape) for i in range(BATCH)))


def stacked(*trees):
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *trees)


def arrays(prompts):
    """The context's inputs and labels and the query of each prompt of a batch, in NumPy."""
    yield from zip(
        *(np.asarray(part) for part in (prompts.xs, prompts.ys, prompts.query)), strict=True
    )


def in_float64(learner):
    """With arrays in the place of numbers, so that one program serves all their values."""
    return in_precision(
        jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float) else leaf, learner),
        jnp.float64,
    )


def mapped(learner, prompts):
    return mapped_program(in_float64(learner), prompts)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def agree(learner, prompts, expected, rtol=1e-9, atol=1e-11):
    """The learner's predictions are those of a function of inputs, labels and query."""
    predictions = mapped(learner, prompts)
    wanted = [expected(*prompt) for prompt in arrays(prompts)]
    np.testing.assert_allclose(predictions, wanted, rtol=rtol, atol=atol)


RNG = np.random.default_rng(0)
POOL = RNG.normal(size=(5, m, d))
PRIOR = RNG.normal(size=5)
START = RNG.normal(size=(m, d))

MAKE = {  # each with its continuous parameters
    "constant": (ConstantPrediction, {"value": 0.3}),
    "mean label": (MeanLabel, {}),
    "centred": (lambda **each: CentredDescent(steps=3, **each), {"step_size": 0.3}),
    "components": (lambda: PrincipalComponentRegression(2), {}),
    "discrete": (DiscreteBayes, {"pool": POOL, "noise_variance": 0.5, "log_prior": PRIOR}),
    "kernel ridge": (KernelRidge, {"penalty": 0.2, "bandwidth": 1.5}),
    "smoother": (KernelSmoother, {"bandwidth": 1.5}),
    "neighbours": (lambda: KNearestNeighbours(3), {}),
    "lasso": (Lasso, {"penalty": 0.1}),
    "weighted": (WeightedRidge, {"penalty": 0.2, "decay": 0.8}),
    "online": (OnlineDescent, {"step_size": 0.1, "initial_weights": START}),
    "intercept": (lambda penalty: WithIntercept(Ridge(penalty)), {"penalty": 0.3}),
}
LEARNERS = {name: make(**parameters) for name, (make, parameters) in MAKE.items()}
IN_ORDER = {"weighted", "online"}


# What holds for all


@pytest.mark.parametrize("name", LEARNERS)
def test_a_batch_is_a_loop_and_order_matters_where_it_is_meant_to(name):
    prompts, learner = batch_of(0), in_float64(LEARNERS[name])
    together = mapped(learner, prompts)
    assert together.shape == (BATCH, m)
    last = jax.tree.map(lambda leaf: leaf[-1], prompts)
    alone = compiled(learner, last)
    np.testing.assert_allclose(together[-1], alone, rtol=1e-10, atol=1e-12)
    reverse = Prompt(last.xs[::-1], last.ys[::-1], last.query)
    unchanged = np.allclose(compiled(learner, reverse), alone, rtol=1e-8)
    assert unchanged is (name not in IN_ORDER)


@pytest.mark.parametrize("name", LEARNERS)
def test_learners_that_say_so_see_the_sum_alone(name):
    learner, prompt = in_float64(LEARNERS[name]), prompt_of(1)
    if not learner.sees_only_sum:
        with pytest.raises(InputError, match="condensed"):
            predict(learner, prompt.condense())
        return
    condensed = compiled(predict, learner, prompt.condense())
    np.testing.assert_allclose(condensed, compiled(learner, prompt), rtol=1e-8)


@pytest.mark.parametrize("name", MAKE)
def test_derivatives_are_finite_and_those_of_differences(name):
    make, parameters = MAKE[name]
    parameters = jax.tree.map(np.asarray, parameters)
    ordinary = prompt_of(2)
    nothing = jax.tree.map(jnp.zeros_like, ordinary)
    twice = Prompt(ordinary.xs.at[1].set(ordinary.xs[0]), ordinary.ys, ordinary.xs[0])
    rng = np.random.default_rng(3)
    direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), (parameters, ordinary))
    prompts, parameters = stacked(ordinary, nothing, twice), stacked(*3 * [parameters])

    @jax.jit
    @jax.vmap
    def predicted(values, prompt):
        return make(**values)(prompt)

    @jax.jit
    @jax.vmap
    def slopes(values, prompt):
        slope = jax.jvp(lambda *each: make(**each[0])(each[1]), (values, prompt), direction)[1]
        back = jax.grad(lambda *each: make(**each[0])(each[1]).sum(), argnums=(0, 1))
        return slope, back(values, prompt)

    slope, back = slopes(parameters, prompts)
    less, more = (
        predicted(
            *jax.tree.map(lambda x, v, h=h: np.asarray(x) + h * v, (parameters, prompts), direction)
        )
        for h in (-1e-6, 1e-6)
    )
    difference = (more - less) / 2e-6
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((slope, back)))
    np.testing.assert_allclose(slope[0], difference[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", sorted(LEARNERS.keys() - {"lasso"}))
def test_float32_is_enough(name):
    prompts, learner = batch_of(0), LEARNERS[name]
    exact = mapped(learner, prompts)
    rounded = mapped_program(*in_precision((in_float64(learner), prompts), jnp.float32))
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("learner", "most"), [(PrincipalComponentRegression, d), (KNearestNeighbours, n)]
)
def test_one_program_serves_all_integers(learner, most):
    prompt = prompt_of(5)
    static = [compiled(learner(k), prompt) for k in (2, most)]
    traced = jax.jit(jax.vmap(lambda k: learner(k)(prompt)))(jnp.arange(1, most + 4))
    np.testing.assert_allclose(traced[np.array([1, most - 1])], static, rtol=1e-12)
    np.testing.assert_allclose(traced[most:], np.broadcast_to(static[-1], (3, m)), rtol=1e-12)
    np.testing.assert_allclose(compiled(learner(jnp.array(2)), prompt), static[0], rtol=1e-12)


# Each formula


def test_constants_are_those_given():
    prompts = batch_of(6)
    agree(ConstantPrediction(2), prompts, lambda *_: np.full(m, 2.0))
    agree(ConstantPrediction([1.0, -2.0]), prompts, lambda *_: np.array([1.0, -2.0]))
    agree(MeanLabel(), prompts, lambda xs, ys, _: ys.mean(axis=0))


def test_centred_descent_follows_the_gradient_of_its_loss():
    prompts, step_sizes = batch_of(7), np.array([0.3, 0.1, 0.2])

    def loss(weights, xs, ys):
        residuals = (xs - xs.mean(axis=0)) @ weights.T - ys
        return jnp.sum(residuals**2) / (2 * n)

    slope = jax.jit(jax.grad(loss))

    def descended(xs, ys, query):
        weights = START
        for step_size in step_sizes:
            weights = weights - step_size * slope(weights, xs, ys)
        return weights @ query

    agree(CentredDescent(step_sizes, 3, initial_weights=START), prompts, descended)


@given(SEEDS)
@FEW
def test_centred_descent_is_descent_on_centred_prompts_whatever_is_added_to_labels(seed):
    prompt = prompt_of(seed)
    centred = Prompt(prompt.xs - prompt.xs.mean(0), prompt.ys - prompt.ys.mean(0), prompt.query)
    shifted = Prompt(prompt.xs, prompt.ys + 3.0, prompt.query)
    expected = compiled(GradientDescent(0.2, 4).trajectory, centred)
    for each in (prompt, shifted):
        trajectory = compiled(CentredDescent(0.2, 4).trajectory, each)
        np.testing.assert_allclose(trajectory, expected, rtol=1e-9, atol=1e-12)


def test_the_limit_of_centred_descent_has_the_slopes_of_least_squares_with_an_intercept():
    def slopes(xs, ys, query):
        return query @ np.linalg.lstsq(np.column_stack([xs, np.ones(n)]), ys)[0][:d]

    agree(CentredDescent(0.3, 3000), batch_of(8), slopes, rtol=1e-6)


def test_least_squares_with_an_intercept_has_a_column_of_ones():
    def fitted(xs, ys, query):
        weights = np.linalg.lstsq(np.column_stack([xs, np.ones(n)]), ys)[0]
        return np.append(query, 1) @ weights

    agree(WithIntercept(LeastSquares()), batch_of(9), fitted)


@pytest.mark.parametrize(
    ("algorithm", "theirs"),
    [
        (Ridge(0.7), sklearn.linear_model.Ridge(0.7)),
        (Lasso(0.1), sklearn.linear_model.Lasso(0.1, tol=1e-12, max_iter=100_000)),
    ],
    ids=["ridge", "lasso"],
)
def test_an_intercept_has_no_penalty_as_in_scikit_learn(algorithm, theirs):
    def fitted(xs, ys, query):
        return [theirs.fit(xs, y).predict(query[None])[0] for y in ys.T]

    agree(WithIntercept(algorithm), batch_of(10), fitted, rtol=1e-6)


@given(SEEDS)
@FEW
def test_with_an_intercept_predictions_follow_labels_and_ignore_a_shift_of_inputs(seed):
    prompt, learner = prompt_of(seed), in_float64(WithIntercept(Ridge(0.4)))
    shifted = Prompt(prompt.xs + 2.0, prompt.ys - 3.0, prompt.query + 2.0)
    np.testing.assert_allclose(
        compiled(learner, shifted) + 3.0, compiled(learner, prompt), rtol=1e-9, atol=1e-10
    )


@pytest.mark.parametrize("components", range(1, d + 1))
def test_principal_components_are_least_squares_in_the_span_of_eigenvectors(components):
    def restricted(xs, ys, query):
        axes = scipy.linalg.eigh(xs.T @ xs)[1][:, -components:]
        return query @ axes @ np.linalg.lstsq(xs @ axes, ys)[0]

    agree(PrincipalComponentRegression(components), batch_of(9), restricted)


def test_all_components_are_least_squares_and_those_of_rounding_are_left_out():
    few = batch_of(10, (3, d, m))
    for prompts in (batch_of(10), few):
        expected = mapped(LeastSquares(), prompts)
        found = mapped(PrincipalComponentRegression(d), prompts)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    repeated = few.xs[:, [0, 1, 2, 0, 1, 2]], few.ys[:, [0, 1, 2, 2, 1, 0]]
    agree(
        PrincipalComponentRegression(d),
        Prompt(*repeated, few.query),
        lambda xs, ys, query: query @ np.linalg.pinv(xs, rcond=1e-10) @ ys,
    )


def test_principal_components_of_equal_size_have_derivatives():
    # Rows of ±1 that are orthogonal, scaled so that the two that are kept are equal
    xs = scipy.linalg.hadamard(4) * np.array([3.0, 3.0, 1.0, 1.0])
    prompt = Prompt(xs, prompt_of(11, (4, d, m)).ys, np.ones(d))
    change = np.random.default_rng(11).normal(size=xs.shape)

    @jax.jit
    def predicted(xs):
        return PrincipalComponentRegression(2)(Prompt(xs, prompt.ys, prompt.query))

    slope = jax.jvp(predicted, (prompt.xs,), (jnp.asarray(change),))[1]
    difference = (predicted(xs + 1e-6 * change) - predicted(xs - 1e-6 * change)) / 2e-6
    np.testing.assert_allclose(slope, difference, rtol=1e-6)


def test_the_filter_of_principal_components_is_its_prediction():
    def filtered(xs, ys, query):
        eigenvalues, axes = np.linalg.eigh(xs.T @ xs / n)
        gains = PrincipalComponentRegression(2).spectral_filter(eigenvalues, n)
        return query @ axes @ np.diag(gains) @ axes.T @ xs.T @ ys / n

    agree(PrincipalComponentRegression(2), batch_of(11), filtered)


def test_discrete_bayes_enumerates_the_pool():
    def enumerated(xs, ys, query):
        densities = [
            scipy.stats.norm(xs @ W.T, 0.5**0.5).logpdf(ys).sum() + log
            for W, log in zip(POOL, PRIOR, strict=True)
        ]
        p = np.exp(densities - scipy.special.logsumexp(densities))
        return sum(p_j * W @ query for p_j, W in zip(p, POOL, strict=True))

    learner = DiscreteBayes(POOL, 0.5, log_prior=PRIOR)
    agree(learner, batch_of(12), enumerated)
    posterior = compiled(learner.posterior, prompt_of(12))
    np.testing.assert_allclose(posterior.sum(), 1, rtol=1e-12)


def test_discrete_bayes_between_the_prior_mean_and_the_best_fit():
    prior = np.exp(PRIOR) / np.exp(PRIOR).sum()
    mean = np.tensordot(prior, POOL, axes=1)
    prompts = batch_of(13)
    agree(DiscreteBayes(POOL, 1e12, log_prior=PRIOR), prompts, lambda x, y, q: mean @ q, rtol=1e-8)

    def best(xs, ys, query):
        errors = [np.sum((ys - xs @ W.T) ** 2) for W in POOL]
        return POOL[np.argmin(errors)] @ query

    agree(DiscreteBayes(POOL, 1e-12), prompts, best)
    rows = POOL[:, 0]  # weights of one output may be given as rows
    np.testing.assert_array_equal(DiscreteBayes(rows, 0.5).pool, rows[:, None])


def gaussian_kernel(xs, others, bandwidth):
    distances = scipy.spatial.distance.cdist(np.atleast_2d(xs), others, "sqeuclidean")
    return np.exp(-distances / (2 * bandwidth**2))


def test_kernel_ridge_solves_its_system():
    def solved(xs, ys, query):
        gram = gaussian_kernel(xs, xs, 1.5) + 0.2 * np.eye(n)
        return (gaussian_kernel(query, xs, 1.5) @ np.linalg.inv(gram) @ ys)[0]

    agree(KernelRidge(0.2, 1.5), batch_of(14), solved)


def test_kernel_ridge_interpolates_and_forgets_far_away_and_steps_from_zero():
    prompt = prompt_of(15)
    seen = Prompt(prompt.xs, prompt.ys, prompt.xs[2])
    np.testing.assert_allclose(
        compiled(in_float64(KernelRidge(1e-10, 1.0)), seen), prompt.ys[2], atol=1e-6
    )
    far = Prompt(prompt.xs, prompt.ys, prompt.query + 100)
    np.testing.assert_array_equal(compiled(in_float64(KernelRidge(0.1, 1.0)), far), 0)
    step = gaussian_kernel(np.asarray(prompt.query), prompt.xs, 1.0)[0] @ prompt.ys
    np.testing.assert_allclose(
        1e8 * compiled(in_float64(KernelRidge(1e8, 1.0)), prompt), step, rtol=1e-6
    )


def test_the_smoother_is_a_weighted_mean_and_runs_from_the_nearest_label_to_the_mean():
    def smoothed(xs, ys, query):
        return np.average(ys, axis=0, weights=gaussian_kernel(query, xs, 0.7)[0])

    prompts = batch_of(16)
    agree(KernelSmoother(0.7), prompts, smoothed)
    nearest, mean = mapped(KNearestNeighbours(1), prompts), mapped(MeanLabel(), prompts)
    np.testing.assert_allclose(mapped(KernelSmoother(1e-3), prompts), nearest, rtol=1e-9)
    np.testing.assert_allclose(mapped(KernelSmoother(1e6), prompts), mean, rtol=1e-6, atol=1e-9)


@given(SEEDS)
@FEW
def test_on_a_sphere_and_only_there_the_smoother_is_that_of_inner_products(seed):
    prompt = prompt_of(seed)
    lengths = jnp.linalg.norm(prompt.xs, axis=1, keepdims=True)
    on_sphere = Prompt(2 * prompt.xs / lengths, prompt.ys, prompt.query)
    for each, same in ((on_sphere, True), (prompt, False)):
        distance = compiled(in_float64(KernelSmoother(0.5)), each)
        product = compiled(in_float64(SoftmaxHead(1 / 0.5**2)), each)
        assert np.allclose(distance, product, rtol=1e-8, atol=1e-10) is same


@pytest.mark.parametrize("k", [1, 3, n])
def test_neighbours_are_found_by_sorting(k):
    def nearest(xs, ys, query):
        order = np.argsort(scipy.spatial.distance.cdist([query], xs)[0])
        return ys[order[:k]].mean(axis=0)

    prompts = batch_of(17)
    agree(KNearestNeighbours(k), prompts, nearest)
    if k == n:
        found = mapped(KNearestNeighbours(n), prompts)
        np.testing.assert_allclose(found, mapped(MeanLabel(), prompts), rtol=1e-12)


def test_of_equally_near_examples_the_earlier_one_is_taken():
    xs = np.array([[3.0], [1.0], [-1.0], [1.0]])
    prompt = Prompt(xs, np.arange(4.0)[:, None], np.zeros(1))
    taken = jax.jit(jax.vmap(lambda k: KNearestNeighbours(k)(prompt)[0]))(np.arange(1, 5))
    np.testing.assert_allclose(taken, [1, 1.5, 2, 1.5])


# The lasso

SPARSE = (20, 20, m)  # as many examples as inputs: badly conditioned


def sparse_batch(seed, shape=SPARSE):
    rng = np.random.default_rng(seed)
    n, d, m = shape
    weights = rng.normal(size=(BATCH, m, d)) * (rng.random((BATCH, m, d)) < 0.3)
    xs = rng.normal(size=(BATCH, n, d))
    ys = np.einsum("bnd,bmd->bnm", xs, weights) + 0.3 * rng.normal(size=(BATCH, n, m))
    return Prompt(xs, ys, rng.normal(size=(BATCH, d)))


@pytest.mark.parametrize("shape", [SPARSE, (6, 12, m)], ids=["square", "wide"])
def test_the_lasso_meets_the_conditions_of_its_minimum(shape):
    prompts = sparse_batch(18, shape)
    for penalty in (0.1, 0.01, 0.001)[: 3 if shape[0] >= shape[1] else 2]:
        found = np.asarray(mapped_program(Lasso(jnp.asarray(penalty)).weights, prompts))
        residuals = prompts.ys - np.einsum("bnd,bmd->bnm", prompts.xs, found)
        slopes = np.einsum("bnm,bnd->bmd", residuals, prompts.xs) / shape[0]
        active = found != 0
        np.testing.assert_allclose(slopes[active], penalty * np.sign(found[active]), rtol=1e-6)
        assert np.abs(slopes[~active]).max() <= penalty * (1 + 1e-9)
        assert penalty < 0.1 or 0.1 < np.mean(~active) < 0.95


def test_the_lasso_is_that_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    prompts = sparse_batch(19)
    found = mapped_program(Lasso(jnp.asarray(0.01)).weights, prompts)
    for (xs, ys, _), weights in zip(arrays(prompts), found, strict=True):
        model = linear_model.Lasso(0.01, fit_intercept=False, tol=1e-14, max_iter=100_000)
        np.testing.assert_allclose(weights, model.fit(xs, ys).coef_, rtol=1e-5, atol=1e-7)


def test_the_lasso_is_the_minimum_that_scipy_finds():
    def minimised(xs, y, query):
        def objective(halves):
            residuals = xs @ (halves[:d] - halves[d:]) - y
            slope = xs.T @ residuals / n
            value = residuals @ residuals / (2 * n) + 0.1 * halves.sum()
            return value, np.concatenate([slope, -slope]) + 0.1

        start, bounds = np.full(2 * d, 0.1), [(0, None)] * (2 * d)
        options = {"ftol": 1e-15, "gtol": 1e-12, "maxiter": 10_000}
        found = scipy.optimize.minimize(
            objective, start, jac=True, bounds=bounds, method="L-BFGS-B", options=options
        )
        return query @ (found.x[:d] - found.x[d:])

    def each_output(xs, ys, query):
        return [minimised(xs, y, query) for y in ys.T]

    agree(Lasso(0.1), batch_of(20), each_output, rtol=1e-5, atol=1e-6)


def test_the_lasso_in_float32_has_the_accuracy_that_it_states():
    prompts = sparse_batch(21)
    exact = mapped_program(Lasso(jnp.asarray(0.01)).weights, prompts)
    rounded = mapped_program(
        Lasso(jnp.asarray(0.01, jnp.float32)).weights, in_precision(prompts, jnp.float32)
    )
    errors = np.linalg.norm(rounded - exact, axis=-1) / np.linalg.norm(exact, axis=-1)
    assert np.median(errors) < 2e-6 and errors.max() < 2e-4


def test_the_lasso_from_least_squares_to_nothing():
    prompts = batch_of(22)
    least = mapped(LeastSquares(), prompts)
    np.testing.assert_allclose(mapped(Lasso(1e-9), prompts), least, rtol=1e-6)
    nothing = Prompt(0 * prompts.xs, prompts.ys, prompts.query)
    for each in (prompts, nothing):
        largest = jnp.abs(jnp.einsum("bnm,bnd->bmd", each.ys, each.xs)).max() / n
        np.testing.assert_array_equal(mapped(Lasso(largest + 1e-9), each), 0)


# Where the order counts


def test_weighted_ridge_is_ridge_on_rows_that_are_scaled():
    def solved(xs, ys, query):
        roots = 0.8 ** (np.arange(n)[::-1, None] / 2)
        stacked = np.vstack([roots * xs, 0.3**0.5 * np.eye(d)])
        return query @ np.linalg.lstsq(stacked, np.vstack([roots * ys, np.zeros((d, m))]))[0]

    agree(WeightedRidge(0.3, 0.8), batch_of(23), solved)


@given(SEEDS)
@FEW
def test_weighted_ridge_from_ridge_to_the_last_example(seed):
    prompt = prompt_of(seed)
    last = Prompt(prompt.xs[-1:], prompt.ys[-1:], prompt.query)
    for decay, same in ((1.0, prompt), (1e-14, last)):
        found = compiled(in_float64(WeightedRidge(0.3, decay)), prompt)
        np.testing.assert_allclose(found, compiled(in_float64(Ridge(0.3)), same), rtol=1e-8)


def test_online_descent_is_a_loop_over_examples():
    def looped(xs, ys, query):
        weights = START
        for x, y in zip(xs, ys, strict=True):
            weights = weights - 0.1 * np.outer(weights @ x - y, x)
        return weights @ query

    learner, prompts = OnlineDescent(0.1, initial_weights=START), batch_of(24)
    agree(learner, prompts, looped)
    prompt = prompt_of(24)
    iterates = compiled(predict_iterates, learner, prompt)
    assert iterates.shape == (n + 1, m)
    for i in (0, 1, 5, n):
        first = (np.asarray(part[:i]) for part in (prompt.xs, prompt.ys))
        np.testing.assert_allclose(iterates[i], looped(*first, prompt.query), rtol=1e-9)


def test_online_descent_fits_each_example_at_step_size_one_over_its_length_and_starts_as_descent():
    prompt = prompt_of(25)
    lengths = jnp.linalg.norm(prompt.xs, axis=1, keepdims=True)
    fitted = Prompt(prompt.xs / lengths, prompt.ys, (prompt.xs / lengths)[-1])
    np.testing.assert_allclose(
        compiled(in_float64(OnlineDescent(1.0)), fitted), prompt.ys[-1], rtol=1e-9
    )
    step = compiled(in_float64(GradientDescent(n * 1e-7)), prompt)
    np.testing.assert_allclose(compiled(in_float64(OnlineDescent(1e-7)), prompt), step, rtol=1e-4)
    one = prompt_of(25, (1, d, m))
    np.testing.assert_allclose(
        compiled(in_float64(OnlineDescent(0.3)), one),
        compiled(in_float64(GradientDescent(0.3)), one),
        rtol=1e-12,
    )


def test_what_training_changes():
    assert ConstantPrediction(1).trainable().value is True
    online = OnlineDescent(1, initial_weights=START).trainable()
    assert (online.step_size, online.initial_weights) == (True, False)
    assert KNearestNeighbours(jnp.array(2)).trainable().neighbours is False


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("nearest-neighbours", {"neighbours": "3"}),
        ("principal-components", {"components": "2"}),
        ("constant", {"value": "0.5"}),
        ("discrete-bayes", {"pool": POOL[:, 0].tolist(), "noise_variance": "0.5"}),
        ("lasso", {"penalty": "0.1"}),
    ],
)
def test_they_are_built_from_words_of_the_command_line(name, given):
    learner = kinds.build("learner", {"kind": name, **given}, dim=d, outputs=1)
    assert jax.eval_shape(learner, prompt_of(26, (n, d, 1))).shape == (1,)


PROMPT = (4, 3, 2)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ConstantPrediction(np.ones((2, 2))), r"value .*\(2, 2\)"),
        (lambda: ConstantPrediction(np.nan), "value .*nan"),
        (lambda: ConstantPrediction(np.ones(3))(prompt_of(0, PROMPT)), r"value .*\(2,\).*\(3,\)"),
        (lambda: CentredDescent(0.1, 0), "steps .*0"),
        (lambda: WithIntercept(3), "algorithm .*Learner.* int"),
        (lambda: PrincipalComponentRegression(0), "components .*0"),
        (lambda: PrincipalComponentRegression(1.5), "components .*1.5"),
        (lambda: PrincipalComponentRegression(jnp.array(0)), "components .*0"),
        (lambda: PrincipalComponentRegression(4)(prompt_of(0, PROMPT)), "components .*3.*4"),
        (lambda: DiscreteBayes(np.ones(3), 0.1), r"pool .*\(3,\)"),
        (lambda: DiscreteBayes(np.ones((0, 1, 3)), 0.1), r"pool .*\(0, 1, 3\)"),
        (lambda: DiscreteBayes(np.full((1, 1, 3), np.inf), 0.1), "pool .*inf"),
        (lambda: DiscreteBayes(POOL, 0.0), "noise_variance .*0.0"),
        (lambda: DiscreteBayes(POOL, 0.1, log_prior=np.zeros(4)), r"log_prior .*\(5,\).*\(4,\)"),
        (lambda: DiscreteBayes(POOL, 0.1)(prompt_of(0, PROMPT)), r"pool .*\(5, 2, 3\)"),
        (lambda: KernelRidge(0.0, 1.0), "penalty .*0.0"),
        (lambda: KernelRidge(1.0, -1.0), "bandwidth .*-1.0"),
        (lambda: KernelSmoother(0.0), "bandwidth .*0.0"),
        (lambda: KNearestNeighbours(0), "neighbours .*0"),
        (lambda: KNearestNeighbours(5)(prompt_of(0, PROMPT)), "neighbours .*4.*5"),
        (lambda: Lasso(-0.1), "penalty .*-0.1"),
        (lambda: WeightedRidge(0.0, 0.5), "penalty .*0.0"),
        (lambda: WeightedRidge(0.1, 0.0), "decay .*0.0"),
        (lambda: WeightedRidge(0.1, 1.5), "decay .*-0.5"),
        (lambda: OnlineDescent(np.ones(2)), r"step_size .*\(2,\)"),
        (lambda: OnlineDescent(np.inf), "step_size .*inf"),
        (lambda: OnlineDescent(0.1, initial_weights=np.ones(3)), r"initial_weights .*\(3,\)"),
        (
            lambda: OnlineDescent(0.1, initial_weights=np.ones((1, 3)))(prompt_of(0, PROMPT)),
            r"initial_weights .*\(2, 3\).*\(1, 3\)",
        ),
    ],
)
def test_bad_input_gets_a_sentence(make, sentence, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for a user
    with pytest.raises(InputError, match=sentence):
        make()
