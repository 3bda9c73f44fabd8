"""Tasks whose prompts share more than a Gaussian function: pools, mixtures, correlated inputs, and their exact theory."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesalens import InputError, LinearTransformer, random, train
from mesalens.analysis import risk
from mesalens.cli import main
from mesalens.models import DescentStep, Factors, LinearBlock
from mesalens.tasks import (
    CondensedTask,
    Distractors,
    Exponential,
    FinitePool,
    Gaussian,
    GaussianNoise,
    LaplaceNoise,
    LinearFunctions,
    Mixture,
    RandomMean,
    RegressionTask,
    Retrieved,
    TwoLayerNetworks,
    Uniform,
)
from mesalens.theory import (
    best_preconditioner,
    best_started_step,
    has_exact_moments,
    layer_risk,
    linear_moments,
    lower_bound,
    mean_weights,
    mixture_moments,
    no_descriptor_limit,
    one_step_risk,
    one_step_risk_from,
    optimal_layer,
    preconditioned_risk,
    retrieval_risk,
    risk_at_length,
    shared_moments,
    simulated_moments,
    task_moments,
)
from mesalens.theory._shared_moments import isserlis
from mesalens.theory.symmetric import svec

KEY = jax.random.key(0)
exactly = {"rtol": 1e-9, "atol": 1e-10}
RNG = np.random.default_rng(0)
W = RNG.normal(size=(4, 3))
SIZES = [(3, 1, 4), (2, 2, 3), (1, 1, 1), (1, 2, 5)]
"""d, m and n."""


def regression(covariates, functions, n=4, noise=0.1):
    noise = noise if not isinstance(noise, float) else GaussianNoise(noise)
    return RegressionTask(covariates, functions, context_length=n, noise=noise)


def alike(found, expected, **tolerance):
    """Whether two sets of moments are the same."""
    for name in ("inputs", "query", "target", "mean", "second", "cross", "null_risk"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), err_msg=name, **(tolerance or exactly)
        )


def prior(d, m, seed=0):
    """A Gaussian prior with a mean and a covariance."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(d, d))
    return LinearFunctions(d, m, covariance=root @ root.T, mean=rng.normal(size=(m, d)))


# Moments of pools and of correlated inputs


@pytest.mark.parametrize(("d", "m", "n"), SIZES)
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("kind", [Gaussian, Exponential])
def test_moments_of_a_pool_are_the_mean_of_those_of_its_functions(kind, size, d, m, n):
    pool = FinitePool(d, m, size=size, pool_seed=d)
    task = regression(kind(d), pool, n, LaplaceNoise(0.3))
    each = [LinearFunctions(d, m, mean=w, covariance=np.zeros((d, d))) for w in pool.matrices()]
    parts = [linear_moments(dataclasses.replace(task, functions=f)) for f in each]
    alike(task_moments(task), mixture_moments(parts, np.full(size, 1 / size)))


@pytest.mark.parametrize(("d", "m", "n"), SIZES)
@pytest.mark.parametrize(
    "inputs", [lambda d: Retrieved(d, relevance=0.0), lambda d: RandomMean(d, mean_variance=0.0)]
)
def test_inputs_without_correlation_have_the_moments_of_independent_ones(inputs, d, m, n):
    correlated = shared_moments(regression(inputs(d), prior(d, m), n))
    independent = linear_moments(regression(Gaussian(d), prior(d, m), n))
    alike(correlated, independent)
    product = np.einsum("pq,rs->prqs", independent.second, independent.query)
    np.testing.assert_allclose(correlated.joint.second, product, **exactly)
    product = np.multiply.outer(independent.mean, independent.query)
    np.testing.assert_allclose(correlated.joint.mean, product, **exactly)


