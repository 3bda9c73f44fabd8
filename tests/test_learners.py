"""Learners against second derivations: autodiff, NumPy, limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesalens import GradientDescent, InputError, LeastSquares, Prompt, Ridge

# A few shapes, so that hypothesis searches numbers and not the compiler's cache
SHAPES = st.sampled_from([(1, 1, 1), (6, 3, 1), (2, 4, 2)])
SIZES = st.builds(lambda shape, seed: (*shape, seed), SHAPES, st.integers(0, 10_000))


def prompt_of(n, d, m, seed) -> Prompt:
    rng = np.random.default_rng(seed)
    return Prompt(rng.normal(size=(n, d)), rng.normal(size=(n, m)), rng.normal(size=d))


def loss(weights, prompt):
    return jnp.sum((prompt.xs @ weights.T - prompt.ys) ** 2) / (2 * prompt.context_length)


@given(SIZES, st.sampled_from([1, 4]))
@settings(max_examples=25, deadline=None)
def test_gradient_descent_follows_the_gradient_of_the_loss(sizes, steps):
    prompt = prompt_of(*sizes)
    rng = np.random.default_rng(sizes[3] + 1)
    start = jnp.asarray(rng.normal(size=(prompt.outputs, prompt.dim)), jnp.float32)
    preconditioner = jnp.asarray(rng.normal(size=(prompt.dim, prompt.dim)), jnp.float32)
    step_sizes = jnp.linspace(0.05, 0.1, steps)
    weights = start
    for step_size in step_sizes:
        weights = weights - step_size * jax.grad(loss)(weights, prompt) @ preconditioner
    learner = GradientDescent(step_sizes, steps, initial_weights=start, preconditioner=preconditioner)
    np.testing.assert_allclose(learner(prompt), weights @ prompt.query, rtol=1e-3, atol=1e-4)


def test_defaults_are_one_step_from_zero():
    prompt = prompt_of(5, 3, 1, 0)
    expected = 0.3 / 5 * prompt.query @ prompt.xs.T @ prompt.ys
    np.testing.assert_allclose(GradientDescent(0.3)(prompt), expected, rtol=1e-5)


@given(SIZES)
@settings(max_examples=25, deadline=None)
def test_ridge_is_stationary_for_its_loss(sizes):
    prompt = prompt_of(*sizes)
    penalty = 0.3
    queries = jnp.eye(prompt.dim)
    weights = jax.vmap(lambda q: Ridge(penalty)(Prompt(prompt.xs, prompt.ys, q)))(queries).T
    gradient = (weights @ prompt.xs.T - prompt.ys.T) @ prompt.xs + penalty * weights
    np.testing.assert_allclose(gradient, 0, atol=2e-3)


@given(SIZES)
@settings(max_examples=25, deadline=None)
def test_least_squares_is_numpys_minimum_norm_solution(sizes):
    prompt = prompt_of(*sizes)
    expected = np.asarray(prompt.query, np.float64) @ (
        np.linalg.pinv(np.asarray(prompt.xs, np.float64)) @ np.asarray(prompt.ys, np.float64)
    )
    np.testing.assert_allclose(LeastSquares()(prompt), expected, rtol=2e-2, atol=2e-3)


def test_least_squares_is_the_limit_of_ridge_and_of_gradient_descent():
    prompt = prompt_of(4, 6, 2, 3)  # n < d: only the minimum-norm solution is the limit
    expected = LeastSquares()(prompt)
    np.testing.assert_allclose(Ridge(1e-4)(prompt), expected, rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(GradientDescent(0.3, 3000)(prompt), expected, rtol=1e-2, atol=1e-3)


def test_a_learner_takes_numpy_and_maps_over_batches():
    prompts = [prompt_of(5, 3, 1, seed) for seed in range(4)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *prompts)
    mapped = jax.vmap(GradientDescent(0.5, 3))(batch)
    np.testing.assert_allclose(mapped, np.stack([GradientDescent(0.5, 3)(p) for p in prompts]), rtol=1e-5)


def test_only_the_step_size_of_gradient_descent_is_trainable():
    learner = GradientDescent(0.5, initial_weights=jnp.ones((1, 2)), preconditioner=jnp.eye(2))
    mask = learner.trainable()
    assert mask.step_size is True
    assert mask.initial_weights is False
    assert mask.preconditioner is False


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: GradientDescent(0.1, 0), "steps is 0"),
        (lambda: GradientDescent(jnp.ones(3), 2), "one for each of 2 steps"),
        (lambda: Ridge(0.0), "ridge penalty is 0.0"),
    ],
)
def test_bad_input_gets_a_sentence(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()
