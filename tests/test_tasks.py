"""Tasks: what is drawn has the moments that are stated."""

import os

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.stats
from compiled import compiled, mapped

from mesalens import InputError, Prompt
from mesalens.tasks import (
    Cauchy,
    ClassificationTask,
    Covariates,
    Distractors,
    Exponential,
    Functions,
    GammaDirections,
    Gaussian,
    GaussianNoise,
    HeteroscedasticNoise,
    IndependentCovariates,
    Laplace,
    LaplaceNoise,
    LinearFunctions,
    Noise,
    RegressionTask,
    Sphere,
    StudentT,
    StudentTNoise,
    Task,
    Uniform,
    read_matrix,
)

SIGMA = np.array([[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]])
WEIGHT = np.array([[1.0, 0.2, -0.4], [0.2, 0.5, 0.1], [-0.4, 0.1, 2.0]])


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


FAMILIES = {
    "uniform": (Uniform(3, 0.7), scipy.stats.uniform(-0.7, 1.4)),
    "exponential": (Exponential(3, 0.7), scipy.stats.expon(scale=0.7)),
    "laplace": (Laplace(3, 0.7), scipy.stats.laplace(scale=0.7)),
    "student": (StudentT(3, 0.7, degrees_of_freedom=12.0), scipy.stats.t(12, scale=0.7)),
    "gaussian": (Gaussian(3, 0.7), scipy.stats.norm(scale=0.7)),
}


def moments_by_enumeration(marginal, weight):
    """E[x x^T] and E[(x^T G x) x x^T] for independent coordinates, term by term, from SciPy's raw moments."""
    raw = [1.0] + [marginal.moment(order) for order in (1, 2, 3, 4)]
    dim = len(weight)

    def expected(*indices):
        return np.prod([raw[indices.count(i)] for i in set(indices)])

    second = np.array([[expected(a, b) for b in range(dim)] for a in range(dim)])
    fourth = np.array(
        [
            [
                sum(weight[j, k] * expected(j, k, a, b) for j in range(dim) for k in range(dim))
                for b in range(dim)
            ]
            for a in range(dim)
        ]
    )
    return second, fourth