@pytest.mark.parametrize(
    "inputs", [Retrieved(1, relevance=0.6, scale=1.5), RandomMean(1, mean_variance=0.7)]
)
def test_moments_of_correlated_inputs_are_those_of_a_quadrature(inputs):
    """d = m = 1, n = 2: every variable has the Gauss-Hermite rule of degree 7, and none has more than 6."""
    task = regression(inputs, LinearFunctions(1, mean=np.array([[0.4]])), 2, 0.3)
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    grid = np.array(list(itertools.product(nodes, repeat=6)))
    shares = np.prod(list(itertools.product(weights / weights.sum(), repeat=6)), axis=1)
    w, u, z1, z2, e1, e2 = grid.T
    w = w + 0.4
    if isinstance(inputs, Retrieved):  # u is the query
        query, spread = 1.5 * u, 1.5 * 0.8
        xs = np.stack([0.6 * query + spread * z1, 0.6 * query + spread * z2])
        targets = (shares, query, w)
    else:  # u is the mean; the query has a draw of its own, which takes the place of e2's
        return _with_own_query(task, grid, shares)
    ys = w * xs + np.sqrt(0.3) * np.stack([e1, e2])
    _holds(task_moments(task), xs, ys, *targets)


def _with_own_query(task, grid, shares):
    """Without noise, so that there are six variables again: w, μ, z_1, z_2, z_q."""
    task = dataclasses.replace(task, noise=GaussianNoise(0.0))
    w, u, z1, z2, zq, _ = grid.T
    w, mean = w + 0.4, np.sqrt(0.7) * u
    xs = np.stack([mean + z1, mean + z2])
    _holds(task_moments(task), xs, w * xs, shares, mean + zq, w)


def _holds(moments, xs, ys, shares, query, w):
    z = moments.inputs[0, 0]
    tokens = np.stack([xs / z, ys], axis=-1)
    s = svec(np.einsum("inab,inac->nbc", tokens[:, :, None], tokens[:, :, None]))
    query_z, target = query / z, w * query
    np.testing.assert_allclose(moments.mean, shares @ s, **exactly)
    np.testing.assert_allclose(moments.second, np.einsum("n,np,nq->pq", shares, s, s), **exactly)
    np.testing.assert_allclose(
        moments.cross[:, 0, 0], np.einsum("n,np,n,n->p", shares, s, query_z, target), **exactly
    )
    np.testing.assert_allclose(moments.target[0, 0], shares @ (query_z * target), **exactly)
    joint = np.einsum("n,np,nq,n->pq", shares, s, s, query_z**2)
    np.testing.assert_allclose(moments.joint.second[:, 0, :, 0], joint, **exactly)
    np.testing.assert_allclose(
        moments.joint.mean[:, 0, 0], np.einsum("n,np,n->p", shares, s, query_z**2), **exactly
    )


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize(
    "inputs", [Retrieved(2), RandomMean(2, mean_variance=0.5), RandomMean(2, descriptor=True)]
)
def test_the_exact_risk_on_correlated_inputs_lies_in_the_interval_of_a_simulation(inputs, m):
    task = regression(inputs, prior(2, m))
    layer = LinearTransformer.initialise(2, m, heads=2, init_scale=0.05, key=KEY)
    simulated = risk(layer, task, jax.random.key(1), prompts=200_000)
    exact = layer_risk(layer, task_moments(task))
    assert abs(simulated.value - exact) < 4 * simulated.standard_error


def test_pairings_give_the_moments_of_a_normal():
    one = {(0, 0): np.eye(1) * 2.0}
    assert [isserlis((0,) * k, one).item() for k in (2, 4, 6)] == [2.0, 3 * 2.0**2, 15 * 2.0**3]


def test_a_pool_may_be_given_and_is_drawn_from():
    pool = FinitePool.of(W)
    xs = jnp.eye(3)[None].repeat(500, 0)
    drawn = pool(KEY, xs)[..., 0]
    assert {tuple(row) for row in np.round(np.asarray(drawn), 5).tolist()} == {
        tuple(row) for row in np.round(W.astype(np.float32), 5).tolist()
    }
    with pytest.raises(InputError, match=r"weights.*\(2, 1, 3\)"):
        FinitePool(3, size=2, weights=W)
    with pytest.raises(InputError, match="finite"):
        FinitePool.of(W * np.nan)
    with pytest.raises(InputError, match=r"size.*memory"):
        FinitePool(3, size=2**31 - 1, outputs=1000)


# Mixtures


