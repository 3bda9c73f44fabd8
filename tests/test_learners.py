"""Learners against second derivations: autodiff, NumPy, limits."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.sparse.linalg
from compiled import compiled
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array

from mesalens import GradientDescent, InputError, Learner, LeastSquares, Prompt, Ridge
from mesalens._precision import in_precision
from mesalens.learners import (
    BayesianRegression,
    ChebyshevDescent,
    ConjugateGradient,
    LogisticDescent,
    NewtonSchulz,
    SoftmaxHead,
)
from mesalens.learners.base import predict, predict_iterates

# A few shapes, so that hypothesis searches numbers and not the compiler's cache
SHAPES = st.sampled_from([(1, 1, 1), (6, 3, 1), (2, 4, 2)])
SIZES = st.builds(lambda shape, seed: (*shape, seed), SHAPES, st.integers(0, 10_000))


def prompt_of(n, d, m, seed) -> Prompt:
    rng = np.random.default_rng(seed)
    return Prompt(rng.normal(size=(n, d)), rng.normal(size=(n, m)), rng.normal(size=d))


def loss(weights, prompt):
    return jnp.sum((prompt.xs @ weights.T - prompt.ys) ** 2) / (2 * prompt.context_length)


gradient = jax.jit(jax.grad(loss))


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
        weights = weights - step_size * gradient(weights, prompt) @ preconditioner
    learner = GradientDescent(
        step_sizes, steps, initial_weights=start, preconditioner=preconditioner
    )
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
    # In float64: with n < d, where only the minimum-norm solution is the limit, Ridge inverts a nearly singular matrix
    with jax.enable_x64(True):
        prompt = prompt_of(4, 6, 2, 3)
        expected = compiled(LeastSquares(), prompt)
        np.testing.assert_allclose(compiled(Ridge(1e-8), prompt), expected, rtol=1e-6)
        descended = compiled(GradientDescent(0.3, 3000), prompt)
        np.testing.assert_allclose(descended, expected, rtol=1e-2, atol=1e-3)


def test_a_learner_takes_numpy_and_maps_over_batches():
    prompts = [prompt_of(5, 3, 1, seed) for seed in range(4)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *prompts)
    mapped = jax.vmap(GradientDescent(0.5, 3))(batch)
    np.testing.assert_allclose(
        mapped, np.stack([GradientDescent(0.5, 3)(p) for p in prompts]), rtol=1e-5
    )


def test_only_the_rates_of_gradient_descent_are_trainable():
    learner = GradientDescent(
        0.5, initial_weights=jnp.ones((1, 2)), preconditioner=jnp.eye(2), momentum=0.1
    )
    mask = learner.trainable()
    assert mask.step_size is True
    assert mask.momentum is True
    assert mask.data_correction is None
    assert mask.initial_weights is False
    assert mask.preconditioner is False


def test_a_rate_that_is_an_integer_is_trained():
    learner = GradientDescent(1, data_correction=2)
    assert learner.trainable().step_size is True and learner.trainable().data_correction is True


def test_fixed_fields_are_named_whole():
    class Mine(Learner):
        W: Array
        W_out: Array
        inner: GradientDescent
        fixed = ("W", "inner.step_size")

        def __call__(self, prompt):
            return self.inner(prompt)

    mask = Mine(jnp.ones(1), jnp.ones(1), GradientDescent(0.5, momentum=0.1)).trainable()
    assert (mask.W, mask.W_out) == (False, True)
    assert (mask.inner.step_size, mask.inner.momentum) == (False, True)


def rates_of(steps, seed):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.2, 0.6, steps), rng.uniform(0.1, 0.3, steps), rng.uniform(0.1, 0.5, steps)


def tokens_by_numpy(prompt, step_sizes, corrections, preconditioner):
    """GD++ as it changes tokens, from zero: residuals and covariates of the context, and the query's."""
    xs, ys, query = (np.asarray(part, np.float64) for part in (prompt.xs, prompt.ys, prompt.query))
    prediction, predictions = np.zeros(ys.shape[1]), [np.zeros(ys.shape[1])]
    for step_size, correction in zip(step_sizes, corrections, strict=True):
        for_query, for_context = xs @ preconditioner @ query, xs @ preconditioner @ xs.T
        prediction = prediction + step_size / len(xs) * ys.T @ for_query
        ys, xs, query = (
            ys - step_size / len(xs) * for_context.T @ ys,
            xs - correction / len(xs) * for_context.T @ xs,
            query - correction / len(xs) * xs.T @ for_query,
        )
        predictions.append(prediction)
    return np.array(predictions)