@pytest.mark.parametrize("name", FAMILIES)
def test_moments_of_independent_covariates_against_enumeration(name):
    covariates, marginal = FAMILIES[name]
    second, fourth = moments_by_enumeration(marginal, WEIGHT)
    np.testing.assert_allclose(covariates.second_moment(), second, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(covariates.fourth_moment(WEIGHT), fourth, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    "covariates",
    [
        *(family for family, _ in FAMILIES.values()),
        Gaussian(3, 0.5, covariance=SIGMA),
        Sphere(3, 0.7),
        Sphere(1, 0.7),
        GammaDirections(3, 0.7, shape=1.5),
        GammaDirections(1, 0.7, shape=3.0),
    ],
)
def test_samples_have_the_stated_moments(covariates):
    x = np.asarray(compiled(covariates.sample, jax.random.key(0), (400_000,)), np.float64)
    weight = WEIGHT[: covariates.dim, : covariates.dim]
    for terms, exact in (
        (np.einsum("ni,nj->nij", x, x), covariates.second_moment()),
        (
            np.einsum("nj,jk,nk,na,nb->nab", x, weight, x, x, x, optimize=True),
            covariates.fourth_moment(weight),
        ),
    ):
        error = terms.std(axis=0) / np.sqrt(len(x))
        assert np.all(
            np.abs(terms.mean(axis=0) - exact) < 5 * error + 1e-6
        )  # on a sphere x² may not vary


@pytest.mark.parametrize(
    ("covariates", "marginal"),
    [
        (StudentT(3, 0.7), scipy.stats.t(5, scale=0.7)),
        (StudentT(3, degrees_of_freedom=1.5), scipy.stats.t(1.5)),
        (Cauchy(3, 2.0), scipy.stats.cauchy(scale=2.0)),
        (
            Sphere(3, 2.0),
            scipy.stats.uniform(-2 * 3**0.5, 4 * 3**0.5),
        ),  # Archimedes: a coordinate on S² is uniform
    ],
)
def test_marginal_laws(covariates, marginal):
    x = np.asarray(covariates.sample(jax.random.key(12), (400_000,)), np.float64)
    assert np.isfinite(x).all()
    assert scipy.stats.kstest(x[:20_000].ravel(), marginal.cdf).pvalue > 1e-4
    for tail in (1e-3, 1e-4, 2e-5):  # seen from the tails, where few draws are
        expected = tail * x.size
        beyond = np.sum(np.abs(x) > marginal.isf(tail / 2))
        assert abs(beyond - expected) < 5 * np.sqrt(expected)


def test_coordinates_of_student_t_are_independent():
    x = np.asarray(StudentT(2, degrees_of_freedom=3.0).sample(jax.random.key(13), (100_000,)))
    ranks = scipy.stats.rankdata(np.abs(x), axis=0)
    assert abs(np.corrcoef(ranks.T)[0, 1]) < 5 / np.sqrt(len(x))


@pytest.mark.parametrize(("dim", "shape"), [(1, 0.1), (3, 0.1), (4, 2.5)])
def test_gamma_directions_have_gamma_squared_lengths_and_moments_from_them(dim, shape):
    covariates = GammaDirections(dim, 0.7, shape=shape)
    squares = scipy.stats.gamma(shape, scale=dim * 0.7**2 / shape)
    x = np.asarray(covariates.sample(jax.random.key(16), (100_000,)), np.float64)
    lengths = np.linalg.norm(x, axis=1)
    # In float32 the shortest are 0
    assert scipy.stats.kstest(lengths[:20_000], lambda r: squares.cdf(r**2)).pvalue > 1e-4
    np.testing.assert_allclose(covariates.second_moment().trace(), squares.moment(1), rtol=1e-12)
    fourth = covariates.fourth_moment(np.eye(dim))  # E[|x|² x x^T]
    np.testing.assert_allclose(fourth.trace(), squares.moment(2), rtol=1e-12)
    np.testing.assert_allclose(fourth, fourth[0, 0] * np.eye(dim), rtol=1e-12)


def test_gamma_directions_are_normal_at_half_the_dimension_and_near_a_sphere_at_large_shapes():
    for near, reference in ((1.5, Gaussian(3, 0.7)), (1e12, Sphere(3, 0.7))):
        covariates = GammaDirections(3, 0.7, shape=near)
        np.testing.assert_allclose(covariates.second_moment(), reference.second_moment())
        exact = reference.fourth_moment(WEIGHT)
        np.testing.assert_allclose(covariates.fourth_moment(WEIGHT), exact, rtol=1e-9)
    with pytest.raises(InputError, match="shape"):
        GammaDirections(3, shape=0.0)


@pytest.mark.parametrize("dim", [1, 4])
def test_sphere_has_one_radius(dim):
    x = Sphere(dim, 0.7).sample(jax.random.key(14), (1000,))
    np.testing.assert_allclose(jnp.linalg.norm(x, axis=-1), 0.7 * dim**0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("covariates", "invariant"),
    [
        (Gaussian(3), True),
        slow(Gaussian(3, covariance=0.3 * np.eye(3)), True),
        (Gaussian(3, covariance=SIGMA), False),
        slow(Gaussian(3, covariance=np.diag([2.0, 1.0, 1.0])), False),
        (Sphere(3), True),
        slow(GammaDirections(3, shape=2.0), True),
        (FAMILIES["uniform"][0], False),
        *(slow(FAMILIES[name][0], False) for name in ("exponential", "laplace", "student")),
    ],
)
def test_mirrored_covariates_have_the_same_moments_where_and_only_where_invariant(
    covariates, invariant
):
    assert covariates.rotation_invariant is invariant
    normal = np.array([1.0, 0.4, -0.7])
    x = np.asarray(compiled(covariates.sample, jax.random.key(15), (400_000,)), np.float64)
    mirrored = x - 2 * np.outer(x @ normal, normal) / (normal @ normal)
    terms = np.concatenate([x**power - mirrored**power for power in (1, 2, 4)], axis=1)
    distance = np.max(np.abs(terms.mean(axis=0)) / terms.std(axis=0)) * np.sqrt(len(x))
    assert distance < 5 if invariant else distance > 10


def test_covariates_with_only_a_sample_know_no_moments():
    class Signs(Covariates):
        def sample(self, key, shape=()):
            return self.scale * jax.random.rademacher(key, (*shape, self.dim), jnp.float32)

    signs = Signs(3)
    assert not signs.knows_moments
    assert not signs.rotation_invariant
    assert signs.finite_moments == np.inf
    for moment in (signs.second_moment, lambda: signs.fourth_moment(WEIGHT)):
        with pytest.raises(InputError, match="Signs"):
            moment()


class Flat(Covariates):
    def sample(self, key, shape=()):
        return jax.random.normal(key, shape)


class Whole(Covariates):
    def sample(self, key, shape=()):
        return jax.random.randint(key, (*shape, self.dim), 0, 2)


class Sum(Functions):
    def __call__(self, key, xs):
        return xs.sum(axis=-1)


class Narrow(Noise):
    def __call__(self, key, labels, xs):
        return labels[..., 0]


class Short(Task):
    dim: int = 2
    outputs: int = 1
    context_length: int = 6

    def sample(self, key, shape=()):
        xs = jax.random.normal(key, (*shape, self.context_length, self.dim))
        ys = xs.sum(axis=-1, keepdims=True)
        return Prompt(xs[..., :-1, :], ys[..., :-1, :], xs[..., -1, :]), ys[..., -1, :]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Flat(4), r"Flat.sample\(.*\(8, 3, 4\), that is \(\*shape, dim\).*\(8, 3\)\."),
        (lambda: Whole(4), r"Whole.sample\(.*floating-point.*int32 of shape \(8, 3, 4\)\."),
        (lambda: Sum(4), r"Sum\(key, xs\), for xs of shape \(8, 3, 4\), .*\(8, 3, 1\)"),
        (
            lambda: RegressionTask(
                Uniform(4), LinearFunctions(4), noise=Narrow(), context_length=5
            ),
            r"Narrow\(key, labels, xs\).*\(8, 3, 1\).*float32 of shape \(8, 3\)\.",
        ),
        (Short, r"Short.sample\(.*context_length, dim\) of the prompts' xs.*\(8, 3, 5, 2\)"),
    ],
    ids=["covariates", "integers", "functions", "noise", "task"],
)
def test_a_wrong_shape_in_a_part_of_ones_own_is_said_when_it_is_built(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()


class OneForAll(Functions):
    def __call__(self, key, xs):
        return xs @ jax.random.normal(key, (self.dim, 1))


class SameInputs(Covariates):
    def sample(self, key, shape=()):
        x = jax.random.normal(key, (shape[-1], self.dim))
        return jnp.broadcast_to(x, (*shape, self.dim))


class Forgetful(Covariates):
    def sample(self, key, shape=()):
        return jnp.asarray(np.random.randn(*shape, self.dim), jnp.float32)


class SharedTask(Short):
    def sample(self, key, shape=()):
        xs = jax.random.normal(key, (self.context_length + 1, self.dim))
        xs = jnp.broadcast_to(xs, (*shape, *xs.shape))
        ys = xs.sum(axis=-1, keepdims=True)
        return Prompt(xs[..., :-1, :], ys[..., :-1, :], xs[..., -1, :]), ys[..., -1, :]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: OneForAll(4), r"OneForAll\(key, xs\).*same draw to all 8 prompts"),
        (lambda: SameInputs(4), r"SameInputs.sample\(.*same draw to all 8 prompts"),
        (SharedTask, r"SharedTask.sample\(.*same draw to all 8 prompts"),
        (lambda: Forgetful(4), r"Forgetful.sample\(.*other numbers .* with the same key"),
    ],
    ids=["functions", "covariates", "task", "key"],
)
def test_draws_that_a_batch_shares_or_that_ignore_the_key_are_refused(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()


def test_parts_that_seldom_or_never_draw_anything_are_accepted():
    class Rare(Functions):
        def __call__(self, key, xs):
            drawn = jax.random.bernoulli(key, 1e-3, (*xs.shape[:-2], 1, 1))
            return drawn * xs.sum(axis=-1, keepdims=True)

    class Fixed(Functions):
        def __call__(self, key, xs):
            return xs.sum(axis=-1, keepdims=True)

    assert all(kind(3).dim == 3 for kind in (Rare, Fixed))


class Wide(Covariates):
    """Normal with variance 4, stated as `second` and as `fourth` times what it is."""

    second: float = 1.0
    fourth: float = 1.0

    def sample(self, key, shape=()):
        return 2 * jax.random.normal(key, (*shape, self.dim))

    def second_moment(self):
        return 4 * self.second * np.eye(self.dim)

    def fourth_moment(self, weight):
        return 16 * self.fourth * (2 * weight + np.trace(weight) * np.eye(self.dim))


class Band(Noise):
    """Uniform on [-|x|, |x|] with stated moments of which one is wrong."""

    variance: float = 1.0
    cumulant: float = 1.0
    shift: float = 0.0

    def __call__(self, key, labels, xs):
        size = jnp.linalg.norm(xs, axis=-1, keepdims=True)
        drawn = size * jax.random.uniform(key, labels.shape, minval=-1, maxval=1)
        return labels + drawn + self.shift

    def conditional_variance(self, dim):
        return 0.0, self.variance / 3 * np.eye(dim)

    def fourth_cumulant(self):  # E|x|⁴ (1/5 - 3/9) for standard normal x in R³
        return self.cumulant * 15 * (1 / 5 - 1 / 3)


def test_moments_that_draws_contradict_are_refused():
    """They are compared with draws, again and again as long as they are wrong."""
    assert Wide(3).knows_moments
    for _ in range(2):
        with pytest.raises(InputError, match=r"Wide.second_moment\(\)\[\d, \d\] is 4.2, .* ± "):
            Wide(3, second=1.05)
    with pytest.raises(InputError, match=r"Wide.fourth_moment\(G\)"):
        Wide(3, fourth=1.15)


def test_moments_of_noise_that_draws_contradict_are_refused():
    def task(**options):
        return RegressionTask(
            Gaussian(3), LinearFunctions(3), noise=Band(**options), context_length=4
        )

    assert task().noise.knows_moments
    for options, words in (
        ({"variance": 1.05}, "the mean of Band.conditional_variance is"),
        ({"cumulant": 1.5}, r"Band.fourth_cumulant\(\) is -3"),
        ({"shift": 0.1}, "the mean of Band is 0"),
    ):
        with pytest.raises(InputError, match=words):
            task(**options)


@pytest.mark.parametrize(
    ("moments", "words"),
    [
        ((0.0, 1.0, 0.0, 1.2), r"Signs.central_moments\(\): c4 is 1.2, but .* give 1 "),
        ((0.0, 1.1, 0.0, 1.0), r"Signs.central_moments\(\): c2 is 1.1"),
        ((0.0, 1.0, 0.1, 1.0), r"Signs.central_moments\(\): c3 is 0.1"),
        ((0.1, 1.0, 0.0, 1.0), r"Signs.central_moments\(\): the mean is 0.1"),
        ((0.0, 1.0, 0.0), r"Signs.central_moments\(\) must return four numbers.*0.0\)\."),
    ],
)
def test_central_moments_that_draws_contradict_are_named(moments, words):
    class Signs(IndependentCovariates):
        def sample(self, key, shape=()):
            return jax.random.rademacher(key, (*shape, self.dim), jnp.float32)

        def central_moments(self):
            return moments

    with pytest.raises(InputError, match=words):
        Signs(3)


class LaplaceLike(Noise):
    cumulant: float = 12.0
    symmetric = True

    def __call__(self, key, labels, xs):
        return labels + jax.random.laplace(key, labels.shape)

    def conditional_variance(self, dim):
        return 2.0, np.zeros((dim, dim))

    def fourth_cumulant(self):
        return self.cumulant


class Skewed(LaplaceLike):
    """Two centred exponential variables; the variance is 2, and the fourth cumulant 12."""

    def __call__(self, key, labels, xs):
        return labels + jax.random.gamma(key, 2.0, labels.shape) - 2


def test_tails_and_skewness_of_noise_are_compared():
    def task(noise):
        return RegressionTask(Gaussian(2), LinearFunctions(2), noise=noise, context_length=4)

    assert task(LaplaceLike()).noise.symmetric
    with pytest.raises(InputError, match=r"LaplaceLike.fourth_cumulant\(\) is 3, but .* give 1"):
        task(LaplaceLike(3.0))
    with pytest.raises(
        InputError, match="Skewed states that it is symmetric; the mean of its cube"
    ):
        task(Skewed())


def test_moments_of_heavy_tails_are_not_refused_by_chance():
    """65,536 draws of exp(2 z) have nothing like its fourth moment, and show nothing."""

    class LogNormal(IndependentCovariates):
        def sample(self, key, shape=()):
            return jnp.exp(2 * jax.random.normal(key, (*shape, self.dim)))

        def central_moments(self):
            raw = [np.exp(2.0 * k**2) for k in range(5)]
            mean = raw[1]
            c2 = raw[2] - mean**2
            c3 = raw[3] - 3 * mean * raw[2] + 2 * mean**3
            c4 = raw[4] - 4 * mean * raw[3] + 6 * mean**2 * raw[2] - 3 * mean**4
            return mean, c2, c3, c4

    assert LogNormal(3).knows_moments


@pytest.mark.parametrize(
    "covariates",
    [*(family for family, _ in FAMILIES.values()), Sphere(3), GammaDirections(3)],
)
def test_covariates_of_the_library_know_their_moments(covariates):
    assert covariates.knows_moments
    assert covariates.finite_moments == (12 if isinstance(covariates, StudentT) else np.inf)


def test_singular_covariance_is_sampled_in_its_range():
    direction = np.array([1.0, 2.0, -1.0])
    x = Gaussian(3, covariance=np.outer(direction, direction)).sample(jax.random.key(1), (100,))
    np.testing.assert_allclose(np.cross(np.asarray(x), direction), 0, atol=1e-2)
    assert float(jnp.std(x[:, 0])) == pytest.approx(1, abs=0.4)


def test_labels_are_linear_in_the_inputs_with_one_function_a_prompt():
    task = RegressionTask(Gaussian(3), LinearFunctions(3, 2), context_length=8)
    prompts, targets = compiled(task.sample, jax.random.key(2), (5,))
    for xs, ys, query, target in zip(prompts.xs, prompts.ys, prompts.query, targets, strict=True):
        weights = np.linalg.lstsq(np.asarray(xs), np.asarray(ys), rcond=None)[0]
        np.testing.assert_allclose(xs @ weights, ys, atol=1e-4)
        np.testing.assert_allclose(query @ weights, target, atol=1e-4)


def test_weights_have_the_prior_covariance_row_by_row():
    functions = LinearFunctions(3, 2, covariance=SIGMA, scale=1.5)
    weights = np.asarray(functions.sample(jax.random.key(3), (200_000,)), np.float64)
    rows = weights.reshape(len(weights), -1)
    expected = np.kron(np.eye(2), functions.row_covariance())
    terms = np.einsum("ni,nj->nij", rows, rows)
    assert np.all(np.abs(terms.mean(0) - expected) < 5 * terms.std(0) / np.sqrt(len(rows)))


def test_noise_is_on_every_label_and_on_the_target():
    task = RegressionTask(
        Gaussian(2, 1e-6), LinearFunctions(2), context_length=3, noise=GaussianNoise(0.49)
    )
    prompts, targets = compiled(task.sample, jax.random.key(4), (50_000,))
    assert float(prompts.ys.std()) == pytest.approx(0.7, rel=0.02)
    assert float(targets.std()) == pytest.approx(0.7, rel=0.02)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_exactly_k_labels_are_replaced_anywhere_in_the_context(count):
    task = RegressionTask(
        Gaussian(2), LinearFunctions(2), context_length=5, distractors=Distractors(count, 4.0)
    )
    clean = eqx.tree_at(lambda t: t.distractors, task, Distractors(0))
    prompts, targets = compiled(task.sample, jax.random.key(5), (20_000,))
    pure, pure_targets = compiled(clean.sample, jax.random.key(5), (20_000,))
    np.testing.assert_array_equal(prompts.xs, pure.xs)
    np.testing.assert_array_equal(targets, pure_targets)
    replaced = np.asarray(prompts.ys != pure.ys)[..., 0]
    np.testing.assert_array_equal(replaced.sum(axis=1), count)
    np.testing.assert_allclose(replaced.mean(axis=0), count / 5, atol=0.03)
    assert float(prompts.ys[..., 0][replaced].std()) == pytest.approx(2, rel=0.03)


@pytest.mark.parametrize("batch", [1, 4])
def test_sampling_is_reproducible_and_single_precision(batch, seed=11):
    task = RegressionTask(
        Uniform(2), LinearFunctions(2), context_length=3, noise=GaussianNoise(0.1)
    )
    one, again = (compiled(task.sample, jax.random.key(seed), (batch,)) for _ in range(2))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(one))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, again))
    assert one[0].xs.shape == (batch, 3, 2)