MIXED = Mixture(
    (
        regression(Gaussian(3, covariance=np.diag([1.0, 2.0, 0.5])), prior(3, 1)),
        regression(Uniform(3), FinitePool.of(W)),
        regression(Retrieved(3), LinearFunctions(3)),
    ),
    [0.3, 0.5, 0.2],
)


@pytest.mark.parametrize("structure", [Factors.initialise, LinearBlock.initialise])
def test_the_risk_on_a_mixture_is_the_mean_of_those_on_its_components(structure):
    layer = LinearTransformer.initialise(3, structure=structure, init_scale=0.3, key=KEY)
    each = [layer_risk(layer, task_moments(component)) for component in MIXED.components]
    expected = MIXED.probabilities @ np.array(each)
    np.testing.assert_allclose(layer_risk(layer, task_moments(MIXED)), expected, **exactly)


def test_prompts_of_a_mixture_have_its_risk():
    layer = LinearTransformer.initialise(3, init_scale=0.3, key=KEY)
    simulated = risk(layer, MIXED, jax.random.key(2), prompts=100_000)
    assert (
        abs(simulated.value - layer_risk(layer, task_moments(MIXED))) < 4 * simulated.standard_error
    )


def test_components_share_examples_and_query():
    zero, one = FinitePool.of(np.zeros((1, 3))), FinitePool.of(np.ones((1, 3)))
    both = Mixture([regression(Gaussian(3), f, noise=0.0) for f in (zero, one)], [0.25, 0.75])
    prompts, targets = both.sample(KEY, (2000,))
    of_one = np.asarray(targets[:, 0] != 0)
    assert abs(of_one.mean() - 0.75) < 0.04
    assert np.array_equal(of_one, np.asarray((prompts.ys[..., 0] != 0).all(-1)))


def test_a_mixture_of_one_task_is_the_task():
    task = regression(Gaussian(3), prior(3, 1))
    alike(task_moments(Mixture([task])), task_moments(task))
    assert optimal_layer(Mixture([task])).risk == optimal_layer(task).risk


def test_a_mixture_has_joint_moments_only_where_queries_differ():
    noisy = Mixture([regression(Gaussian(3), prior(3, 1), noise=s) for s in (0.0, 2.0)])
    assert task_moments(noisy).joint is None
    assert task_moments(MIXED).joint is not None


def test_with_simulated_components_a_mixture_has_standard_errors():
    networks = regression(Gaussian(2), TwoLayerNetworks(2))
    moments = task_moments(
        Mixture([networks, regression(Gaussian(2), LinearFunctions(2))]), relative_error=0.05
    )
    assert moments.method == "simulation"
    assert optimal_layer(Mixture([networks]), relative_error=0.05).standard_errors["risk"] > 0


@pytest.mark.parametrize(
    ("components", "probabilities", "keywords"),
    [
        ((), None, "at least one task"),
        (
            (
                regression(Gaussian(2), LinearFunctions(2)),
                regression(Gaussian(3), LinearFunctions(3)),
            ),
            None,
            "same sizes",
        ),
        ((regression(Gaussian(2), LinearFunctions(2)),) * 2, [0.5, 0.6], "add to 1.*1.1"),
        ((regression(Gaussian(2), LinearFunctions(2)),) * 2, [1.5, -0.5], "positive"),
        ((regression(Gaussian(2), LinearFunctions(2)),) * 2, [1.0], "one for each component"),
    ],
)
def test_mixtures_that_are_none_get_a_sentence(components, probabilities, keywords):
    with pytest.raises(InputError, match=keywords):
        Mixture(components, probabilities)


# The optimum


