"""The unrolled generator is JAX's Threefry."""

import jax
import numpy as np
import pytest
from jax.random import key_data

from mesalens import random


def test_bits_are_those_of_jax_without_the_partitionable_layout():
    with jax.threefry_partitionable(False):
        expected = jax.random.bits(jax.random.key(3), (4, 6))
    np.testing.assert_array_equal(jax.random.bits(random.key(3), (4, 6)), expected)


def test_split_and_fold_in_are_those_of_jax():
    ours, jaxs = random.key(7), jax.random.key(7)
    for shape in (1, 5, (2, 3)):
        np.testing.assert_array_equal(key_data(jax.random.split(ours, shape)), key_data(jax.random.split(jaxs, shape)))
    np.testing.assert_array_equal(key_data(jax.random.fold_in(ours, 9)), key_data(jax.random.fold_in(jaxs, 9)))


def test_odd_sizes_draw_each_word_once():
    words = np.asarray(jax.random.bits(random.key(0), (100_001,)))
    assert len(np.unique(words)) > 100_001 - 10  # 2^32 words: about one collision is expected


def test_vmap_equals_a_loop():
    keys = jax.random.split(random.key(1), 3)
    mapped = jax.vmap(lambda key: jax.random.normal(key, (5,)))(keys)
    np.testing.assert_array_equal(mapped, np.stack([jax.random.normal(key, (5,)) for key in keys]))


def test_unroll_keeps_the_key_and_leaves_other_generators_alone():
    np.testing.assert_array_equal(key_data(random.unroll(jax.random.key(5))), key_data(jax.random.key(5)))
    other = jax.random.key(5, impl="rbg")
    assert random.unroll(other) is other


def test_double_precision_draws_are_uniform():
    with jax.enable_x64(True):
        draws = np.asarray(jax.random.uniform(random.key(2), (20_000,), "float64"))
    assert draws.dtype == np.float64
    assert draws.mean() == pytest.approx(0.5, abs=5 / np.sqrt(12 * 20_000))


def test_measurements_share_no_key_with_training():
    def below(key):
        return {tuple(key_data(k).tolist()) for k in [*jax.random.split(key, 6), jax.random.fold_in(key, 7)]}

    training = set().union(*(below(jax.random.fold_in(random.key(3), run)) for run in range(6)))
    measuring = below(random.measurement_key(3)) | {tuple(key_data(random.measurement_key(3)).tolist())}
    assert not training & measuring
