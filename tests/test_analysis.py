"""Measurements against closed forms and plain NumPy."""

import math
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from compiled import compiled, mapped

from mesalens import (
    GradientDescent,
    InputError,
    LeastSquares,
    LinearTransformer,
    Prompt,
    Ridge,
    memory,
    random,
    simulation,
)
from mesalens.analysis import (
    Estimate,
    accuracy,
    alignment,
    alignment_at,
    attention_maps,
    copying,
    distracted,
    expectation,
    input_spectra,
    interpolate,
    largest_stable_damping,
    learned_preconditioner,
    normalised,
    risk,
    risk_by_depth,
    risks,
    risks_under_shift,
    scaled_functions,
    scaled_inputs,
    sensitivity,
    similarity,
)
from mesalens.simulation import plus_minus
from mesalens.tasks import (
    ClassificationTask,
    Distractors,
    Gaussian,
    GaussianNoise,
    LinearFunctions,
    RegressionTask,
    Uniform,
)
from mesalens.theory import gradient_descent_transformer, one_step_risk

TASK = RegressionTask(
    Uniform(3, 0.5), LinearFunctions(3, 2), context_length=5, noise=GaussianNoise(0.01)
)
KEY = jax.random.key(0)


def test_expectation_is_a_mean_with_its_standard_error():
    """Of 40 estimates of a known mean, standardised, the spread is 1."""
    estimate = jax.jit(
        jax.vmap(
            lambda key: expectation(
                lambda prompt, _: prompt.query[0] ** 2, TASK, key, prompts=300, chunk=100
            )
        )
    )(jax.random.split(KEY, 40))
    scores = np.asarray((estimate.value - 0.25 / 3) / estimate.standard_error)
    assert abs(scores.mean()) < 4 / np.sqrt(40)
    assert 0.7 < scores.std() < 1.3


def test_chunks_pool_to_the_moments_of_the_whole():
    seen = expectation(lambda prompt, _: prompt.query, TASK, KEY, prompts=90, chunk=30)
    keys = _unrolled(jax.random.split(KEY, 3))
    queries = np.concatenate([compiled(TASK.sample, key, (30,))[0].query for key in keys])
    np.testing.assert_allclose(seen.value, queries.mean(0), atol=1e-6)
    np.testing.assert_allclose(seen.standard_error, queries.std(0, ddof=1) / np.sqrt(90), rtol=1e-4)


def _unrolled(keys):
    from mesalens.random import unroll

    return unroll(keys)


@pytest.mark.parametrize(
    ("context_length", "prompts", "named"),
    [(5, 10**15, "prompts"), (5, 1, "prompts"), (10**9, 10, "memory"), (2**31 - 1, 10, "memory")],
)
def test_sizes_that_no_machine_has_get_a_sentence(context_length, prompts, named, monkeypatch):
    """B12: a quadrillion prompts, a context of a billion examples."""
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=2**34))
    task = RegressionTask(Gaussian(5), LinearFunctions(5), context_length=context_length)
    with pytest.raises(InputError, match=named):
        risk(Ridge(1.0), task, random.key(0), prompts=prompts)


@pytest.mark.slow
def test_long_contexts_are_drawn_in_smaller_chunks(monkeypatch):
    """As many at once as fit into the bytes allowed; the estimate is that of chunks of this size."""
    monkeypatch.setattr(
        simulation, "CHUNK_BYTES", 1000
    )  # a prompt of TASK has 4 · (5 · 3 + 5 · 2 + 3 + 2) = 120 bytes
    sizes = []

    def statistic(prompt, target):
        sizes.append(1)
        return target[0] ** 2

    small = expectation(statistic, TASK, KEY, prompts=24)
    same = expectation(statistic, TASK, KEY, prompts=24, chunk=8)
    assert float(small.value) == float(same.value) and float(small.standard_error) == float(
        same.standard_error
    )
    monkeypatch.setattr(simulation, "CHUNK_BYTES", 1)
    one_at_a_time = expectation(statistic, TASK, KEY, prompts=24)
    alone = [
        float(TASK.sample(key, (1,))[1][0, 0]) ** 2 for key in _unrolled(jax.random.split(KEY, 24))
    ]
    assert float(one_at_a_time.value) == pytest.approx(np.mean(alone), rel=1e-5)
    assert float(one_at_a_time.standard_error) == pytest.approx(
        np.std(alone, ddof=1) / np.sqrt(24), rel=1e-4
    )


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.35504, 0.00398, "0.355 ± 0.004"),
        (2.7512e-05, 1.04e-07, "2.75e-05 ± 1e-07"),
        (0.0556, 0.0008, "0.0556 ± 0.0008"),
        (0.99996, 0.00096, "1.000 ± 0.001"),
        (5437.3, 22.0, "5440 ± 20"),
        (5.437e32, 1.2e31, "5.4e+32 ± 1e+31"),
        (1.38629, 0.0, "1.386 ± 0"),
        (-0.001, 0.3, "0.0 ± 0.3"),
        (0.0, 0.1, "0.0 ± 0.1"),
        (0.25, 1e-13, "0.25 ± 1e-13"),
        (np.inf, np.nan, "inf"),
        (np.nan, 0.1, "nan"),
        (2.5, np.inf, "2.5 ± inf"),
    ],
)
def test_a_value_has_the_digits_that_its_error_justifies(value, error, text):
    assert plus_minus(value, error) == text