@pytest.mark.parametrize(
    "task",
    [
        MIXED,
        regression(RandomMean(2, mean_variance=0.7), prior(2, 2)),
        regression(Gaussian(3), FinitePool.of(W)),
    ],
)
def test_the_optimum_has_its_risk_and_random_layers_are_not_below_the_bound(task):
    best, moments = optimal_layer(task), task_moments(task)
    assert best.certificate.method == "exact"
    np.testing.assert_allclose(layer_risk(best.layer(), moments), best.risk, rtol=1e-9)
    assert best.certificate.lower_bound <= best.risk + 1e-9
    P = best.descent_preconditioner
    np.testing.assert_allclose(preconditioned_risk(P, moments), best.descent_risk, rtol=1e-9)
    rng = np.random.default_rng(1)
    for _ in range(5):  # a least: every other step has more risk
        other = P + 0.05 * np.abs(P).max() * rng.normal(size=P.shape)
        assert preconditioned_risk(other, moments) > best.descent_risk


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("relevance", [0.0, 0.5, 1.0])
def test_retrieval_has_the_risk_of_the_formula_and_the_step_is_the_best_layer(d, n, relevance):
    task = regression(Retrieved(d, relevance=relevance), LinearFunctions(d), n, 0.2)
    formula, best = retrieval_risk(d, n, relevance, 0.2), optimal_layer(task)
    step = one_step_risk_from(task_moments(task), n)
    for name in ("null_risk", "gain", "cost"):
        np.testing.assert_allclose(getattr(step, name), getattr(formula, name), **exactly)
    np.testing.assert_allclose(best.risk, formula.best_risk, rtol=1e-9)
    assert best.certificate.proves_optimality


def test_without_relevance_retrieval_is_the_plain_step():
    plain = one_step_risk(regression(Gaussian(4), LinearFunctions(4), 7, 0.3))
    np.testing.assert_allclose(
        retrieval_risk(4, 7, 0.0, 0.3).best_risk, plain.best_risk, rtol=1e-12
    )
    with pytest.raises(InputError, match=r"relevance.*1.5"):
        retrieval_risk(4, 7, 1.5)


@pytest.mark.parametrize(("d", "variance"), [(1, 0.3), (5, 1.0)])
def test_the_limit_without_a_descriptor_is_that_of_long_contexts(d, variance):
    task = regression(RandomMean(d, mean_variance=variance), LinearFunctions(d), 10**7, 0.0)
    moments = task_moments(task)
    np.testing.assert_allclose(
        best_preconditioner(moments)[1], no_descriptor_limit(d, variance), rtol=1e-5
    )
    np.testing.assert_allclose(lower_bound(moments), best_preconditioner(moments)[1], rtol=1e-9)


def test_the_limit_without_a_descriptor_is_the_number_of_the_atlas():
    assert no_descriptor_limit(5, 1.0) == pytest.approx(4.3181818, abs=1e-7)
    assert no_descriptor_limit(3, 0.0) == pytest.approx(0.0, abs=1e-12)


def test_reading_the_mean_takes_the_risk_to_zero():
    reads = np.diag([1.0, 1.0, 0.0, 0.0])
    risks = []
    for n in (10, 1000):
        task = regression(
            RandomMean(4, descriptor=True), LinearFunctions(4, covariance=reads), n, 0.0
        )
        risks.append(optimal_layer(task).risk)
    assert risks[1] < 0.02 * no_descriptor_limit(2, 1.0) < risks[0]