def test_gd_plus_plus_changes_tokens_on_the_way():
    with jax.enable_x64(True):
        prompt = prompt_of(6, 3, 2, 0)
        step_sizes, corrections, _ = rates_of(4, 1)
        preconditioner = np.random.default_rng(2).normal(size=(3, 3))
        learner = GradientDescent(
            step_sizes, 4, data_correction=corrections, preconditioner=preconditioner
        )
        expected = tokens_by_numpy(prompt, step_sizes, corrections, preconditioner)
        np.testing.assert_allclose(learner.iterates(prompt), expected, rtol=1e-10)
        np.testing.assert_allclose(learner(prompt), expected[-1], rtol=1e-10)


def test_gd_plus_plus_has_the_step_sizes_of_its_spectral_formula():
    with jax.enable_x64(True):
        prompt = prompt_of(6, 3, 2, 4)
        step_sizes, corrections, _ = rates_of(5, 3)
        eigenvalues, axes = np.linalg.eigh(prompt.xs.T @ prompt.xs / 6)
        transform, learned = np.ones(3), np.zeros(3)
        for step_size, correction in zip(step_sizes, corrections, strict=True):
            learned = learned + step_size * transform**2 * (1 - eigenvalues * learned)
            transform = transform * (1 - correction * transform**2 * eigenvalues)
        expected = prompt.ys.T @ prompt.xs / 6 @ axes @ np.diag(learned) @ axes.T
        weights = GradientDescent(step_sizes, 5, data_correction=corrections).weights(prompt)
        np.testing.assert_allclose(weights, expected, rtol=1e-10)


def test_the_last_correction_may_be_left_out():
    prompt = prompt_of(5, 3, 2, 15)
    step_sizes, corrections = np.array([0.3, 0.2, 0.4]), np.array([0.1, 0.2])
    shorter = GradientDescent(step_sizes, 3, data_correction=corrections)
    for last in (0.0, 0.7):
        whole = GradientDescent(step_sizes, 3, data_correction=np.append(corrections, last))
        np.testing.assert_allclose(shorter(prompt), whole(prompt), rtol=1e-12)
        λ = np.linspace(0.1, 3, 7)
        np.testing.assert_allclose(
            shorter.spectral_filter(λ, 5), whole.spectral_filter(λ, 5), rtol=1e-12
        )
    one = GradientDescent(0.3, 1, data_correction=np.zeros(0))
    np.testing.assert_allclose(one(prompt), GradientDescent(0.3)(prompt), rtol=1e-12)


def test_gd_plus_plus_without_correction_or_with_one_step_is_gradient_descent():
    with jax.enable_x64(True):
        prompt = prompt_of(5, 3, 2, 5)
        start, preconditioner = np.ones((2, 3)), np.diag([1.0, 0.5, 2.0])
        given = {"initial_weights": start, "preconditioner": preconditioner}
        for steps, correction in ((3, 0.0), (1, 0.7)):
            plain = GradientDescent(0.3, steps, **given)
            corrected = GradientDescent(0.3, steps, data_correction=correction, **given)
            np.testing.assert_allclose(
                corrected.trajectory(prompt), plain.trajectory(prompt), rtol=1e-13
            )


def test_momentum_and_a_start_in_a_loop():
    with jax.enable_x64(True):
        prompt = prompt_of(6, 3, 2, 7)
        xs, ys = np.asarray(prompt.xs), np.asarray(prompt.ys)
        step_sizes, corrections, momenta = rates_of(4, 8)
        preconditioner = np.random.default_rng(9).normal(size=(3, 3))
        start = np.random.default_rng(10).normal(size=(2, 3))
        weights, before, transform, expected = start, start, np.eye(3), [start]
        for k in range(4):
            moved = xs @ transform.T
            slope = (weights @ xs.T - ys.T) @ moved / 6 @ preconditioner @ transform
            weights, before = (
                weights - step_sizes[k] * slope + momenta[k] * (weights - before),
                weights,
            )
            transform = (
                np.eye(3) - corrections[k] / 6 * moved.T @ moved @ preconditioner
            ) @ transform
            expected.append(weights)
        learner = GradientDescent(
            step_sizes,
            4,
            initial_weights=start,
            preconditioner=preconditioner,
            data_correction=corrections,
            momentum=momenta,
        )
        np.testing.assert_allclose(learner.trajectory(prompt), expected, rtol=1e-10)


