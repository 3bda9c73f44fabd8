"""Tasks: what is drawn has the moments that are stated."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mesalens import InputError, Prompt
from mesalens.tasks import (
    Cauchy,
    Covariates,
    Distractors,
    Exponential,
    Gaussian,
    GaussianNoise,
    Laplace,
    LinearFunctions,
    RegressionTask,
    Sphere,
    StudentT,
    Uniform,
    read_matrix,
)

SIGMA = np.array([[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]])
WEIGHT = np.array([[1.0, 0.2, -0.4], [0.2, 0.5, 0.1], [-0.4, 0.1, 2.0]])
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
            [sum(weight[j, k] * expected(j, k, a, b) for j in range(dim) for k in range(dim)) for b in range(dim)]
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
    [*(family for family, _ in FAMILIES.values()), Gaussian(3, 0.5, covariance=SIGMA), Sphere(3, 0.7), Sphere(1, 0.7)],
)
def test_samples_have_the_stated_moments(covariates):
    x = np.asarray(covariates.sample(jax.random.key(0), (400_000,)), np.float64)
    weight = WEIGHT[: covariates.dim, : covariates.dim]
    for terms, exact in (
        (np.einsum("ni,nj->nij", x, x), covariates.second_moment()),
        (
            np.einsum("nj,jk,nk,na,nb->nab", x, weight, x, x, x, optimize=True),
            covariates.fourth_moment(weight),
        ),
    ):
        error = terms.std(axis=0) / np.sqrt(len(x))
        assert np.all(np.abs(terms.mean(axis=0) - exact) < 5 * error + 1e-6)  # on a sphere x² may not vary


@pytest.mark.parametrize(
    ("covariates", "marginal"),
    [
        (StudentT(3, 0.7), scipy.stats.t(5, scale=0.7)),
        (StudentT(3, degrees_of_freedom=1.5), scipy.stats.t(1.5)),
        (Cauchy(3, 2.0), scipy.stats.cauchy(scale=2.0)),
        (Sphere(3, 2.0), scipy.stats.uniform(-2 * 3**0.5, 4 * 3**0.5)),  # Archimedes: a coordinate on S² is uniform
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


@pytest.mark.parametrize("dim", [1, 4])
def test_sphere_has_one_radius(dim):
    x = Sphere(dim, 0.7).sample(jax.random.key(14), (1000,))
    np.testing.assert_allclose(jnp.linalg.norm(x, axis=-1), 0.7 * dim**0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("covariates", "invariant"),
    [
        (Gaussian(3), True),
        (Gaussian(3, covariance=0.3 * np.eye(3)), True),
        (Gaussian(3, covariance=SIGMA), False),
        (Gaussian(3, covariance=np.diag([2.0, 1.0, 1.0])), False),
        (Sphere(3), True),
        *((family, name == "gaussian") for name, (family, _) in FAMILIES.items()),
    ],
)
def test_mirrored_covariates_have_the_same_moments_where_and_only_where_invariant(covariates, invariant):
    assert covariates.rotation_invariant is invariant
    normal = np.array([1.0, 0.4, -0.7])
    x = np.asarray(covariates.sample(jax.random.key(15), (400_000,)), np.float64)
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
        with pytest.raises(InputError, match=r"Signs states no exact moments; simulate them.*\.$"):
            moment()


@pytest.mark.parametrize("covariates", [*(family for family, _ in FAMILIES.values()), Sphere(3)])
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
    prompts, targets = task.sample(jax.random.key(2), (5,))
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
    task = RegressionTask(Gaussian(2, 1e-6), LinearFunctions(2), context_length=3, noise=GaussianNoise(0.49))
    prompts, targets = task.sample(jax.random.key(4), (50_000,))
    assert float(prompts.ys.std()) == pytest.approx(0.7, rel=0.02)
    assert float(targets.std()) == pytest.approx(0.7, rel=0.02)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_exactly_k_labels_are_replaced_anywhere_in_the_context(count):
    task = RegressionTask(Gaussian(2), LinearFunctions(2), context_length=5, distractors=Distractors(count, 4.0))
    clean = eqx.tree_at(lambda t: t.distractors, task, Distractors(0))
    prompts, targets = task.sample(jax.random.key(5), (20_000,))
    pure, pure_targets = clean.sample(jax.random.key(5), (20_000,))
    np.testing.assert_array_equal(prompts.xs, pure.xs)
    np.testing.assert_array_equal(targets, pure_targets)
    replaced = np.asarray(prompts.ys != pure.ys)[..., 0]
    np.testing.assert_array_equal(replaced.sum(axis=1), count)
    np.testing.assert_allclose(replaced.mean(axis=0), count / 5, atol=0.03)
    assert float(prompts.ys[..., 0][replaced].std()) == pytest.approx(2, rel=0.03)


@pytest.mark.parametrize("batch", [1, 4])
def test_sampling_is_reproducible_and_single_precision(batch, seed=11):
    task = RegressionTask(Uniform(2), LinearFunctions(2), context_length=3, noise=GaussianNoise(0.1))
    one, again = (task.sample(jax.random.key(seed), (batch,)) for _ in range(2))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(one))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, again))
    assert one[0].xs.shape == (batch, 3, 2)


def test_vmap_over_keys_draws_independent_prompts():
    task = RegressionTask(Uniform(2), LinearFunctions(2), context_length=3)
    keys = jax.random.split(jax.random.key(0), 4)
    prompts, targets = jax.vmap(task.sample)(keys)
    assert prompts.xs.shape == (4, 3, 2)
    np.testing.assert_array_equal(targets[2], task.sample(keys[2])[1])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Gaussian(2, covariance=np.ones((2, 3))), "square"),
        (lambda: Gaussian(2, covariance=np.eye(3)), r"the dimension is 2, so give \(2, 2\)"),
        (lambda: Gaussian(2, covariance=[[1.0, 0.5], [0.4, 1.0]]), "not symmetric"),
        (lambda: Gaussian(2, covariance=[[1.0, 2.0], [2.0, 1.0]]), "not positive semi-definite"),
        (lambda: Gaussian(2, covariance=[[1.0, np.nan], [np.nan, 1.0]]), "not finite"),
        (lambda: Gaussian(2, covariance="abc"), "not a matrix of numbers"),
        (lambda: LinearFunctions(2, covariance=-np.eye(2)), "the weights is not positive semi-definite"),
        (lambda: Uniform(0), "dim is 0"),
        (lambda: Uniform(2, -1.0), "scale is -1.0"),
        (lambda: StudentT(2, degrees_of_freedom=0.0), "the degrees of freedom is 0.0"),
        (
            lambda: StudentT(2, degrees_of_freedom=4.0).central_moments(),
            "StudentT with 4 degrees of freedom has no finite",
        ),
        (lambda: Cauchy(2).fourth_moment(np.eye(2)), "Cauchy with 1 degrees of freedom has no finite fourth moment"),
        (lambda: LinearFunctions(2, 0), "outputs is 0"),
        (lambda: GaussianNoise(-0.1), "noise variance is -0.1"),
        (lambda: Distractors(-1), "distractors is -1"),
        (lambda: RegressionTask(Uniform(2), LinearFunctions(3), context_length=4), "give both the same"),
        (lambda: RegressionTask(Uniform(2), LinearFunctions(2), context_length=0), "context length is 0"),
        (
            lambda: RegressionTask(Uniform(2), LinearFunctions(2), context_length=3, distractors=Distractors(4)),
            "4 distractors in a context of 3",
        ),
        (lambda: Prompt(np.ones((3, 2)), np.ones((4, 1)), np.ones(2)), "same n"),
        (lambda: Prompt(np.ones((3, 2)), np.ones((3, 1)), np.ones(3)), "have 2 entries"),
    ],
)
def test_bad_input_gets_a_sentence(make, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        make()
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).endswith(".")


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