def test_vmap_over_keys_draws_independent_prompts():
    task = RegressionTask(Uniform(2), LinearFunctions(2), context_length=3)
    keys = jax.random.split(jax.random.key(0), 4)
    prompts, targets = mapped(task.sample, keys)
    assert prompts.xs.shape == (4, 3, 2)
    np.testing.assert_array_equal(targets[2], compiled(task.sample, keys[2])[1])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Gaussian(2, covariance=np.ones((2, 3))), r"covariance.*\(2, 3\)"),
        (lambda: Gaussian(2, covariance=np.eye(3)), r"covariance.*\(2, 2\).*\(3, 3\)"),
        (lambda: Gaussian(2, covariance=[[1.0, 0.5], [0.4, 1.0]]), "covariance.*symmetric"),
        (
            lambda: Gaussian(2, covariance=[[1.0, 2.0], [2.0, 1.0]]),
            "covariance.*positive semi-definite",
        ),
        (lambda: Gaussian(2, covariance=[[1.0, np.nan], [np.nan, 1.0]]), "covariance.*finite"),
        (lambda: Gaussian(2, covariance="abc"), "covariance"),
        (
            lambda: LinearFunctions(2, covariance=-np.eye(2)),
            "covariance.*positive semi-definite",
        ),
        (lambda: Uniform(0), "dim.*0"),
        (lambda: Uniform(2, -1.0), "scale.*-1.0"),
        (lambda: StudentT(2, degrees_of_freedom=0.0), "degrees_of_freedom.*0.0"),
        (
            lambda: StudentT(2, degrees_of_freedom=4.0).central_moments(),
            "StudentT.*4",
        ),
        (
            lambda: Cauchy(2).fourth_moment(np.eye(2)),
            "Cauchy.*1",
        ),
        (lambda: LinearFunctions(2, 0), "outputs.*0"),
        (lambda: GaussianNoise(-0.1), "variance.*-0.1"),
        (lambda: Distractors(-1), "distractors.*-1"),
        (
            lambda: RegressionTask(Uniform(2), LinearFunctions(3), context_length=4),
            "dim 2.*dim 3",
        ),
        (
            lambda: RegressionTask(Uniform(2), LinearFunctions(2), context_length=0),
            "context_length.*0",
        ),
        (
            lambda: RegressionTask(
                Uniform(2), LinearFunctions(2), context_length=3, distractors=Distractors(4)
            ),
            "distractors.*context_length=3.*4",
        ),
        (lambda: Prompt(np.ones((3, 2)), np.ones((4, 1)), np.ones(2)), "xs.*ys"),
        (lambda: Prompt(np.ones((3, 2)), np.ones((3, 1)), np.ones(3)), "query"),
    ],
)
def test_bad_input_gets_a_sentence(make, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        make()
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).endswith(".")