def test_conjugate_gradients_are_scipys():
    with jax.enable_x64(True):
        prompt = prompt_of(8, 4, 2, 11)
        xs, ys, query = (np.asarray(part) for part in (prompt.xs, prompt.ys, prompt.query))
        iterates = compiled(ConjugateGradient(6).iterates, prompt)
        for k in range(5):
            solved = [
                scipy.sparse.linalg.cg(xs.T @ xs, xs.T @ y, maxiter=k, rtol=0, atol=0)[0]
                if k
                else 0 * query
                for y in ys.T
            ]
            np.testing.assert_allclose(iterates[k], np.array(solved) @ query, rtol=1e-9, atol=1e-12)
        for k in (4, 5, 6):
            expected = compiled(LeastSquares(), prompt)
            np.testing.assert_allclose(iterates[k], expected, rtol=1e-9)


def test_newton_schulz_squares_its_error():
    with jax.enable_x64(True):
        prompt = prompt_of(8, 3, 2, 12)
        xs, ys, query = (np.asarray(part) for part in (prompt.xs, prompt.ys, prompt.query))
        gram = xs.T @ xs
        inverse = 1.5 * gram / np.linalg.norm(gram, 2) ** 2
        left, expected = np.eye(3) - gram @ inverse, []
        for k in range(8):
            np.testing.assert_allclose(
                np.eye(3) - gram @ inverse,
                np.linalg.matrix_power(left, 2**k),
                rtol=1e-6,
                atol=1e-12,
            )
            expected.append(ys.T @ xs @ inverse @ query)
            inverse = 2 * inverse - inverse @ gram @ inverse
        iterates = compiled(NewtonSchulz(7, 1.5).iterates, prompt)
        np.testing.assert_allclose(iterates, expected, rtol=1e-10)
        last, solution = compiled(NewtonSchulz(15), prompt), compiled(LeastSquares(), prompt)
        np.testing.assert_allclose(last, solution, rtol=1e-9)


def test_chebyshevs_descent_leaves_his_polynomial():
    with jax.enable_x64(True):
        prompt = prompt_of(9, 3, 1, 13)
        xs, query = np.asarray(prompt.xs), np.asarray(prompt.query)
        eigenvalues, axes = np.linalg.eigh(xs.T @ xs / 9)
        lower, upper = 0.9 * float(eigenvalues[0]), 1.1 * float(eigenvalues[-1])
        centre, middle = (
            (upper + lower) / (upper - lower),
            (upper + lower - 2 * eigenvalues) / (upper - lower),
        )
        iterates = compiled(ChebyshevDescent(5, lower, upper).iterates, prompt)
        solution = np.linalg.lstsq(xs, np.asarray(prompt.ys))[0][:, 0]
        for k in range(6):
            polynomial = np.polynomial.chebyshev.Chebyshev.basis(k)
            left = polynomial(middle) / polynomial(centre)
            assert np.all(np.abs(left) <= 1 / polynomial(centre) + 1e-12)
            expected = query @ (solution - axes @ (left * (axes.T @ solution)))
            np.testing.assert_allclose(iterates[k], [expected], rtol=1e-9, atol=1e-12)


SUM_ALONE = [
    GradientDescent(0.3, 3),
    GradientDescent(0.3, 3, data_correction=0.2, momentum=0.1),
    ChebyshevDescent(3, 0.1, 3.0),
    ConjugateGradient(2),
    NewtonSchulz(3),
    Ridge(0.5),
    LeastSquares(),
    BayesianRegression(np.eye(3), 0.2, prior_mean=np.ones((2, 3))),
]


@pytest.mark.parametrize("learner", SUM_ALONE, ids=lambda learner: type(learner).__name__)
def test_learners_that_say_so_see_the_sum_alone(learner):
    with jax.enable_x64(True):
        learner = in_precision(learner, jnp.float64)
        prompt = prompt_of(9, 3, 2, 15)
        assert learner.sees_only_sum
        condensed = compiled(predict, learner, prompt.condense())
        np.testing.assert_allclose(condensed, compiled(predict, learner, prompt), rtol=1e-8)


@pytest.mark.parametrize(
    "learner", [SoftmaxHead(1.0), LogisticDescent(0.5), lambda prompt: prompt.ys[0]]
)
def test_learners_that_read_examples_refuse_condensed_prompts(learner):
    with pytest.raises(InputError, match="condensed"):
        predict(learner, prompt_of(9, 3, 2, 15).condense())