# A start


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), d=st.integers(1, 4), n=st.integers(1, 9))
def test_the_best_started_step_is_that_of_the_formula(seed, d, n):
    rng = np.random.default_rng(seed)
    H, Psi = (m @ m.T + 0.1 * np.eye(d) for m in rng.normal(size=(2, d, d)))
    beta, noise = rng.normal(size=(1, d)), 0.3
    task = regression(
        Gaussian(d, covariance=H), LinearFunctions(d, covariance=Psi, mean=beta), n, noise
    )
    step, signal = best_started_step(task), H @ Psi
    gamma = Psi @ np.linalg.inv((n + 1) / n * signal + (np.trace(signal) + noise) / n * np.eye(d))
    np.testing.assert_allclose(step.initial_weights, beta, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(n * step.preconditioner, gamma, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(
        step.risk, noise + np.trace(signal) - np.trace(gamma @ H @ Psi @ H), rtol=1e-7
    )


@pytest.mark.parametrize("functions", [prior(3, 1), FinitePool.of(W)])
def test_no_other_start_is_better(functions):
    """By an independent route: L-BFGS on the exact risk of layers with a free start."""
    task = regression(Gaussian(3), functions)
    step = best_started_step(task)
    with jax.enable_x64(True):
        weights = DescentStep(
            jnp.asarray(step.preconditioner[None, None]), jnp.asarray(step.initial_weights)
        )
        exact = layer_risk(LinearTransformer(weights, layers=1), task_moments(task))
    np.testing.assert_allclose(exact, step.risk, rtol=1e-9)

    def initialise(key):
        return LinearTransformer.initialise(
            3,
            structure=lambda sizes, **given: DescentStep.initialise(sizes, start=True, **given),
            key=key,
        )

    trained = train(
        initialise, task, "adam", steps=1, batch_size=1, objective="population", key=random.key(0)
    )
    assert trained.learner().weights.W_0.shape == (1, 3)
    optimiser = {"kind": "adam", "learning_rate": 0.05, "clip": 100.0, "schedule": "cosine"}
    given = {"steps": 1500, "batch_size": 1, "objective": "population", "key": random.key(0)}
    trained = train(initialise, task, optimiser, **given)
    assert float(trained.metrics.risk[0, -1]) == pytest.approx(step.risk, rel=1e-4)


def test_the_mean_of_a_mixture_of_priors_is_the_best_start():
    parts = [
        regression(Gaussian(2), LinearFunctions(2, mean=mean))
        for mean in ([[1.0, 0.0]], [[0.0, 2.0]])
    ]
    task = Mixture(parts, [0.25, 0.75])
    step = best_started_step(task)
    np.testing.assert_allclose(step.initial_weights, [[0.25, 1.5]])
    np.testing.assert_allclose(mean_weights(task), [[0.25, 1.5]])
    with jax.enable_x64(True):
        for change in (0.0, 0.1, -0.1):
            weights = DescentStep(
                jnp.asarray(step.preconditioner[None, None]),
                jnp.asarray(step.initial_weights + change),
            )
            exact = layer_risk(LinearTransformer(weights, layers=1), task_moments(task))
            assert exact >= step.risk - 1e-12
            assert (exact == pytest.approx(step.risk, rel=1e-12)) == (change == 0)
    with pytest.raises(InputError, match="linear, or a pool"):
        best_started_step(regression(Gaussian(2), TwoLayerNetworks(2)))


@pytest.mark.parametrize("length", [5, 20, 100])
def test_the_risk_at_another_length_is_that_of_the_formula(length):
    H, noise, psi, N = np.diag(1 / np.arange(1.0, 11)), 0.1, 1.3, 20
    task = regression(Gaussian(10, covariance=H), LinearFunctions(10, scale=psi), N, noise)
    gamma = np.linalg.inv((N + 1) / N * H + (np.trace(H) + noise / psi**2) / N * np.eye(10))
    K = psi**2 * ((length + 1) / length * H @ H + (np.trace(H) + noise / psi**2) / length * H)
    formula = psi**2 * np.trace(H) + noise - 2 * psi**2 * np.trace(H @ gamma @ H)
    formula += np.trace(gamma.T @ H @ gamma @ K)
    np.testing.assert_allclose(risk_at_length(task, length), formula, rtol=1e-9)


# What does not know such tasks says so


def test_results_for_independent_inputs_refuse_correlated_ones():
    task = regression(Retrieved(3), LinearFunctions(3))
    assert has_exact_moments(task)
    for result in (one_step_risk, simulated_moments, best_started_step):
        with pytest.raises(InputError, match=r"independent.*Retrieved"):
            result(task)
    with pytest.raises(InputError, match=r"d \+ m.*17.*21"):
        shared_moments(regression(Retrieved(20), LinearFunctions(20)))
    for task in (
        regression(Retrieved(20), LinearFunctions(20)),
        regression(Retrieved(2), LinearFunctions(2), noise=LaplaceNoise(0.1)),
        regression(Retrieved(2), TwoLayerNetworks(2)),
    ):
        assert not has_exact_moments(task)
        with pytest.raises(InputError, match=r"Retrieved.*d \+ m up to 17"):
            task_moments(task)


def test_a_best_start_is_not_stated_where_it_would_be_wrong():
    distracted = RegressionTask(
        Gaussian(2), LinearFunctions(2), context_length=4, distractors=Distractors(2)
    )
    with pytest.raises(InputError, match="distractors"):
        best_started_step(distracted)
    laws = [Gaussian(2, covariance=np.diag(each)) for each in ([2.0, 0.2], [0.2, 2.0])]
    means = [LinearFunctions(2, mean=[each]) for each in ([2.0, 0.0], [-2.0, 1.0])]
    pairs = zip(laws, means, strict=True)
    with pytest.raises(InputError, match="same law of inputs"):
        best_started_step(Mixture([regression(*pair) for pair in pairs]))


def test_a_mixture_is_warned_about_as_a_whole(recwarn):
    halves = [Gaussian(2, covariance=np.diag(each)) for each in ([1.0, 0.0], [0.0, 1.0])]
    best = optimal_layer(Mixture([regression(half, LinearFunctions(2)) for half in halves]))
    assert best.implements == "gradient-descent"
    assert not recwarn.list


def test_components_of_a_mixture_draw_prompts_of_one_kind():
    plain = regression(Gaussian(2), LinearFunctions(2), 9)
    with pytest.raises(InputError, match="same kind"):
        Mixture((plain, CondensedTask(plain)))
    both = Mixture((CondensedTask(plain), CondensedTask(plain)))
    assert both.sample(KEY, (3,))[1].shape == (3, 1)


@pytest.mark.parametrize(
    ("make", "keywords"),
    [
        (lambda: Retrieved(3, relevance=1.5), "relevance.*1.5"),
        (lambda: Retrieved(3, relevance=-0.1), "relevance.*-0.1"),
        (lambda: RandomMean(3, mean_variance=-1.0), "mean_variance.*-1"),
        (lambda: RandomMean(3, descriptor=True), "even.*3"),
    ],
)
def test_correlations_that_are_none_get_a_sentence(make, keywords):
    with pytest.raises(InputError, match=keywords):
        make()


# `mesalens optimum`


def test_optimum_knows_the_tasks(tmp_path, capsys):
    file = tmp_path / "mixture.json"
    parts = [
        {"probability": 0.5, "dim": 3},
        {"probability": 0.5, "dim": 3, "covariates": "uniform"},
    ]
    file.write_text(json.dumps(parts))
    for words in (
        ["--pool", "8", "--dim", "3"],
        ["--mixture", str(file)],
        ["--mean-variance", "0.5", "--dim", "3"],
        ["--mean-variance", "0.5", "--descriptor", "--dim", "2"],
        ["--retrieval", "0.5", "--dim", "3"],
    ):
        assert main(["optimum", *words, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (
            0 < found["certificate"]["lower_bound"] <= found["risk"] + 1e-9 < found["null_risk"]
        ), words


@pytest.mark.parametrize(
    ("words", "keywords"),
    [
        ("--pool 0", "size.*0"),
        ("--retrieval 1.5", "relevance.*1.5"),
        ("--retrieval 0.5 --mean-variance 1", "retrieval"),
        ("--descriptor", "mean_variance"),
        ("--mixture none.json", "none.json"),
        ("--mixture mixture.json --pool 3", "mixture or pool"),
        ("--mixture empty.json", "one task"),
        ("--mixture empty.json --task.dim 7", "mixture or options"),
        ("--pool 4 --mean-variance 1 --descriptor", "descriptor"),
        ("--functions sine --mean-variance 1 --descriptor", "descriptor"),
        ("--task mixture --task.components pair.json --pool 4", "pool.*mixture"),
        ("--mixture sizes.json", "same sizes"),
        ("--mixture shares.json", "add to 1"),
        ("--mixture words.json", "not JSON"),
    ],
)
def test_optimum_refuses_what_is_no_such_task(words, keywords, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    contents = {
        "empty": "[]",
        "pair": '[{"dim": 2}, {"dim": 2}]',
        "sizes": '[{"dim": 2}, {"dim": 3}]',
        "shares": '[{"dim": 2, "probability": 0.3}, {"dim": 2, "probability": 0.3}]',
        "words": "mixture",
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(content)
    assert main(["optimum", *words.split()]) == 2
    message = capsys.readouterr().err
    assert message.startswith("mesalens:") and message.count("\n") == 1
    assert all(word in message for word in keywords.split(".*")), message