NOISES = {  # name: the noise, and the law of ε at x
    "gaussian": (GaussianNoise(0.49), lambda x: scipy.stats.norm(scale=0.7)),
    "laplace": (LaplaceNoise(0.5), lambda x: scipy.stats.laplace(scale=0.5)),
    "student": (StudentTNoise(0.6, 9.0), lambda x: scipy.stats.t(9, scale=(0.6 * 7 / 9) ** 0.5)),
    "heteroscedastic": (
        HeteroscedasticNoise(0.3, 2.0),
        lambda x: scipy.stats.norm(scale=(0.3 * (1 + 2 * np.mean(x**2))) ** 0.5),
    ),
}
POINTS = np.array([[0.0, 0.0, 0.0], [1.0, -0.5, 2.0], [-2.0, 0.3, 0.1]])


@pytest.mark.parametrize("name", NOISES)
def test_noise_has_its_law_and_the_stated_moments_at_every_input(name):
    noise, law = NOISES[name]
    xs = jnp.broadcast_to(jnp.asarray(POINTS, jnp.float32), (200_000, 3, 3))
    labels = jnp.full((200_000, 3, 2), 1.5)
    drawn = np.asarray(compiled(noise, jax.random.key(16), labels, xs) - labels, np.float64)
    constant, growth = noise.conditional_variance(3)
    cumulants = []
    for place, x in enumerate(POINTS):
        assert scipy.stats.kstest(drawn[:20_000, place].ravel(), law(x).cdf).pvalue > 1e-4
        variance, excess = law(x).stats("vk")
        assert constant + x @ growth @ x == pytest.approx(variance, rel=1e-12)
        terms = drawn[:, place] ** 2
        assert np.all(abs(terms.mean(0) - variance) < 5 * terms.std(0) / len(terms) ** 0.5)
        cumulants.append(excess * variance**2)
    np.testing.assert_allclose(cumulants, noise.fourth_cumulant(), rtol=1e-12)
    # labels are independent, also between outputs
    ranks = scipy.stats.rankdata(np.abs(drawn.reshape(-1, 6)), axis=0)
    assert np.abs(np.corrcoef(ranks.T) - np.eye(6)).max() < 5 / 200_000**0.5
    assert noise.knows_moments and noise.symmetric and noise.rotation_invariant
    assert noise.gaussian == (name in ("gaussian", "heteroscedastic"))
    assert noise.homoscedastic == (name != "heteroscedastic")
    assert noise.finite_moments == (9 if name == "student" else np.inf)