def test_iterates_are_checked_as_predictions_are(monkeypatch):
    class Wrong(GradientDescent):
        def iterates(self, prompt):
            return super().iterates(prompt)[:, :1]

    prompt = prompt_of(4, 3, 2, 16)
    assert predict_iterates(Ridge(0.1), prompt).shape == (1, 2)
    assert predict_iterates(GradientDescent(0.1, 3), prompt).shape == (4, 2)
    monkeypatch.setattr(
        jaxtyping.config, "jaxtyping_disable", True
    )  # as where types are not checked
    with pytest.raises(InputError, match=r"Wrong .*\(2, 1\).*\(2, 2\)"):
        predict_iterates(Wrong(0.1), prompt)


ITERATIVE = {
    "gradient descent": GradientDescent(0.3, 3),
    "gd++, momentum": GradientDescent(0.3, 3, data_correction=0.2, momentum=0.1),
    "conjugate gradient": ConjugateGradient(3),
    "newton": NewtonSchulz(3),
    "chebyshev": ChebyshevDescent(3, 0.1, 3.0),
}


@pytest.mark.parametrize("name", ITERATIVE)
def test_a_learner_in_steps_ends_at_its_last_iterate_and_has_slopes(name):
    learner = ITERATIVE[name]
    batch = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(prompt_of(2, 4, 1, seed) for seed in range(3))
    )
    mapped = jax.jit(jax.vmap(lambda p: (learner(p), learner.iterates(p))))(batch)
    alone = compiled(learner.iterates, jax.tree.map(lambda leaf: leaf[2], batch))
    assert alone.shape == (4, 1)
    np.testing.assert_allclose(mapped[1][2], alone, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(mapped[0], mapped[1][:, -1], rtol=1e-5, atol=1e-6)
    # Labels of zero, a context without inputs, more steps than the context has rows
    nothing = jax.tree.map(jnp.zeros_like, batch)
    slope = jax.jit(jax.vmap(jax.grad(lambda p: learner(p)[0])))
    for prompts in (batch, nothing, Prompt(batch.xs, nothing.ys, batch.query)):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope(prompts)))


@pytest.mark.slow
def test_one_step_of_each_is_the_first_of_several():
    prompt = prompt_of(5, 3, 2, 14)
    for one, several in (
        (ConjugateGradient(1), ConjugateGradient(2)),
        (NewtonSchulz(1), NewtonSchulz(2)),
        (ChebyshevDescent(1, 0.5, 2.0), ChebyshevDescent(2, 0.5, 2.0)),
    ):
        np.testing.assert_allclose(one.iterates(prompt), several.iterates(prompt)[:2], rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: GradientDescent(0.1, 0), "steps .*0"),
        (lambda: GradientDescent(jnp.ones(3), 2), r"step_size .*\(2,\).*\(3,\)"),
        (lambda: GradientDescent(jnp.array([0.1, jnp.nan]), 2), "step_size .*nan"),
        (lambda: GradientDescent(0.1, 2, data_correction=jnp.ones(3)), r"data_correction .*\(3,\)"),
        (lambda: GradientDescent(jnp.ones(1), 2), r"step_size .*\(1,\)"),
        (lambda: GradientDescent(0.1, 2, momentum=float("inf")), "momentum .*inf"),
        (lambda: GradientDescent(0.1, initial_weights=jnp.ones(3)), r"initial_weights .*\(3,\)"),
        (
            lambda: GradientDescent(0.1, initial_weights=jnp.ones((1, 3)))(prompt_of(4, 3, 2, 0)),
            r"initial_weights .*\(2, 3\).*\(1, 3\)",
        ),
        (
            lambda: GradientDescent(0.1, preconditioner=jnp.ones(3))(prompt_of(4, 3, 2, 0)),
            r"preconditioner .*\(3, 3\).*\(3,\)",
        ),
        (lambda: ConjugateGradient(0), "steps .*0"),
        (lambda: NewtonSchulz(3, 2.0), "scale .*0.0"),
        (lambda: NewtonSchulz(3, -1.0), "scale .*-1.0"),
        (lambda: ChebyshevDescent(3, 0.0, 1.0), "lower .*0.0"),
        (lambda: ChebyshevDescent(3, 2.0, 1.0), "upper - lower .*-1.0"),
        (lambda: Ridge(0.0), "penalty .*0.0"),
    ],
)
def test_bad_input_gets_a_sentence(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()
