"""Moments of contexts: exact ones against enumeration and simulation, simulated ones against exact ones."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from mesalens import InputError
from mesalens.tasks import (
    Cauchy,
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
    Noise,
    RegressionTask,
    Sphere,
    StudentT,
    StudentTNoise,
    TwoLayerNetworks,
    Uniform,
)
from mesalens.theory import (
    ContextMoments,
    _simulated_moments,
    exact_moments,
    has_exact_moments,
    lower_bound,
    one_step_risk,
    simulated_moments,
    task_moments,
)
from mesalens.theory.moments import estimate
from mesalens.theory.preconditioner import best_preconditioner
from mesalens.theory.symmetric import bilinear, smat, svec

SIGMA = np.array([[1.5, 0.4], [0.4, 0.5]])
LAMBDA = np.array([[0.7, -0.2], [-0.2, 1.1]])
NORMAL = tuple(np.array(part) for part in ((-(3**0.5), 0.0, 3**0.5), (1 / 6, 2 / 3, 1 / 6)))
"""Gauss-Hermite with three nodes: exact for polynomials of degree 5, and no moment here is of degree above 4."""


class ThreePoints(Covariates):
    """Covariates with three values and no symmetry, which state their moments."""

    def sample(self, key, shape=()):
        chosen = jax.random.categorical(key, jnp.log(jnp.asarray(self.shares())), shape=shape)
        return jnp.asarray(self.values(), jnp.float32)[chosen]

    def values(self):
        return np.array([[1.0, 0.5, 0.2], [-0.3, 2.0, 0.4], [0.1, -1.0, 1.0]])[:, : self.dim]

    def shares(self):
        return np.array([0.5, 0.2, 0.3])

    def second_moment(self):
        return np.einsum("i,ia,ib->ab", self.shares(), self.values(), self.values())

    def fourth_moment(self, weight):
        x = self.values()
        return np.einsum("i,ia,ib,ic,id,ab->cd", self.shares(), x, x, x, x, weight)


def grid(nodes, weights, dim):
    """The rule for a product of `dim` equal distributions: points and shares."""
    points = np.array(list(itertools.product(nodes, repeat=dim))).reshape(-1, dim)
    return points, np.array([np.prod(w) for w in itertools.product(weights, repeat=dim)])


def rule(covariates):
    """Points and shares that have the moments of z up to order 4: a quadrature of the density, not the formulas of the class."""
    d, scale = covariates.dim, covariates.scale
    if isinstance(covariates, ThreePoints):
        return covariates.values(), covariates.shares()
    if isinstance(covariates, Gaussian):
        return grid(*NORMAL, d)
    if isinstance(covariates, Sphere):
        angles = np.arange(8) * np.pi / 4 + 0.1
        points = (
            np.array([[-1.0], [1.0]])
            if d == 1
            else np.sqrt(2) * np.stack([np.cos(angles), np.sin(angles)], 1)
        )
        return scale * points, np.full(len(points), 1 / len(points))
    if isinstance(covariates, Uniform):
        nodes, weights = np.polynomial.legendre.leggauss(3)
        return grid(scale * nodes, weights / 2, d)
    if isinstance(covariates, StudentT):
        second, fourth = (
            scipy.stats.t(covariates.degrees_of_freedom, scale=scale).moment(k) for k in (2, 4)
        )
        share = second**2 / fourth
        return grid(
            np.sqrt(fourth / second) * np.array([-1, 0, 1]), (share / 2, 1 - share, share / 2), d
        )
    nodes, weights = np.polynomial.laguerre.laggauss(3)
    if isinstance(covariates, Laplace):
        nodes, weights = np.concatenate([-nodes, nodes]), np.concatenate([weights, weights]) / 2
    return grid(scale * nodes, weights, d)


def noise_rule(noise, xs, outputs):
    """Values of the m noises at every x (x, values, m), and their shares, with the moments of the law up to order 4."""
    if isinstance(noise, LaplaceNoise | StudentTNoise):
        law = scipy.stats.laplace(scale=np.sqrt(noise.variance / 2))
        if isinstance(noise, StudentTNoise):
            nu = noise.degrees_of_freedom
            law = scipy.stats.t(nu, scale=np.sqrt(noise.variance * (nu - 2) / nu))
        fourth = law.moment(4)
        share = noise.variance**2 / fourth
        nodes = np.sqrt(fourth / noise.variance) * np.array([-1, 0, 1])
        values, shares = grid(nodes, (share / 2, 1 - share, share / 2), outputs)
        return np.broadcast_to(values, (len(xs), *values.shape)), shares
    values, shares = grid(*NORMAL, outputs)
    growth = getattr(noise, "growth", 0.0)
    variances = noise.variance * (1 + growth * np.sum(xs**2, axis=1) / xs.shape[1])
    return np.sqrt(variances)[:, None, None] * values, shares


def enumerated(task, R):
    """All moments of a task from its definition: a sum over every value of z, W and the noise, each label computed."""
    d, m, n = R.shape[1], task.outputs, task.context_length
    clean = n - task.distractors.count
    points, shares = rule(task.covariates)
    deviations, of_weights = grid(*NORMAL, m * task.dim)
    root = np.linalg.cholesky(task.functions.row_covariance())
    W = task.functions.weight_mean() + deviations.reshape(-1, m, task.dim) @ root.T

    def law_of_tokens(weights, noise):
        """Tokens (w, values of z and noise, D), and the share of each value."""
        added, of_noise = noise_rule(noise, points @ R.T, m)
        ys = np.einsum("wmd,xd->wxm", weights, points @ R.T)[:, :, None] + added
        zs = np.broadcast_to(points[None, :, None], (*ys.shape[:3], d))
        return np.concatenate([zs, ys], -1).reshape(len(weights), -1, d + m), np.outer(
            shares, of_noise
        ).ravel()

    kinds = [
        law_of_tokens(W, task.noise),
        law_of_tokens(np.zeros_like(W), GaussianNoise(task.distractors.variance)),
    ]
    sums, share = np.zeros((len(W), 1, d + m, d + m)), np.ones(1)
    for place in range(n):  # contexts one token longer
        tokens, of_tokens = kinds[place >= clean]
        outer = tokens[..., :, None] * tokens[..., None, :]
        sums = (sums[:, :, None] + outer[:, None]).reshape(len(W), -1, d + m, d + m)
        share = np.outer(share, of_tokens).ravel()
    targets, of_targets = kinds[0]
    query, label = targets[..., :d], targets[..., d:]
    labels = np.einsum("wqa,wqk,q->wak", query, label, of_targets)
    every = np.outer(of_weights, share)
    return {
        "query": np.einsum("wqa,wqb,w,q->ab", query, query, of_weights, of_targets),
        "target": np.einsum("wak,w->ak", labels, of_weights),
        "mean": np.einsum("wcab,wc->ab", sums, every),
        "second": np.einsum("wcab,wcde,wc->abde", sums, sums, every, optimize=True),
        "cross": np.einsum("wcab,wc,wrk->abrk", sums, every, labels, optimize=True),
        "null_risk": np.einsum("wqk,w,q->", label**2, of_weights, of_targets),
    }


def linear(covariates, outputs=1, *, n, noise=0.0, distractors=(0, 1.0), **options):
    functions = LinearFunctions(covariates.dim, outputs, **options)
    return RegressionTask(
        covariates,
        functions,
        context_length=n,
        noise=noise if isinstance(noise, Noise) else GaussianNoise(noise),
        distractors=Distractors(*distractors),
    )


MEAN = {"mean": [[0.6, -0.3]]}
SMALL = {
    "gaussian, d = n = 1": linear(Gaussian(1, 0.7), n=1, noise=0.3),
    "gaussian, d = 1": linear(Gaussian(1, 0.7), n=2, noise=0.3, mean=[[0.4]]),
    "gaussian": linear(
        Gaussian(2, 0.8, covariance=SIGMA), n=2, noise=0.2, covariance=LAMBDA, scale=1.3
    ),
    "gaussian, a mean": linear(
        Gaussian(2, 0.8, covariance=SIGMA), n=2, noise=0.2, covariance=LAMBDA, **MEAN
    ),
    "gaussian, n = 1, m = 2": linear(
        Gaussian(2, covariance=SIGMA), 2, n=1, noise=0.2, mean=[[1.0, 0.2], [0.3, -0.5]]
    ),
    "d = 1, m = 2": linear(Gaussian(1), 2, n=2, noise=0.4, mean=[[0.5], [-1.0]]),
    "uniform": linear(Uniform(2, 1.2), n=2, noise=0.5, covariance=LAMBDA),
    "sphere": linear(Sphere(2, 0.9), n=2, **MEAN),
    "sphere, d = 1": linear(Sphere(1, 0.9), n=2, noise=0.1, mean=[[0.3]]),
    "laplace": linear(Laplace(1, 0.6), n=2, mean=[[0.3]]),
    "exponential": linear(Exponential(2, 0.6), n=2, noise=0.1, **MEAN),
    "student": linear(StudentT(2, 0.7, degrees_of_freedom=7.0), n=2, noise=0.1, covariance=LAMBDA),
    "three points": linear(ThreePoints(2), n=2, noise=0.2, covariance=LAMBDA, **MEAN),
    "distractors": linear(
        ThreePoints(2), n=3, noise=0.2, distractors=(1, 0.6), covariance=LAMBDA, **MEAN
    ),
    "more distractors": linear(
        ThreePoints(2), n=3, distractors=(2, 0.6), covariance=LAMBDA, **MEAN
    ),
    "only distractors": linear(Gaussian(1), n=2, distractors=(2, 0.6), mean=[[0.3]]),
    "laplace noise": linear(
        ThreePoints(2), n=2, noise=LaplaceNoise(0.4), covariance=LAMBDA, **MEAN
    ),
    "laplace noise, m = 2": linear(
        Gaussian(1, 0.7), 2, n=2, noise=LaplaceNoise(0.4), mean=[[0.5], [-1.0]]
    ),
    "student noise": linear(ThreePoints(2), n=2, noise=StudentTNoise(0.4, 6.0), covariance=LAMBDA),
    "student noise, distractors, m = 2": linear(
        ThreePoints(1), 2, n=2, noise=StudentTNoise(0.4), distractors=(1, 0.6), mean=[[0.3], [0.2]]
    ),
    "heteroscedastic noise": linear(
        ThreePoints(2), n=2, noise=HeteroscedasticNoise(0.4, 1.5), covariance=LAMBDA, **MEAN
    ),
    "heteroscedastic noise, gaussian": linear(
        Gaussian(2, 0.8, covariance=SIGMA),
        n=2,
        noise=HeteroscedasticNoise(0.4),
        covariance=LAMBDA,
        **MEAN,
    ),
    "heteroscedastic noise, distractors, m = 2": linear(
        ThreePoints(1),
        2,
        n=2,
        noise=HeteroscedasticNoise(0.4, 0.7),
        distractors=(1, 0.6),
        mean=[[0.3], [0.2]],
    ),
    "distractors, m = 2": linear(ThreePoints(1), 2, n=2, distractors=(1, 0.6), mean=[[0.3], [0.2]]),
}


@pytest.mark.parametrize("name", SMALL)
def test_exact_moments_are_those_of_an_enumeration(name):
    task = SMALL[name]
    moments = exact_moments(task)
    R = moments.inputs
    if isinstance(task.covariates, Gaussian):
        np.testing.assert_allclose(R @ R.T, task.covariates.second_moment(), atol=1e-14)
    expected = enumerated(task, R)
    found = {
        "query": moments.query,
        "target": moments.target,
        "mean": smat(moments.mean, R.shape[1] + task.outputs),
        "second": moments.second_tensor(),
        "cross": moments.cross_tensor(),
        "null_risk": moments.null_risk,
    }
    for part, value in found.items():
        np.testing.assert_allclose(value, expected[part], rtol=1e-10, atol=1e-11, err_msg=part)
    assert moments.method == "exact"


PROMPTS = 100_000
EXTRA = np.array([[1.0, 0.3, -0.2], [0.3, 0.8, 0.1], [-0.2, 0.1, 0.4]])
FLAT = np.diag([1.0, 0.0, 2.0])
OF_ALL = {"n": 4, "noise": 0.3, "covariance": EXTRA, "mean": [[0.5, -0.2, 0.1], [0.0, 0.4, 0.3]]}
SIMULATED = {
    "gaussian": linear(Gaussian(3, 0.7, covariance=EXTRA), 2, **OF_ALL),
    "gaussian, singular": linear(Gaussian(3, covariance=FLAT), 2, **OF_ALL),
    "uniform": linear(Uniform(3, 1.2), 2, **OF_ALL),
    "sphere": linear(Sphere(3, 0.8), 2, **OF_ALL),
    "laplace": linear(Laplace(3, 0.5), 2, **OF_ALL),
    "exponential": linear(Exponential(3, 0.5), 2, **OF_ALL),
    "student": linear(StudentT(3, 0.5, degrees_of_freedom=30.0), 2, **OF_ALL),
    "distractors": linear(Uniform(3), 2, distractors=(2, 0.5), **OF_ALL),
    "laplace noise": linear(
        Gaussian(3, 0.7, covariance=EXTRA), 2, **OF_ALL | {"noise": LaplaceNoise(0.6)}
    ),
    "student noise": linear(Uniform(3), 2, **OF_ALL | {"noise": StudentTNoise(0.6, 20.0)}),
    "heteroscedastic noise": linear(
        Gaussian(3, 0.7, covariance=EXTRA), 2, **OF_ALL | {"noise": HeteroscedasticNoise(0.6, 1.5)}
    ),
}


def distance(terms, exact):
    """The largest distance of means of products of two columns from their exact values, in standard errors."""
    left, right = terms
    mean = left.T @ right / len(left)
    error = np.sqrt(np.maximum((left**2).T @ (right**2) / len(left) - mean**2, 1e-12) / len(left))
    return np.max(np.abs(mean - exact) / (error + 1e-6 * np.abs(exact)))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            n,
            marks=[]
            if n in ("distractors", "gaussian, singular", "heteroscedastic noise")
            else pytest.mark.slow,
        )
        for n in SIMULATED
    ],
)
def test_exact_moments_lie_in_the_intervals_of_a_simulation(name):
    task = SIMULATED[name]
    moments = exact_moments(task)
    prompts, targets = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), eqx.filter_jit(lambda t, k: t.sample(k, (PROMPTS,)))(task, jax.random.key(3))
    )  # fmt: skip
    to_z = np.linalg.pinv(moments.inputs)
    tokens = np.concatenate([prompts.xs @ to_z.T, prompts.ys], -1)
    s, z = svec(tokens.swapaxes(1, 2) @ tokens), prompts.query @ to_z.T
    ones = np.ones((PROMPTS, 1))
    labels = (z[:, :, None] * targets[:, None]).reshape(PROMPTS, -1)
    for part, terms, exact in (
        ("mean", (s, ones), moments.mean[:, None]),
        ("query", (z, z), moments.query),
        ("target", (z, targets), moments.target),
        ("second", (s, s), moments.second),
        ("cross", (s, labels), moments.cross.reshape(len(moments.mean), -1)),
        ("null_risk", (np.sum(targets**2, 1, keepdims=True), ones), moments.null_risk),
    ):
        assert distance(terms, exact) < 5.5, part


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_svec_smat_and_bilinear_keep_their_promises(size, seed):
    rng = np.random.default_rng(seed)
    S, T = (matrix + matrix.swapaxes(-1, -2) for matrix in rng.normal(size=(2, 3, size, size)))
    u, v = rng.normal(size=(2, 3, size))
    assert svec(S).shape == (3, size * (size + 1) // 2)
    np.testing.assert_allclose(
        np.sum(svec(S) * svec(T), -1), np.trace(S @ T, axis1=1, axis2=2), atol=1e-12
    )
    np.testing.assert_allclose(smat(svec(S), size), S, atol=1e-14)
    np.testing.assert_allclose(svec(smat(svec(S), size)), svec(S), atol=1e-14)
    np.testing.assert_allclose(
        np.sum(bilinear(u, v) * svec(S), -1),
        np.einsum("na,nab,nb->n", u, S, v),
        rtol=1e-10,
        atol=1e-12,
    )


def grouped(groups):
    """Moments whose target and null risk are means of groups, with the replicates of the jackknife."""

    def of(chosen):
        target, null = chosen.mean(axis=0)
        one = np.ones((1, 1))
        return ContextMoments(
            inputs=one, query=one, target=target * one, mean=np.ones(3), second=np.eye(3), cross=np.ones((3, 1, 1)),
            null_risk=float(null),
        )  # fmt: skip

    replicates = tuple(of(np.delete(groups, g, axis=0)) for g in range(len(groups)))
    return eqx.tree_at(lambda moments: moments.replicates, of(groups), replicates)


def test_the_jackknife_is_exact_for_a_mean():
    groups = np.random.default_rng(0).normal(size=(20, 2))
    values, errors = estimate(
        lambda of: {"null": of.null_risk, "target": of.target}, grouped(groups)
    )
    expected = scipy.stats.sem(groups)
    assert values["null"] == pytest.approx(groups[:, 1].mean(), rel=1e-12)
    assert errors["null"] == pytest.approx(expected[1], rel=1e-12)
    np.testing.assert_allclose(errors["target"], [[expected[0]]], rtol=1e-12)


def test_the_jackknife_agrees_with_the_delta_method_for_a_ratio_and_takes_the_bias_of_a_square():
    groups = np.random.default_rng(1).normal([5.0, 3.0], 0.1, size=(20, 2))
    (a, b), covariance = groups.mean(0), np.cov(groups.T) / 20
    slope = np.array([1 / b, -a / b**2])
    values, errors = estimate(
        lambda of: {"ratio": of.target[0, 0] / of.null_risk, "square": of.null_risk**2},
        grouped(groups),
    )
    assert values["ratio"] == pytest.approx(a / b, abs=0.02 * errors["ratio"])
    assert errors["ratio"] == pytest.approx(np.sqrt(slope @ covariance @ slope), rel=0.02)
    assert values["square"] == pytest.approx(b**2 - covariance[1, 1], rel=1e-9)  # the unbiased one


def test_exact_moments_have_no_standard_error():
    moments = exact_moments(SMALL["uniform"])
    assert estimate(lambda of: {"null": of.null_risk}, moments) == ({"null": moments.null_risk}, {})


def flattened(moments):
    return {
        name: getattr(moments, name)
        for name in ("query", "target", "mean", "second", "cross", "null_risk")
    }


class Silent(Covariates):
    """Gaussians that state no moments."""

    def sample(self, key, shape=()):
        return self.scale * jax.random.normal(key, (*shape, self.dim))


class Unknown(Noise):
    """Noise of a known law that states nothing."""

    law: Noise

    def __call__(self, key, labels, xs):
        return self.law(key, labels, xs)


TO_SIMULATE = {
    "own noise": (
        linear(Uniform(2), n=3, noise=Unknown(LaplaceNoise(0.5)), **MEAN),
        linear(Uniform(2), n=3, noise=LaplaceNoise(0.5), **MEAN),
    ),
    "heteroscedastic noise": (
        linear(Gaussian(2), n=3, noise=HeteroscedasticNoise(0.5, 2.0), **MEAN),
        None,
    ),
    "gaussian, m = 2": (
        linear(Gaussian(2, covariance=SIGMA), 2, n=3, noise=0.2, mean=[[0.4, 0.1], [0.0, 0.3]]),
        None,
    ),
    "distractors": (linear(Uniform(2), n=3, noise=0.3, distractors=(1, 0.5), **MEAN), None),
    "own covariates": (linear(Silent(2), n=3), linear(Gaussian(2), n=3)),
}


@functools.cache
def simulated(name):
    said = []

    def progress(title, total):
        said.append((title, total))
        return lambda done: said.append(done)

    task, _ = TO_SIMULATE[name]
    return simulated_moments(
        task, key=jax.random.key(5), relative_error=0.01, progress=progress
    ), said


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n == "distractors" else pytest.mark.slow) for n in TO_SIMULATE],
)
def test_simulated_moments_agree_with_exact_ones_within_their_standard_errors(name):
    task, same = TO_SIMULATE[name]
    exact = flattened(exact_moments(same or task))
    moments, _ = simulated(name)
    assert moments.method == "simulation" and len(moments.replicates) == 20
    values, errors = estimate(flattened, moments)
    for part, value in values.items():
        # errors from 20 groups have the tails of Student's t
        assert np.all(
            np.abs(value - exact[part]) <= 7 * errors[part] + 1e-6 * np.abs(exact[part])
        ), part
    assert np.max(errors["second"] / np.abs(exact["second"]).max()) > 1e-5


@pytest.mark.slow
def test_the_precision_that_was_asked_for_is_reached_and_progress_is_told():
    _, said = simulated("gaussian, m = 2")
    totals = [total for _, total in (entry for entry in said if isinstance(entry, tuple))]
    done = [entry for entry in said if not isinstance(entry, tuple)]
    assert said[0][0] == "simulating moments of S"
    assert done == sorted(done) and done[-1] == totals[-1] and totals == sorted(totals)

    task, _ = TO_SIMULATE["gaussian, m = 2"]
    for relative_error in (0.05, 0.003):
        finer = simulated_moments(task, key=jax.random.key(6), relative_error=relative_error)
        values, errors = estimate(
            lambda of: {"risk": best_preconditioner(of)[1], "bound": lower_bound(of)}, finer
        )
        assert all(errors[name] <= relative_error * values[name] for name in values)


def test_the_same_key_gives_the_same_moments():
    task, _ = TO_SIMULATE["gaussian, m = 2"]
    again = simulated_moments(task, key=jax.random.key(5), relative_error=0.01)
    np.testing.assert_array_equal(again.second, simulated("gaussian, m = 2")[0].second)
    other = simulated_moments(task, key=jax.random.key(7), relative_error=0.05)
    assert not np.allclose(other.second, again.second, rtol=1e-6)


class Lopsided(LaplaceNoise):
    """States its moments, and no symmetry."""

    symmetric = False


@pytest.mark.slow
def test_exact_where_known_and_simulated_where_not():
    assert task_moments(SMALL["uniform"]).method == "exact"
    assert task_moments(SMALL["laplace noise"]).method == "exact"
    for noise in (Unknown(LaplaceNoise(0.2)), Lopsided(0.2)):
        task = linear(Gaussian(1), n=1, noise=noise)
        assert task_moments(task, relative_error=0.1).method == "simulation"
    with pytest.raises(InputError, match=r"noise.*Lopsided"):
        exact_moments(task)
    assert task_moments(linear(Silent(1), n=1), relative_error=0.1).method == "simulation"


def nets(covariates, **options):
    return RegressionTask(
        covariates, TwoLayerNetworks(covariates.dim, hidden=2), context_length=2, **options
    )


def test_what_has_no_moments_gets_a_sentence():
    for covariates in (Cauchy(2), StudentT(2, degrees_of_freedom=4.0)):
        for task in (linear(covariates, n=2), nets(covariates)):
            with pytest.raises(
                InputError,
                match=f"{type(covariates).__name__}.*{covariates.degrees_of_freedom:g}",
            ):
                task_moments(task)
    with pytest.raises(InputError, match=r"StudentTNoise.*3.5"):
        task_moments(linear(Gaussian(2), n=2, noise=StudentTNoise(0.3, 3.5)))
    with pytest.raises(InputError, match="Unknown"):
        exact_moments(linear(Gaussian(2), n=2, noise=Unknown(GaussianNoise(0.3))))
    with pytest.raises(InputError, match=r"functions.*TwoLayerNetworks"):
        exact_moments(nets(Gaussian(2)))
    with pytest.raises(InputError, match="Silent"):
        exact_moments(linear(Silent(2), n=2))
    with pytest.raises(InputError, match=r"80.*81"):
        exact_moments(linear(Gaussian(80), n=2))
    with pytest.raises(InputError, match=r"48.*51"):
        simulated_moments(nets(Gaussian(50)))
    with pytest.raises(InputError, match=r"covariance.*zero"):
        exact_moments(linear(Gaussian(2, covariance=np.zeros((2, 2))), n=2))


class Stated(Noise):
    """Gaussian noise that states its moments, and nothing of its symmetry."""

    def __call__(self, key, labels, xs):
        return GaussianNoise(0.3)(key, labels, xs)

    def conditional_variance(self, dim):
        return 0.3, np.zeros((dim, dim))

    def fourth_cumulant(self):
        return 0.0


def test_noise_that_states_moments_is_simulated_until_it_says_that_it_is_symmetric():
    laws = (Stated(), GaussianNoise(0.3))
    stated, symmetric = (linear(Gaussian(2), n=3, noise=law) for law in laws)
    assert stated.noise.knows_moments and not stated.noise.symmetric
    assert task_moments(symmetric).method == "exact"
    assert not has_exact_moments(stated)
    assert task_moments(stated, relative_error=0.3).method == "simulation"
    with pytest.raises(InputError, match=r"symmetric.*Stated"):
        exact_moments(stated)
    assert one_step_risk(stated).best_risk == one_step_risk(symmetric).best_risk


def test_functions_and_precisions_that_cannot_be_used_get_a_sentence(monkeypatch):
    broken = CustomFunctions(1, lambda key, x: jnp.sqrt(x[0]))
    with pytest.raises(InputError, match=r"CustomFunctions.*labels"):
        simulated_moments(RegressionTask(Gaussian(1), broken, context_length=2))
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="relative_error"):
            simulated_moments(nets(Gaussian(1)), relative_error=wrong)
    monkeypatch.setattr(_simulated_moments, "MOST_PROMPTS", 100_000)
    with pytest.raises(InputError, match=r"relative_error=1e-09.*100,000"):
        simulated_moments(nets(Gaussian(1)), relative_error=1e-9)


def test_the_mean_of_the_prior_is_in_the_exact_risk_of_one_step():
    """One step from zero is the layer with Γ = the xy block: the risk from moments of S and that of `one_step_risk`."""
    noises = (name for name in SMALL if "noise" in name)
    for name in ("gaussian, a mean", "distractors", "exponential", *noises):
        task = SMALL[name]
        moments = exact_moments(task)
        r = moments.rank
        to_x = moments.inputs
        gain = np.einsum("akbk,ab->", moments.cross_tensor()[:r, r:], to_x.T @ to_x)
        cost = np.einsum(
            "akbk,ac,bd,cd->",
            moments.second_tensor()[:r, r:, :r, r:],
            to_x.T @ to_x,
            to_x.T @ to_x,
            moments.query,
        )
        theory = one_step_risk(task)
        np.testing.assert_allclose(
            [theory.gain, theory.cost, theory.null_risk], [gain, cost, moments.null_risk]
        )
