"""The best sizes of several steps, against the exact one and a scan."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mesalens import GradientDescent, InputError, random, train
from mesalens.analysis import risks
from mesalens.tasks import Gaussian, GaussianNoise, LinearFunctions, RegressionTask, Uniform
from mesalens.theory import best_step_size, best_step_sizes

TASK = RegressionTask(Gaussian(2), LinearFunctions(2), context_length=5, noise=GaussianNoise(0.2))


@pytest.mark.slow
def test_one_step_has_the_exact_size_within_its_error():
    found = best_step_sizes(TASK, 1, key=random.key(1))
    assert abs(found.step_size - best_step_size(TASK)) < 4.5 * found.standard_error
    assert 0 < found.standard_error < 0.1 * found.step_size


@pytest.mark.slow
def test_three_steps_of_one_size_are_where_a_scan_is_least():
    found = best_step_sizes(TASK, 3, key=random.key(2))
    sizes = np.linspace(0.6, 1.4, 9) * found.step_size
    scanned = [
        float(each.value)
        for each in risks(
            tuple(GradientDescent(s, 3) for s in sizes), TASK, random.key(3), prompts=50_000
        )
    ]
    parabola = np.polynomial.Polynomial.fit(sizes, scanned, 4)
    least = (
        sizes[0]
        + (sizes[-1] - sizes[0])
        * np.argmin(parabola(np.linspace(sizes[0], sizes[-1], 1001)))
        / 1000
    )
    assert abs(least - found.step_size) < 4.5 * found.standard_error * np.sqrt(2)
    assert abs(float(found.risk.value) - min(scanned)) < 5 * float(found.risk.standard_error)


@pytest.mark.slow
def test_sizes_of_their_own_are_no_worse_and_stationary():
    shared = best_step_sizes(TASK, 2, key=random.key(4))
    own = best_step_sizes(TASK, 2, shared=False, key=random.key(4))
    assert own.step_size.shape == own.standard_error.shape == (2,)
    assert own.risk.value <= shared.risk.value + 3 * own.risk.standard_error
    prompts, targets = TASK.sample(random.key(5), (50_000,))

    def risk(sizes):
        return jnp.mean(
            jnp.sum((jax.vmap(GradientDescent(sizes, 2))(prompts) - targets) ** 2, axis=-1)
        )

    sizes = jnp.asarray(own.step_size, jnp.float32)
    slope, curvature = jax.jit(lambda s: (jax.grad(risk)(s), jax.hessian(risk)(s)))(sizes)
    away = np.linalg.solve(curvature, slope)  # to the least risk on these prompts
    assert np.all(np.abs(away) < 4.5 * np.sqrt(1 + 20_000 / 50_000) * own.standard_error)


BOUNDED = RegressionTask(Uniform(3, 0.5), LinearFunctions(3), context_length=5)


@pytest.fixture(scope="module")
def gd_plus_plus():
    return best_step_sizes(BOUNDED, 2, data_correction=True, key=random.key(6), prompts=10_000)


@pytest.mark.slow
def test_rates_of_gd_plus_plus_are_stationary_and_better_than_plain(gd_plus_plus):
    plain = best_step_sizes(BOUNDED, 2, key=random.key(6), prompts=10_000)
    assert gd_plus_plus.risk.value < 0.9 * plain.risk.value
    assert plain.learner.data_correction is plain.data_correction is plain.correction_error is None
    prompts, targets = BOUNDED.sample(random.key(7), (40_000,))

    def risk(rates):
        learner = GradientDescent(rates[0], 2, data_correction=rates[1])
        return jnp.mean(jnp.sum((jax.vmap(learner)(prompts) - targets) ** 2, axis=-1))

    rates = jnp.asarray([gd_plus_plus.step_size, gd_plus_plus.data_correction], jnp.float32)
    slope, curvature = jax.jit(lambda s: (jax.grad(risk)(s), jax.hessian(risk)(s)))(rates)
    errors = np.array([gd_plus_plus.standard_error, gd_plus_plus.correction_error])
    away = np.linalg.solve(curvature, slope)  # to the least risk on these prompts
    assert np.all(np.abs(away) < 4.5 * np.sqrt(1 + 10_000 / 40_000) * errors)
    assert np.all(errors < 0.1 * np.abs(rates))


@pytest.mark.slow
def test_training_gd_plus_plus_goes_down_to_its_best_rates(gd_plus_plus):
    start = GradientDescent(best_step_size(BOUNDED), 2, data_correction=0.0)
    run = train(
        lambda key: start, BOUNDED, optax.adam(0.1), steps=200, batch_size=1024, key=random.key(8)
    )
    trained, best, before = risks(
        (run.learner(), gd_plus_plus.learner, start), BOUNDED, random.key(9), prompts=20_000
    )
    assert trained.value < 0.9 * before.value
    assert trained.value == pytest.approx(float(best.value), rel=0.02)


@pytest.mark.slow
def test_rates_of_their_own_end_in_a_correction_of_nothing(gd_plus_plus):
    own = best_step_sizes(
        BOUNDED, 2, shared=False, data_correction=True, key=random.key(6), prompts=10_000
    )
    assert own.step_size.shape == own.data_correction.shape == own.correction_error.shape == (2,)
    assert own.data_correction[1] == own.correction_error[1] == 0
    assert own.risk.value < gd_plus_plus.risk.value


@pytest.mark.slow
def test_one_step_has_nothing_to_correct():
    one = best_step_sizes(BOUNDED, 1, data_correction=True, prompts=10_000)
    assert one.data_correction == one.correction_error == 0
    assert abs(one.step_size - best_step_size(BOUNDED)) < 4.5 * one.standard_error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "shared", "expected"), [(2, True, 0.224), (5, True, 0.105), (5, False, 0.020)]
)
def test_gd_plus_plus_at_the_size_of_the_paper(steps, shared, expected):
    task = RegressionTask(Uniform(10, 0.5), LinearFunctions(10), context_length=10)
    found = best_step_sizes(task, steps, shared=shared, data_correction=True)
    assert abs(float(found.risk.value) - expected) < 0.001 + 4 * float(found.risk.standard_error)


@pytest.mark.parametrize(
    ("steps", "prompts", "sentence"), [(0, 100, "steps.*0"), (1, 1, "prompts.*1")]
)
def test_sizes_that_are_none_get_a_sentence(steps, prompts, sentence):
    with pytest.raises(InputError, match=sentence):
        best_step_sizes(TASK, steps, prompts=prompts)
