"""The unrolled generator is JAX's Threefry; and what holds of the others too."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
import xarray as xr
from jax.random import key_data

import mesalens as ml
from mesalens import GradientDescent, InputError, random
from mesalens.tasks import Gaussian, LinearFunctions, RegressionTask
from mesalens.training import TrainingSettings, train

pytest_plugins = ["small_training"]

TASK = RegressionTask(Gaussian(2), LinearFunctions(2), context_length=3)
UNIFORM = RegressionTask(ml.tasks.Uniform(2), LinearFunctions(2), context_length=3)
CLASSES = ml.tasks.ClassificationTask(Gaussian(2), ml.tasks.LinearFunctions(2, 2), context_length=3)
STEP = GradientDescent(0.3)
LAYERS = ml.theory.gradient_descent_transformer(
    GradientDescent(0.3, steps=2), dim=2, context_length=3
)
SOFTMAX = ml.Transformer.initialise(2, key=random.key(0))

GENERATORS = get_args(random.Generator)


def test_bits_are_those_of_jax_without_the_partitionable_layout():
    with jax.threefry_partitionable(False):
        expected = jax.random.bits(jax.random.key(3), (4, 6))
    np.testing.assert_array_equal(jax.random.bits(random.key(3), (4, 6)), expected)


def test_split_and_fold_in_are_those_of_jax():
    ours, jaxs = random.key(7), jax.random.key(7)
    for shape in (1, 5, (2, 3)):
        np.testing.assert_array_equal(
            key_data(jax.random.split(ours, shape)), key_data(jax.random.split(jaxs, shape))
        )
    np.testing.assert_array_equal(
        key_data(jax.random.fold_in(ours, 9)), key_data(jax.random.fold_in(jaxs, 9))
    )


def test_odd_sizes_draw_each_word_once():
    words = np.asarray(jax.random.bits(random.key(0), (100_001,)))
    assert len(np.unique(words)) > 100_001 - 10  # 2^32 words: about one collision is expected


def test_vmap_equals_a_loop():
    keys = jax.random.split(random.key(1), 3)
    mapped = jax.vmap(lambda key: jax.random.normal(key, (5,)))(keys)
    np.testing.assert_array_equal(mapped, np.stack([jax.random.normal(key, (5,)) for key in keys]))


def test_unroll_keeps_the_key_and_leaves_other_generators_alone():
    np.testing.assert_array_equal(
        key_data(random.unroll(jax.random.key(5))), key_data(jax.random.key(5))
    )
    other = jax.random.key(5, impl="rbg")
    assert random.unroll(other) is other


def test_double_precision_draws_are_uniform():
    with jax.enable_x64(True):
        draws = np.asarray(jax.random.uniform(random.key(2), (20_000,), "float64"))
    assert draws.dtype == np.float64
    assert draws.mean() == pytest.approx(0.5, abs=5 / np.sqrt(12 * 20_000))


def test_measurements_share_no_key_with_training():
    def below(key):
        return {
            tuple(key_data(k).tolist())
            for k in [*jax.random.split(key, 6), jax.random.fold_in(key, 7)]
        }

    training = set().union(*(below(jax.random.fold_in(random.key(3), run)) for run in range(6)))
    measuring = below(random.measurement_key(3)) | {
        tuple(key_data(random.measurement_key(3)).tolist())
    }
    assert not training & measuring


def test_a_key_is_of_the_generator_that_is_asked_for_by_default_the_fastest_one(monkeypatch):
    for generator in GENERATORS:
        assert random.generator_of(random.key(3, generator)) == generator
    for generator in ("rbg", "unsafe_rbg"):
        np.testing.assert_array_equal(
            key_data(random.key(3, generator)), key_data(jax.random.key(3, impl=generator))
        )
    np.testing.assert_array_equal(key_data(random.key(3)), key_data(random.key(3, "threefry")))
    monkeypatch.setitem(random.FASTEST, jax.default_backend(), "rbg")
    assert random.generator_of(random.key(3)) == "rbg"
    monkeypatch.delitem(random.FASTEST, jax.default_backend())
    assert random.generator_of(random.key(3)) == "threefry"


def test_jaxs_own_threefry_has_the_name_of_the_unrolled_one():
    assert random.generator_of(jax.random.key(1, impl="threefry2x32")) == "threefry"
    assert random.generator_of(jax.random.split(random.key(1, "rbg"), 3)) == "rbg"


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_are_out_of_range_are_refused_with_each_generator(seed):
    for generator in GENERATORS:
        with pytest.raises(InputError, match=f"seed.*{seed}"):
            random.key(seed, generator)
    assert not np.array_equal(key_data(random.key(2**32 - 1)), key_data(random.key(0)))


def test_an_unknown_generator_gets_a_sentence():
    unchecked = getattr(
        random.key, "__wrapped__", random.key
    )  # tests check types, and users need not
    with pytest.raises(InputError, match=r"generator 'threefri'.*threefry"):
        unchecked(0, "threefri")
    with pytest.raises(ValueError, match="threefry"):
        TrainingSettings(generator="threefri")


@pytest.mark.parametrize("degrees", [0.0, -1.0, np.nan, np.inf, np.array([3.0, 0.0])])
def test_degrees_of_freedom_that_are_not_positive_are_refused(degrees):
    with pytest.raises(InputError, match="degrees_of_freedom"):
        random.chi_squared(random.key(0), degrees, (2,))


DRAWS = 20_000


@pytest.mark.parametrize("generator", GENERATORS)
def test_draws_have_their_law_and_know_nothing_of_each_other(generator):
    """Eleven tests at the level of 10⁻⁵: of three good generators one fails by chance in 3000 times."""
    key = random.key(12, generator)
    one, other = jax.random.split(key)
    uniform, normal = (
        np.asarray(draw(one, (DRAWS,))) for draw in (jax.random.uniform, jax.random.normal)
    )
    numbers = jnp.arange(4000, dtype=jnp.uint32)
    # One draw of each of many keys, one after the other: under vmap XLA's generators draw from one key alone
    of_folded = np.asarray(
        jax.jit(
            lambda key: jax.lax.map(
                lambda i: jax.random.uniform(jax.random.fold_in(key, i)), numbers
            )
        )(key)
    )
    folded = [np.asarray(jax.random.normal(jax.random.fold_in(key, i), (DRAWS,))) for i in (0, 1)]
    after_split = np.asarray(jax.random.normal(other, (DRAWS,)))
    bits = np.asarray(jax.random.bits(key, (DRAWS,)))
    ones = (bits[:, None] >> np.arange(32, dtype=np.uint32) & 1).sum()
    values = {
        "uniform": scipy.stats.kstest(uniform, "uniform").pvalue,
        "normal": scipy.stats.kstest(normal, "norm").pvalue,
        "mean": 2 * scipy.stats.norm.sf(abs(normal.mean()) * np.sqrt(DRAWS)),
        "variance": 2
        * min(law(np.sum(normal.astype(float) ** 2)) for law in chi_squared_tails(DRAWS)),
        "bits": scipy.stats.binomtest(int(ones), 32 * DRAWS).pvalue,
        "neighbours": scipy.stats.pearsonr(normal[:-1], normal[1:]).pvalue,
        "halves": scipy.stats.pearsonr(normal[: DRAWS // 2], normal[DRAWS // 2 :]).pvalue,
        "folded keys": scipy.stats.pearsonr(*folded).pvalue,
        "split keys": scipy.stats.pearsonr(normal, after_split).pvalue,
        "law over folded keys": scipy.stats.kstest(of_folded, "uniform").pvalue,
        "neighbouring folded keys": scipy.stats.pearsonr(of_folded[:-1], of_folded[1:]).pvalue,
    }
    assert min(values.values()) > 1e-5, values


def chi_squared_tails(degrees):
    return scipy.stats.chi2(degrees).cdf, scipy.stats.chi2(degrees).sf


@pytest.mark.slow
def test_with_the_generator_of_xla_a_seed_has_the_same_bits_in_any_company_on_cores(monkeypatch):
    monkeypatch.setattr(
        "mesalens.training.parallel.cores", lambda: 1
    )  # which no product is parted among

    def trained(seeds, **options):
        return train(
            lambda key: GradientDescent(0.1 + 0.1 * jax.random.uniform(key)),
            RegressionTask(Gaussian(2), LinearFunctions(2), context_length=3),
            optax.adam(1e-2),
            steps=6,
            batch_size=8,
            every=3,
            seeds=seeds,
            key=random.key(1, "rbg"),
            batching="cores",
            measure=lambda learner, key: {"draw": jax.random.uniform(key)},
            **options,
        )

    alone, company = trained([1]), trained([5, 1, 0])
    assert alone.metrics.attrs["generator"] == "rbg"
    xr.testing.assert_identical(alone.metrics, company.metrics.sel(seed=[1]))
    np.testing.assert_array_equal(alone.learners.step_size[0], company.learners.step_size[1])
    assert len(np.unique(company.metrics.draw)) == company.metrics.draw.size


@pytest.mark.parametrize(
    "call",
    [
        lambda key: ml.identify(STEP, TASK, key=key),
        lambda key: ml.identify([STEP, STEP], TASK, key=key),
        lambda key: ml.analysis.risk(STEP, TASK, key),
        lambda key: ml.analysis.risks([STEP], TASK, key),
        lambda key: ml.analysis.risks_under_shift([STEP], lambda _: TASK, jnp.ones(1), key),
        lambda key: ml.analysis.risk_by_depth(LAYERS, TASK, key),
        lambda key: ml.analysis.largest_stable_damping(LAYERS, TASK, key),
        lambda key: ml.analysis.alignment(STEP, STEP, TASK, key),
        lambda key: ml.analysis.compare(STEP, STEP, TASK, key),
        lambda key: ml.analysis.similarity(STEP, STEP, TASK, key),
        lambda key: ml.analysis.similarities(STEP, {"step": STEP}, TASK, key),
        lambda key: ml.analysis.accuracy(STEP, CLASSES, key),
        lambda key: ml.analysis.cross_entropy(STEP, CLASSES, key),
        lambda key: ml.analysis.copying(SOFTMAX, TASK, key),
        lambda key: ml.analysis.attention_maps(SOFTMAX, TASK, key),
        lambda key: ml.analysis.expectation(lambda prompt, target: target, TASK, key),
        lambda key: ml.analysis.gradient_noise(STEP, TASK, key),
        lambda key: ml.analysis.input_spectra(LAYERS, TASK, key),
        lambda key: ml.analysis.odd_signs(UNIFORM, key),
        lambda key: ml.theory.bayes_risk(UNIFORM, key=key),
        lambda key: ml.theory.best_logistic_step(CLASSES, key),
        lambda key: ml.theory.best_step_sizes(TASK, 2, key=key),
        lambda key: ml.theory.simulated_moments(UNIFORM, key=key),
        lambda key: train(lambda key: STEP, TASK, optax.sgd(0.1), steps=1, key=key),
        lambda key: ml.training.along_steps(
            STEP, TASK, "adam", lambda *_: jnp.ones(()), key, steps=1, batch_size=2
        ),
        lambda key: ml.training.gradient_flow(lambda key: STEP, TASK, [0.0, 1.0], key=key),
        lambda key: ml.atlas.beside(STEP, STEP, TASK, key, prompts=10),
        lambda key: ml.atlas.largest_difference(STEP, STEP, TASK, key),
        random.generator_of,
    ],
)
@pytest.mark.parametrize("key", [0, "abc"])
def test_what_is_no_key_gets_a_sentence(call, key, unchecked):
    with pytest.raises(InputError) as caught:
        call(key)
    words = "key must be a random key such as mesalens.random.key(0); got "
    assert str(caught.value) == f"{words}{key!r}."
