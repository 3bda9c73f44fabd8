"""Kernel smoothing against softmax attention in NumPy, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesalens import InputError, Prompt
from mesalens.learners import SoftmaxHead
from mesalens.learners.base import predict
from mesalens.tasks import GaussianNoise, LinearFunctions, RegressionTask, Sphere
from mesalens.training import train

# A few shapes, so that hypothesis searches numbers and not the compiler's cache
SHAPES = st.sampled_from([(1, 1, 1), (6, 3, 1), (4, 5, 2)])
SIZES = st.builds(lambda shape, seed: (*shape, seed), SHAPES, st.integers(0, 10_000))


def prompt_of(n, d, m, seed) -> Prompt:
    rng = np.random.default_rng(seed)
    return Prompt(rng.normal(size=(n, d)), rng.normal(size=(n, m)), rng.normal(size=d))


@given(SIZES)
@settings(max_examples=25, deadline=None)
def test_it_is_one_head_of_softmax_attention(sizes):
    _, d, m, seed = sizes
    rng = np.random.default_rng(seed + 1)
    key_weights, query_weights = rng.normal(size=(2, d, d))
    gain = rng.normal()
    with jax.enable_x64(True):
        prompt = prompt_of(*sizes)
        smoothed = SoftmaxHead(key_weights.T @ query_weights, gain=gain)(prompt)
    context = np.concatenate([prompt.xs, prompt.ys], axis=1)
    query = np.concatenate([prompt.query, np.zeros(m)])
    W_K, W_Q, W_V = np.zeros((3, d + m, d + m))
    W_K[:d, :d], W_Q[:d, :d] = key_weights, query_weights
    W_V[d:, d:] = gain * np.eye(m)
    scores = (context @ W_K.T) @ (W_Q @ query)
    attention = np.exp(scores - scores.max())
    head = attention @ (context @ W_V.T) / attention.sum()
    np.testing.assert_allclose(smoothed, head[d:], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(head[:d], 0, atol=1e-15)


def test_a_number_is_that_times_the_identity():
    prompt = prompt_of(6, 3, 2, 0)
    np.testing.assert_allclose(
        SoftmaxHead(0.7)(prompt), SoftmaxHead(0.7 * jnp.eye(3))(prompt), rtol=1e-5
    )


@given(SIZES)
@settings(max_examples=25, deadline=None)
def test_from_the_mean_label_to_that_of_the_largest_inner_product(sizes):
    with jax.enable_x64(True):
        prompt = prompt_of(*sizes)
        np.testing.assert_allclose(SoftmaxHead(0.0)(prompt), np.mean(prompt.ys, axis=0), rtol=1e-12)
        nearest = np.argmax(np.asarray(prompt.xs) @ np.asarray(prompt.query))
        np.testing.assert_allclose(SoftmaxHead(1e9)(prompt), prompt.ys[nearest], rtol=1e-12)


@pytest.mark.slow
@given(SIZES, st.floats(0.3, 3.0), st.floats(0.5, 2.0))
@settings(max_examples=25, deadline=None)
def test_on_a_sphere_it_is_the_smoother_with_the_gaussian_kernel(sizes, bandwidth, radius):
    with jax.enable_x64(True):
        prompt = prompt_of(*sizes)
        xs = radius * prompt.xs / jnp.linalg.norm(prompt.xs, axis=1, keepdims=True)
        smoothed = SoftmaxHead(bandwidth**-2)(Prompt(xs, prompt.ys, prompt.query))
        kernel = np.exp(
            -np.sum((np.asarray(xs) - np.asarray(prompt.query)) ** 2, axis=1) / (2 * bandwidth**2)
        )
        np.testing.assert_allclose(
            smoothed, kernel @ np.asarray(prompt.ys) / kernel.sum(), rtol=1e-6, atol=1e-9
        )


@pytest.mark.slow
def test_training_changes_metric_and_gain():
    task = RegressionTask(
        Sphere(2), LinearFunctions(2), context_length=20, noise=GaussianNoise(0.01)
    )
    training = train(
        lambda key: SoftmaxHead(1.0),
        task,
        optax.adam(0.1),
        steps=60,
        batch_size=256,
        every=20,
        key=jax.random.key(0),
    )
    learner = training.learner()
    assert learner.metric > 1.5
    assert learner.gain != 1
    loss = training.metrics.loss.values[0]
    assert loss[-1] < 0.7 * loss[1]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SoftmaxHead(jnp.ones(3)), r"metric .*\(3,\)"),
        (lambda: SoftmaxHead(1.0, gain=jnp.ones(2)), r"gain .*\(2,\)"),
        (lambda: SoftmaxHead(float("nan")), "metric .*nan"),
        (lambda: SoftmaxHead(1.0, gain=float("inf")), "gain .*inf"),
        (lambda: SoftmaxHead(jnp.eye(2))(prompt_of(4, 3, 1, 0)), r"metric .*\(3, 3\).*\(2, 2\)"),
        (
            lambda: predict(SoftmaxHead(1.0), prompt_of(9, 3, 1, 0).condense()),
            "SoftmaxHead .*condensed",
        ),
    ],
)
def test_bad_input_gets_a_sentence(make, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        make()
    assert str(caught.value).endswith(".")
