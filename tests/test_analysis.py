"""Measurements against closed forms and plain NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mesalens import GradientDescent, InputError, LeastSquares, LinearTransformer, Prompt, Ridge
from mesalens.analysis import (
    alignment,
    distracted,
    expectation,
    interpolate,
    normalised,
    risk,
    risks,
    risks_under_shift,
    scaled_functions,
    scaled_inputs,
    sensitivity,
)
from mesalens.tasks import Distractors, GaussianNoise, LinearFunctions, RegressionTask, Uniform
from mesalens.theory import gradient_descent_transformer, one_step_risk

TASK = RegressionTask(Uniform(3, 0.5), LinearFunctions(3, 2), context_length=5, noise=GaussianNoise(0.01))
KEY = jax.random.key(0)


def test_expectation_is_a_mean_with_its_standard_error():
    """Of 40 estimates of a known mean, standardised, the spread is 1."""
    estimate = jax.jit(
        jax.vmap(lambda key: expectation(lambda prompt, _: prompt.query[0] ** 2, TASK, key, prompts=300, chunk=100))
    )(jax.random.split(KEY, 40))
    scores = np.asarray((estimate.value - 0.25 / 3) / estimate.standard_error)
    assert abs(scores.mean()) < 4 / np.sqrt(40)
    assert 0.7 < scores.std() < 1.3


def test_chunks_pool_to_the_moments_of_the_whole():
    seen = expectation(lambda prompt, _: prompt.query, TASK, KEY, prompts=90, chunk=30)
    keys = jax.random.split(KEY, 3)
    queries = np.concatenate([TASK.sample(key, (30,))[0].query for key in _unrolled(keys)])
    np.testing.assert_allclose(seen.value, queries.mean(0), atol=1e-6)
    np.testing.assert_allclose(seen.standard_error, queries.std(0, ddof=1) / np.sqrt(90), rtol=1e-4)


def _unrolled(keys):
    from mesalens.random import unroll

    return unroll(keys)


def test_risk_takes_any_function_of_a_prompt():
    null = risk(lambda prompt: jnp.zeros(2), TASK, KEY, prompts=100_000)
    assert abs(float(null.value) - one_step_risk(TASK).null_risk) < 4.5 * float(null.standard_error)


def test_risks_of_several_learners_come_from_the_same_prompts():
    first, again = risks([Ridge(0.1), Ridge(0.1)], TASK, KEY)
    assert float(first.value) == float(again.value)


def test_sensitivity_of_a_linear_predictor_is_its_weights():
    prompt, _ = TASK.sample(KEY)
    learner = GradientDescent(0.5, 3)
    np.testing.assert_allclose(sensitivity(learner, prompt), learner.weights(prompt), rtol=1e-5)


def test_alignment_of_gradient_descents_that_differ_by_a_factor():
    """ŷ is proportional to the step size: the cosine is ±1 and differences are the factor times GD's own length."""
    alike = alignment(GradientDescent(1.5), GradientDescent(1.0), TASK, KEY)
    assert float(alike.sensitivity_cosine.value) == pytest.approx(1, abs=1e-5)
    for difference, own in (
        (alike.prediction_difference, alike.reference_prediction),
        (alike.sensitivity_difference, alike.reference_sensitivity),
    ):
        assert float(difference.value) == pytest.approx(0.5 * float(own.value), rel=1e-4)
    opposite = alignment(GradientDescent(-1.0), GradientDescent(1.0), TASK, KEY)
    assert float(opposite.sensitivity_cosine.value) == pytest.approx(-1, abs=1e-5)


def test_alignment_against_numpy():
    first, second = GradientDescent(0.7, 4), Ridge(0.3)
    prompts, _ = TASK.sample(KEY, (50,))
    predictions, sensitivities = [], []
    for learner in (first, second):
        predictions.append(np.asarray(jax.vmap(learner)(prompts)))
        # Both are linear in the query: the sensitivity's columns are the predictions at the unit vectors
        columns = [
            jax.vmap(lambda p, e=e, learner=learner: learner(Prompt(p.xs, p.ys, e)))(prompts) for e in jnp.eye(3)
        ]
        sensitivities.append(np.stack(columns, axis=-1).reshape(50, -1))
    cosine = np.sum(sensitivities[0] * sensitivities[1], axis=1) / (
        np.linalg.norm(sensitivities[0], axis=1) * np.linalg.norm(sensitivities[1], axis=1)
    )

    class Fixed(type(TASK)):
        def sample(self, key, shape=()):
            return prompts, jnp.zeros((50, 2))

    fixed = Fixed(TASK.covariates, TASK.functions, context_length=5)
    alike = alignment(first, second, fixed, KEY, prompts=50)
    np.testing.assert_allclose(alike.sensitivity_cosine.value, cosine.mean(), rtol=1e-4)
    np.testing.assert_allclose(alike.sensitivity_cosine.standard_error, cosine.std(ddof=1) / np.sqrt(50), rtol=1e-3)
    lengths = np.linalg.norm(predictions[0] - predictions[1], axis=1)
    np.testing.assert_allclose(alike.prediction_difference.value, lengths.mean(), rtol=1e-4)
    lengths = np.linalg.norm(sensitivities[0] - sensitivities[1], axis=1)
    np.testing.assert_allclose(alike.sensitivity_difference.value, lengths.mean(), rtol=1e-4)