def test_reprs_show_numbers():
    """C10, also within what holds estimates, and not while JAX traces."""
    assert repr(Estimate(jnp.array(0.35504), jnp.array(0.00398))) == "Estimate(0.355 ± 0.004)"
    many = Estimate(jnp.arange(5.0), jnp.full(5, 0.1))
    assert repr(many) == "Estimate(shape (5,): 0.0 ± 0.1, 1.0 ± 0.1, 2.0 ± 0.1, …)"
    assert "sensitivity_cosine=Estimate(1" in repr(
        alignment(Ridge(1.0), Ridge(1.0), TASK, KEY, prompts=20)
    )
    assert jax.jit(lambda x: len(repr(Estimate(x, x))))(1.0) > 0
    assert (
        repr(jax.tree.map(lambda leaf: None, many)) == "Estimate(value=None, standard_error=None)"
    )


def wrong_shape(prompt):
    return jnp.zeros(3)


CLASSES = ClassificationTask(Gaussian(3), LinearFunctions(3, 2), context_length=4)


@pytest.mark.parametrize(
    "measure",
    [
        lambda: risk(wrong_shape, TASK, KEY, prompts=10),
        lambda: risks([Ridge(1.0), wrong_shape], TASK, KEY, prompts=10),
        lambda: alignment(wrong_shape, Ridge(1.0), TASK, KEY, prompts=10),
        lambda: alignment(Ridge(1.0), wrong_shape, TASK, KEY, prompts=10),
        lambda: sensitivity(wrong_shape, TASK.sample(KEY)[0]),
        lambda: similarity(wrong_shape, Ridge(1.0), TASK, KEY, prompts=10),
        lambda: risks_under_shift([wrong_shape], scaled_inputs(TASK), np.ones(2), KEY, prompts=10),
        lambda: accuracy(wrong_shape, CLASSES, KEY, prompts=10),
        lambda: risk(lambda prompt: 0.5, TASK, KEY, prompts=10),
    ],
)
def test_predictions_of_another_shape_are_refused(measure):
    """A6: they were broadcast."""
    with pytest.raises(InputError, match=r"must have shape \(2,\)"):
        measure()


def test_sensitivities_that_are_not_finite_have_no_cosine():
    """B4: it was 0."""
    prompt, _ = compiled(TASK.sample, KEY)

    def lost(prompt):
        return jnp.full(2, jnp.nan) * prompt.query[:2]

    assert np.isnan(alignment_at(lost, Ridge(1.0), prompt)["sensitivity_cosine"])
    assert alignment_at(lambda prompt: prompt.ys[0], Ridge(1.0), prompt)["sensitivity_cosine"] == 0