@pytest.mark.parametrize(
    "family", [GaussianNoise, LaplaceNoise, StudentTNoise, HeteroscedasticNoise]
)
def test_noise_of_variance_zero_is_none_and_variances_may_be_traced(family):
    labels, xs = jnp.ones((4, 3, 1)), jnp.ones((4, 3, 2))
    assert family(0.0)(jax.random.key(0), labels, xs) is labels
    traced = jax.jit(lambda v: family(v)(jax.random.key(0), labels, xs))
    np.testing.assert_allclose(
        traced(0.3), compiled(family(0.3), jax.random.key(0), labels, xs), rtol=1e-6
    )


class Clicks(Noise):
    """One-sided noise that states nothing."""

    def __call__(self, key, labels, xs):
        return labels + jax.random.exponential(key, labels.shape) - 1


def test_own_noise_needs_only_a_call_and_promises_nothing():
    clicks = Clicks()
    task = RegressionTask(Gaussian(2, 1e-6), LinearFunctions(2), context_length=3, noise=clicks)
    prompts, targets = compiled(task.sample, jax.random.key(4), (50_000,))
    for drawn in (prompts.ys, targets):
        assert float(drawn.min()) > -1.001
        assert float(drawn.std()) == pytest.approx(1, rel=0.03)
    assert not (clicks.knows_moments or clicks.gaussian or clicks.symmetric or clicks.homoscedastic)
    assert not (task.sign_symmetric or task.rotation_invariant)
    for moment in (lambda: clicks.conditional_variance(2), clicks.fourth_cumulant):
        with pytest.raises(InputError, match="Clicks"):
            moment()