def test_a_learner_that_ignores_the_query_has_cosine_zero():
    alike = alignment(lambda prompt: prompt.ys[0], GradientDescent(1.0), TASK, KEY, prompts=100)
    assert float(alike.sensitivity_cosine.value) == 0


def test_normalising_does_not_change_the_function():
    model = LinearTransformer.initialise(3, 2, layers=2, init_scale=1.0, key=KEY)
    A, B = normalised(model)
    np.testing.assert_allclose(np.trace(np.asarray(A)[:, :3, :3], axis1=1, axis2=2) / 3, 1, rtol=1e-4)
    same = LinearTransformer.from_effective(A[:, None], B[:, None], layers=2, outputs=2)
    prompt, _ = TASK.sample(KEY)
    np.testing.assert_allclose(same(prompt), model(prompt), rtol=1e-3)


def test_interpolation_between_scalings_of_one_model_is_that_model():
    one = gradient_descent_transformer(GradientDescent(0.8), dim=3, outputs=2, context_length=5)
    scaled = eqx.tree_at(lambda t: (t.W_Q, t.P), one, (-4 * one.W_Q, -one.P / 4))
    prompt, _ = TASK.sample(KEY)
    np.testing.assert_allclose(interpolate(scaled, one)(prompt), one(prompt), rtol=1e-5)


def test_interpolation_between_step_sizes_is_the_step_size_between():
    small, large = (
        gradient_descent_transformer(GradientDescent(rate), dim=3, outputs=2, context_length=5) for rate in (0.4, 1.0)
    )
    prompt, _ = TASK.sample(KEY)
    np.testing.assert_allclose(interpolate(small, large, 0.25)(prompt), GradientDescent(0.55)(prompt), rtol=1e-5)


def test_interpolation_needs_models_of_one_shape_and_one_head():
    one = LinearTransformer.initialise(3, key=KEY)
    with pytest.raises(InputError, match="differ in layers"):
        interpolate(one, LinearTransformer.initialise(3, layers=2, key=KEY))
    two_heads = LinearTransformer.initialise(3, heads=2, key=KEY)
    with pytest.raises(InputError, match="2 heads"):
        interpolate(two_heads, two_heads)


@pytest.mark.slow
def test_risks_under_shift_are_the_exact_ones():
    """Each shift as a task with an exact risk of its own."""
    descent = GradientDescent(1.3)
    shifts = {
        "inputs": (
            scaled_inputs(TASK),
            lambda a: eqx.tree_at(lambda t: t.covariates, TASK, Uniform(3, 0.5 * a)),
        ),
        "functions": (
            scaled_functions(TASK),
            lambda a: eqx.tree_at(lambda t: t.functions, TASK, LinearFunctions(3, 2, scale=a)),
        ),
        "distractors": (
            distracted(TASK, 0.5),
            lambda k: eqx.tree_at(lambda t: t.distractors, TASK, Distractors(int(k), 0.5)),
        ),
    }
    for shift, exact_task in shifts.values():
        values = np.array([1.0, 2.0, 4.0])
        (simulated,) = risks_under_shift([descent], shift, values, KEY, prompts=40_000)
        exact = [one_step_risk(exact_task(float(value))).at(1.3) for value in values]
        assert np.all(np.abs(np.asarray(simulated.value) - exact) < 4.5 * np.asarray(simulated.standard_error))


def test_least_squares_beats_ridge_without_noise_and_loses_with_it():
    clean = RegressionTask(Uniform(3), LinearFunctions(3), context_length=4)
    noisy = eqx.tree_at(lambda t: t.noise, clean, GaussianNoise(1.0))
    exact, shrunk = risks([LeastSquares(), Ridge(1.0)], clean, KEY)
    assert float(exact.value) < float(shrunk.value)
    exact, shrunk = risks([LeastSquares(), Ridge(1.0)], noisy, KEY)
    assert float(exact.value) > float(shrunk.value)