@pytest.mark.parametrize(
    ("measure", "named"),
    [
        (lambda: input_spectra(Ridge(1.0), TASK, KEY), "input_spectra .*LinearTransformer.*Ridge"),
        (lambda: attention_maps(Ridge(1.0), TASK, KEY), "attention_maps .*Transformer.*Ridge"),
        (lambda: copying(Ridge(1.0), TASK, KEY), "copying .*Transformer.*Ridge"),
        (lambda: risk_by_depth(Ridge(1.0), TASK, KEY), "risk_by_depth .*LinearTransformer.*Ridge"),
        (lambda: largest_stable_damping(Ridge(1.0), TASK, KEY), "largest_stable_damping .*Ridge"),
        (lambda: interpolate(Ridge(1.0), Ridge(1.0)), "normalised .*LinearTransformer.*Ridge"),
        (lambda: learned_preconditioner(Ridge(1.0)), "learned_preconditioner .*Ridge"),
    ],
)
def test_a_learner_without_the_part_that_is_measured_gets_a_sentence(measure, named, monkeypatch):
    """B19."""
    monkeypatch.setattr(
        jaxtyping.config, "jaxtyping_disable", True
    )  # as where types are not checked
    with pytest.raises(InputError, match=named):
        measure()


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
    prompts, _ = compiled(TASK.sample, KEY, (50,))
    predictions, sensitivities = [], []
    for learner in (first, second):
        predictions.append(np.asarray(mapped(learner, prompts)))
        # Both are linear in the query: the sensitivity's columns are the predictions at the unit vectors
        columns = [
            mapped(learner, Prompt(prompts.xs, prompts.ys, np.tile(e, (50, 1))))
            for e in np.eye(3, dtype=np.float32)
        ]
        sensitivities.append(np.stack(columns, axis=-1).reshape(50, -1))
    cosine = np.sum(sensitivities[0] * sensitivities[1], axis=1) / (
        np.linalg.norm(sensitivities[0], axis=1) * np.linalg.norm(sensitivities[1], axis=1)
    )

    class Fixed(type(TASK)):
        def sample(self, key, shape=()):
            def first(array):
                return array[: math.prod(shape)].reshape(*shape, *array.shape[1:])

            return jax.tree.map(first, (prompts, jnp.zeros((50, 2))))

    fixed = Fixed(TASK.covariates, TASK.functions, context_length=5)
    alike = alignment(first, second, fixed, KEY, prompts=50)
    np.testing.assert_allclose(alike.sensitivity_cosine.value, cosine.mean(), rtol=1e-4)
    np.testing.assert_allclose(
        alike.sensitivity_cosine.standard_error, cosine.std(ddof=1) / np.sqrt(50), rtol=1e-3
    )
    lengths = np.linalg.norm(predictions[0] - predictions[1], axis=1)
    np.testing.assert_allclose(alike.prediction_difference.value, lengths.mean(), rtol=1e-4)
    lengths = np.linalg.norm(sensitivities[0] - sensitivities[1], axis=1)
    np.testing.assert_allclose(alike.sensitivity_difference.value, lengths.mean(), rtol=1e-4)


def test_a_learner_that_ignores_the_query_has_cosine_zero():
    alike = alignment(lambda prompt: prompt.ys[0], GradientDescent(1.0), TASK, KEY, prompts=100)
    assert float(alike.sensitivity_cosine.value) == 0


def test_normalising_does_not_change_the_function():
    model = LinearTransformer.initialise(3, 2, layers=2, init_scale=1.0, key=KEY)
    A, B = compiled(normalised, model)
    np.testing.assert_allclose(
        np.trace(np.asarray(A)[:, :3, :3], axis1=1, axis2=2) / 3, 1, rtol=1e-4
    )
    same = LinearTransformer.from_effective(A[:, None], B[:, None], layers=2, outputs=2)
    prompt, _ = compiled(TASK.sample, KEY)
    np.testing.assert_allclose(compiled(same, prompt), compiled(model, prompt), rtol=1e-3)


def test_interpolation_between_scalings_of_one_model_is_that_model():
    one = compiled(
        gradient_descent_transformer, GradientDescent(0.8), dim=3, outputs=2, context_length=5
    )
    A, B = compiled(one.effective)
    scaled = LinearTransformer.from_effective(-4 * A, -B / 4, layers=one.layers, outputs=2)
    prompt, _ = compiled(TASK.sample, KEY)
    between = compiled(interpolate, scaled, one)
    np.testing.assert_allclose(compiled(between, prompt), compiled(one, prompt), rtol=1e-5)


def test_interpolation_between_step_sizes_is_the_step_size_between():
    sizes = {"dim": 3, "outputs": 2, "context_length": 5}
    small, large = (
        compiled(gradient_descent_transformer, GradientDescent(rate), **sizes)
        for rate in (0.4, 1.0)
    )
    prompt, _ = compiled(TASK.sample, KEY)
    between, expected = compiled(interpolate, small, large, 0.25), GradientDescent(0.55)
    np.testing.assert_allclose(compiled(between, prompt), compiled(expected, prompt), rtol=1e-5)


def test_interpolation_needs_models_of_one_shape_and_one_head():
    one = LinearTransformer.initialise(3, key=KEY)
    with pytest.raises(InputError, match="layers"):
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
        assert np.all(
            np.abs(np.asarray(simulated.value) - exact) < 4.5 * np.asarray(simulated.standard_error)
        )


def test_least_squares_beats_ridge_without_noise_and_loses_with_it():
    clean = RegressionTask(Uniform(3), LinearFunctions(3), context_length=4)
    noisy = eqx.tree_at(lambda t: t.noise, clean, GaussianNoise(1.0))
    exact, shrunk = risks([LeastSquares(), Ridge(1.0)], clean, KEY)
    assert float(exact.value) < float(shrunk.value)
    exact, shrunk = risks([LeastSquares(), Ridge(1.0)], noisy, KEY)
    assert float(exact.value) > float(shrunk.value)