def test_a_task_has_the_symmetries_that_all_its_factors_have():
    def symmetries(covariates=None, functions=None, noise=None):
        task = RegressionTask(
            covariates or Gaussian(2),
            functions or LinearFunctions(2),
            context_length=3,
            noise=noise or LaplaceNoise(0.1),
        )
        return task.sign_symmetric, task.rotation_invariant

    assert symmetries() == (True, True)
    assert symmetries(covariates=Uniform(2)) == (True, False)
    assert symmetries(functions=LinearFunctions(2, mean=[[1.0, 0.0]])) == (False, False)
    assert symmetries(noise=Clicks()) == (False, False)


def test_a_task_of_ones_own_says_its_sizes_by_fields_or_properties():
    class Fixed(Task):
        dim: int
        outputs: int

        @property
        def context_length(self):
            return 3

        def sample(self, key, shape=()):
            prompt = Prompt(
                jnp.ones((*shape, 3, 2)), jnp.ones((*shape, 3, 1)), jnp.ones((*shape, 2))
            )
            return prompt, jnp.ones((*shape, 1))

    class Sizeless(Task):
        def sample(self, key, shape=()):
            return Fixed(2, 1).sample(key, shape)

    fixed = Fixed(2, 1)
    assert (fixed.dim, fixed.outputs, fixed.context_length) == (2, 1, 3)
    assert not (fixed.sign_symmetric or fixed.rotation_invariant)
    with pytest.raises(TypeError, match="context_length"):
        Sizeless()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: task_with(covariates=LinearFunctions(2)),
            "covariates.*Covariates.*LinearFunctions",
        ),
        (lambda: task_with(functions=Gaussian(2)), "functions.*Functions.*Gaussian"),
        (lambda: task_with(covariates=Gaussian), "covariates.*Covariates"),
        (lambda: task_with(noise=0.5), "noise.*Noise.*0.5"),
        (lambda: task_with(distractors=2), "distractors.*Distractors.*2"),
        (
            lambda: ClassificationTask(Gaussian(2), Gaussian(2), context_length=3),
            "functions.*Gaussian",
        ),
        (lambda: task_with(context_length="5"), "context_length.*'5'"),
        (lambda: GaussianNoise("much"), "variance.*'much'"),
        (lambda: GaussianNoise(1e300), "variance.*1e.300"),
        (lambda: GaussianNoise(1e-320), "variance"),
        (lambda: Distractors(1, 1e40), "variance.*1e.40"),
        (lambda: StudentTNoise(0.3, 2.0), "degrees_of_freedom.*2.0"),
        (lambda: StudentTNoise(0.3, 4.0).fourth_cumulant(), "StudentTNoise.*4"),
        (lambda: HeteroscedasticNoise(0.3, -1.0), "growth.*-1.0"),
        (lambda: LinearFunctions(2, scale=1e200), "scale.*1e.200"),
        (lambda: LinearFunctions(2, mean=[[1e300, 0.0]]), "mean.*1e.300"),
        (lambda: Gaussian(2, 1e-40), "scale.*1e-40"),
        (lambda: Gaussian(2, covariance=1e300 * np.eye(2)), "covariance.*1e.300"),
        (lambda: Gaussian(2, covariance=1e-320 * np.eye(2)), "covariance.*e-32"),
    ],
)
def test_factors_of_another_kind_and_sizes_beyond_float32_get_a_sentence(
    make, sentence, monkeypatch
):
    monkeypatch.setattr(
        jaxtyping.config, "jaxtyping_disable", True
    )  # as where types are not checked
    with pytest.raises(InputError, match=sentence):
        make()


