"""Training on the risk itself: it arrives at the optimum, without noise, from the weights of the sampled objective."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mesalens import GradientDescent, InputError, LinearTransformer, random
from mesalens.tasks import Gaussian, GaussianNoise, LinearFunctions, RegressionTask, Task, Uniform
from mesalens.theory import exact_moments, layer_risk, optimal_layer
from mesalens.training import TrainingSettings, gradient_flow, train

pytest_plugins = ["small_training"]

SMALL = RegressionTask(Gaussian(2), LinearFunctions(2), context_length=3, noise=GaussianNoise(0.1))


def paper_like(dim):
    return lambda key: LinearTransformer.initialise(dim, key=key)


def trained(task=SMALL, initialise=None, optimiser=None, **options):
    options = {"steps": 20, "every": 10, "key": random.key(3), "objective": "population"} | options
    return train(initialise or paper_like(task.dim), task, optimiser or optax.adam(1e-2), **options)


@pytest.mark.slow
def test_at_ten_inputs_and_ten_examples_it_comes_within_a_billionth_of_the_optimum():
    task = RegressionTask(Uniform(10, 0.5), LinearFunctions(10), context_length=10)
    optimum = optimal_layer(task).risk
    optimiser = optax.adam(optax.exponential_decay(3e-3, 1000, 0.1))
    training = trained(task, optimiser=optimiser, steps=5000, every=500, seeds=3, key=random.key(0))
    risks = training.metrics.risk.values
    assert np.all(risks > optimum * (1 - 1e-12))
    assert np.all(
        risks[:, 0] > 0.99 * one_without_context(task)
    )  # from the risk of predicting zero
    assert np.all(risks[:, -1] / optimum - 1 < 1e-8)
    moments = exact_moments(task)
    for seed in range(3):
        assert layer_risk(training.learner(seed), moments) == pytest.approx(
            risks[seed, -1], rel=1e-6
        )


def one_without_context(task):
    return float(np.trace(task.covariates.second_moment() @ task.functions.row_covariance()))


@pytest.mark.slow
def test_lbfgs_arrives_too():
    training = trained(optimiser=optax.lbfgs(), steps=50, every=50)
    assert training.metrics.risk.values[0, -1] / optimal_layer(SMALL).risk - 1 < 1e-8


@pytest.mark.slow
def test_it_starts_from_the_weights_of_the_sampled_objective():
    still = optax.sgd(0.0)
    population = trained(optimiser=still, seeds=2, steps=1, every=1)
    sampled = trained(optimiser=still, seeds=2, steps=1, every=1, objective="sampled", batch_size=4)
    assert "risk" not in sampled.metrics
    for name in ("W_Q", "W_K", "W_V", "P"):
        ours, theirs = (getattr(t.learners.weights, name) for t in (population, sampled))
        assert (
            ours.dtype == theirs.dtype == np.float32
        )  # they are carried in float64, and come back as prompts are
        np.testing.assert_array_equal(ours, theirs)


def test_metrics_have_the_exact_risk_and_the_loss_and_what_was_measured():
    training = trained(
        measure=lambda learner, key: {"norm": jnp.sum(learner.weights.P**2)}, seeds=2
    )
    assert training.metrics.risk.dims == ("seed", "step") and training.metrics.norm.shape == (2, 3)
    assert training.metrics.step.values.tolist() == [0, 10, 20]
    risks, losses = training.metrics.risk.values, training.metrics.loss.values
    assert np.isnan(losses[:, 0]).all()
    # Without batches the loss of a step is the risk before it: within what the steps of its ten span
    assert np.all(losses[:, 1:] <= risks[:, :-1]) and np.all(losses[:, 1:] >= risks[:, 1:])


@pytest.mark.slow
def test_the_same_run_again_is_the_same_to_the_bit_and_needs_no_batches():
    first, again = trained(batch_size=1), trained(batch_size=64)
    np.testing.assert_array_equal(first.learners.weights.W_V, again.learners.weights.W_V)


@pytest.mark.slow
def test_settings_know_the_objective():
    inputs = {"kind": "uniform", "scale": 0.5}
    settings = TrainingSettings(
        task={"dim": 2, "context_length": 3, "covariates": inputs},
        steps=3,
        every=3,
        objective="population",
    )
    training = settings.train()
    moments = exact_moments(settings.exact_task())
    assert float(training.metrics.risk[0, -1]) == pytest.approx(
        layer_risk(training.learner(), moments), rel=1e-12
    )


class Own(Task):
    dim: int = 2
    outputs: int = 1
    context_length: int = 3

    def sample(self, key, shape=()):
        return SMALL.sample(key, shape)


def test_learners_and_tasks_without_an_exact_risk_get_a_sentence(unchecked):
    with pytest.raises(InputError, match=r"objective.*LinearTransformer.*GradientDescent"):
        trained(initialise=lambda key: GradientDescent(0.1))
    with pytest.raises(InputError, match=r"2 layers|layers.*2"):
        trained(initialise=lambda key: LinearTransformer.initialise(2, layers=2, key=key))
    with pytest.raises(InputError, match=r"d = 3.*m = 1|3"):
        trained(initialise=paper_like(3))
    with pytest.raises(InputError, match=r"RegressionTask.*Own"):
        train(
            paper_like(2),
            Own(),
            optax.adam(1e-2),
            steps=1,
            key=random.key(0),
            objective="population",
        )
    with pytest.raises(InputError, match=r"RegressionTask.*Own"):
        gradient_flow(paper_like(2), Own(), [0.0, 1.0], key=random.key(0))


@pytest.mark.slow
def test_gradient_flow_never_climbs_and_arrives_at_the_optimum():
    flow = gradient_flow(paper_like(2), SMALL, np.linspace(0, 400, 81), seeds=2, key=random.key(3))
    risks = flow.metrics.risk.values
    assert flow.metrics.risk.dims == ("seed", "time") and flow.metrics.time.values[-1] == 400
    start = trained(seeds=2, steps=1, every=1).metrics.risk.values[:, 0]
    np.testing.assert_allclose(risks[:, 0], start, rtol=1e-12)
    assert np.all(np.diff(risks, axis=1) <= 1e-12)
    np.testing.assert_allclose(risks[:, -1], optimal_layer(SMALL).risk, rtol=1e-6)
    assert flow.learners.weights.P.dtype == np.float32
    assert layer_risk(flow.learner(1), exact_moments(SMALL)) == pytest.approx(
        risks[1, -1], rel=1e-9
    )


@pytest.mark.slow
def test_gradient_flow_is_what_small_steps_of_descent_converge_to():
    def initialise(key):
        return LinearTransformer.initialise(2, init_scale=0.2, key=key)

    flow = gradient_flow(initialise, SMALL, [0.0, 2.0], key=random.key(1), rtol=1e-9, atol=1e-12)
    steps = [
        trained(
            initialise=initialise,
            optimiser=optax.sgd(2 / count),
            steps=count,
            every=count,
            key=random.key(1),
        )
        for count in (400, 800)
    ]
    coarse, fine = (float(of.metrics.risk[0, -1]) for of in steps)
    exact = float(flow.metrics.risk[0, -1])
    assert abs(fine - exact) < 0.01 * exact
    assert (coarse - exact) / (fine - exact) == pytest.approx(
        2, abs=0.1
    )  # Euler's method is of order one


@pytest.mark.parametrize(
    "times", [[0.0], [0.0, 0.0], [1.0, 0.5], [-1.0, 1.0], [0.0, float("nan")], [0.0, float("inf")]]
)
def test_times_that_are_none_get_a_sentence(times):
    with pytest.raises(InputError, match="times"):
        gradient_flow(paper_like(2), SMALL, times, key=random.key(0))