def task_with(**factors):
    options = {"covariates": Gaussian(2), "functions": LinearFunctions(2), "context_length": 3}
    return RegressionTask(**(options | factors))


def test_matrices_are_read_from_csv_and_npy_and_nothing_pickled(tmp_path):
    np.savetxt(tmp_path / "m.csv", SIGMA, delimiter=",")
    np.save(tmp_path / "m.npy", SIGMA)
    np.testing.assert_allclose(read_matrix(tmp_path / "m.csv"), SIGMA)
    np.testing.assert_array_equal(read_matrix(tmp_path / "m.npy"), SIGMA)
    np.save(tmp_path / "p.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "words.csv").write_text("a,b\n")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "m.npy").read_bytes()[:40])
    for name in ("p.npy", "words.csv", "cut.npy", "missing.csv"):
        with pytest.raises(InputError, match=name):
            read_matrix(tmp_path / name)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff1,0.5\n0.5,2\n",  # Excel
        "1.0e+00 5.0e-01\n5.0e-01 2.0\n",  # np.savetxt
        "  1\t 0.5 \n\n 0.5\t2 \n",
        "a,b\n1,0.5\n0.5,2\n",
        "# the first\n1, 0.5,\n0.5, 2,\n",
        '"x 1","x 2"\r\n"1","0.5"\r\n"0.5","2"\r\n',
    ],
)
def test_text_as_other_programs_write_it_is_read(tmp_path, text):
    (tmp_path / "m.csv").write_text(text, "utf-8")
    np.testing.assert_array_equal(read_matrix(tmp_path / "m.csv"), [[1, 0.5], [0.5, 2]])


@pytest.mark.parametrize(
    "text", ["", "1,2\n3\n", "1,x\n2,3\n", "1,,2\n", "1;2\n3;4\n", "1,inf\n", "\x00"]
)
def test_text_that_is_not_a_matrix_gets_a_sentence_of_ours(tmp_path, text):
    (tmp_path / "m.csv").write_text(text, "utf-8")
    with pytest.raises(InputError, match=r"m.csv") as caught:
        read_matrix(tmp_path / "m.csv")
    assert "usecols" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "array",
    [
        SIGMA + 1j,
        SIGMA > 0,
        SIGMA.astype("datetime64[s]"),
        SIGMA.astype(str),
        np.zeros(2, [("a", float), ("b", int)]),
        SIGMA[0],
        np.full((2, 2), np.nan),
        np.zeros((0, 0)),
    ],
    ids=["complex", "bool", "dates", "text", "records", "vector", "nan", "empty"],
)
def test_arrays_that_are_not_real_matrices_get_a_sentence(tmp_path, array):
    np.save(tmp_path / "m.npy", array)
    with pytest.raises(InputError, match=r"m.npy"):
        read_matrix(tmp_path / "m.npy")


def test_pipes_devices_large_files_and_headers_that_promise_too_much_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    with (tmp_path / "large.csv").open("wb") as file:
        file.truncate(65 * 2**20)
    with (tmp_path / "promise.npy").open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}
        np.lib.format.write_array_header_1_0(file, header)
    np.savez(tmp_path / "several.npz", a=SIGMA, b=SIGMA)
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    for name in ("pipe.csv", "zero.csv", "large.csv", "promise.npy", "several.npy", "."):
        with pytest.raises(InputError, match=r"file|matrix"):
            read_matrix(tmp_path / name)
