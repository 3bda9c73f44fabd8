"""Training: the loop, its bookkeeping, and what it finds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mesalens import GradientDescent, InputError, LeastSquares, LinearTransformer, random
from mesalens.tasks import Gaussian, LinearFunctions, RegressionTask, Uniform
from mesalens.theory import best_step_size, one_step_risk
from mesalens.training import TrainingDivergedError, TrainingSettings, batch_loss, clipped_adam, train

TASK = RegressionTask(Uniform(3, 0.5), LinearFunctions(3), context_length=5)


def trained(seeds, steps=30, **options):
    options = {"key": random.key(1), "every": 10, **options}
    return train(
        lambda key: LinearTransformer.initialise(3, key=key),
        TASK,
        clipped_adam(1e-2, clip=1e-3),
        steps=steps,
        batch_size=32,
        seeds=seeds,
        **options,
    )


def test_a_trainable_step_size_finds_the_exact_best_one():
    training = train(
        lambda key: GradientDescent(1.0),
        TASK,
        optax.adam(optax.cosine_decay_schedule(0.2, 400)),
        steps=400,
        batch_size=512,
        seeds=4,
        key=jax.random.key(0),
    )
    found = np.asarray(training.learners.step_size)
    error = found.std(ddof=1) / 2
    assert abs(found.mean() - best_step_size(TASK)) < 6 * error
    assert error < 0.01 * best_step_size(TASK)


@pytest.mark.slow
@pytest.mark.parametrize(("d", "n"), [(3, 5)])
def test_a_layer_trains_to_the_exact_risk_of_one_step(d, n):
    settings = TrainingSettings(
        dim=d, context_length=n, steps=1500, batch_size=512, seeds=6, seed=3, learning_rate=3e-3
    )
    losses = settings.train().metrics.loss.isel(step=slice(-3, None)).mean("step").values
    theory = one_step_risk(settings.task())
    reached = losses[losses < (theory.best_risk + theory.null_risk) / 2]
    assert len(reached) >= 3  # the others are on the plateau that the study describes
    np.testing.assert_allclose(reached, theory.best_risk, rtol=0.03)


def measure(learner, key):
    return {"norm": jnp.sum(learner.W_Q**2), "draw": jax.random.uniform(key)}


@pytest.fixture(scope="module")
def three():
    said = []
    training = trained(3, steps=25, measure=measure, progress=said.append)
    assert said == [10, 20, 25]
    return training


def test_seeds_differ(three):  # and do not depend on their company: test_checkpoint.py
    assert not np.allclose(three.learner(0).W_Q, three.learner(1).W_Q)


def test_the_same_key_gives_the_same_bits_and_chunks_do_not_matter(three):
    np.testing.assert_array_equal(three.learners.P, trained(3, steps=25, every=30).learners.P)


def test_metrics_are_labelled_and_measured_every_k_steps(three):
    metrics = three.metrics
    assert metrics.norm.dims == ("seed", "step")
    assert metrics.step.values.tolist() == [0, 10, 20, 25]
    assert np.isnan(metrics.loss[:, 0]).all() and np.isfinite(metrics.loss[:, 1:]).all()
    np.testing.assert_allclose(metrics.norm[1, -1], jnp.sum(three.learner(1).W_Q ** 2), rtol=1e-5)
    assert len(np.unique(metrics.draw)) == 12


def test_one_step_is_one_step_of_the_optimiser():
    """The loop against Optax called by hand, on the batch that the loop draws."""
    training = train(lambda key: GradientDescent(1.0), TASK, optax.sgd(0.5), steps=1, batch_size=64, key=random.key(4))
    data_key = jax.random.split(jax.random.fold_in(random.key(4), 0), 3)[1]
    loss, gradient = jax.value_and_grad(
        lambda step_size: batch_loss(GradientDescent(step_size), TASK, jax.random.fold_in(data_key, 0), 64)
    )(1.0)
    np.testing.assert_allclose(training.learner().step_size, 1 - 0.5 * gradient, rtol=1e-5)
    np.testing.assert_allclose(training.metrics.loss[0, 1], loss, rtol=1e-5)


@pytest.mark.slow  # the command line shows it too
def test_what_is_not_trainable_stays():
    start = jnp.ones((1, 3))
    training = train(
        lambda key: LinearTransformer.initialise(3, initial_weights=start, key=key),
        TASK,
        optax.adam(0.1),
        steps=3,
        batch_size=8,
        key=random.key(0),
    )
    np.testing.assert_array_equal(training.learner().initial_weights, start)


def test_divergence_stops_with_the_step_and_the_seed():
    def explode_at_step_17(updates, state, parameters=None):
        return jax.tree.map(lambda u: jnp.where(state == 16, jnp.nan, 0 * u), updates), state + 1

    optimiser = optax.GradientTransformation(lambda parameters: jnp.array(0), explode_at_step_17)
    with pytest.raises(TrainingDivergedError, match=r"not finite at step 18 \(seed 0\); lower"):
        train(
            lambda key: GradientDescent(1.0),
            TASK,
            optimiser,
            steps=40,
            batch_size=4,
            seeds=2,
            key=random.key(0),
            every=10,
        )
    # When it is the last update of all that breaks the weights, no loss is left to show it
    with pytest.raises(TrainingDivergedError, match="step 17"):
        train(lambda key: GradientDescent(1.0), TASK, optimiser, steps=17, batch_size=4, key=random.key(0))


@pytest.mark.parametrize(
    ("made", "rate"),
    [
        (lambda key: LinearTransformer.initialise(3, layers=4, looped=True, key=key), 1e9),
        (lambda key: GradientDescent(jnp.ones(3), 3, data_correction=jnp.ones(3)), 1e30),
    ],
)
def test_steps_that_are_far_too_large_are_named_for_deep_learners(made, rate):
    with pytest.raises(TrainingDivergedError, match=r"at step [1-9]\d? \(seed [01]\); lower the learning rate"):
        train(made, TASK, clipped_adam(rate, clip=1e-3), steps=20, batch_size=8, seeds=2, key=random.key(0), every=20)


@pytest.mark.parametrize("cut", [{"activation_clip": 1e-30}, {}])
def test_a_gradient_that_is_0_gets_a_sentence(cut):
    """Where activations are all cut off, and from weights that are all 0; only one of the seeds has such weights."""

    def initialise(key):
        model = LinearTransformer.initialise(3, key=key, **cut)
        if model.activation_clip is not None:
            return model
        first = jnp.all(jax.random.key_data(key) == jax.random.key_data(first_key))
        return jax.tree.map(lambda leaf: jnp.where(first, 0, leaf), model)

    first_key = jax.random.split(jax.random.fold_in(random.key(0), 1), 3)[0]
    seed = 0 if "activation_clip" in cut else 1
    with pytest.raises(
        InputError, match=rf"gradient is 0 at each of the first 2 steps \(seed {seed}\).*raise the activ"
    ):
        train(initialise, TASK, optax.adam(0.1), steps=4, batch_size=8, seeds=2, key=random.key(0), every=2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seeds": 0}, "seeds is 0"),
        ({"every": 0}, "every is 0"),
    ],
)
def test_bad_sizes_get_a_sentence(options, sentence):
    sizes = {"steps": 1, "batch_size": 1, "seeds": 1, "every": 1, **options}
    with pytest.raises(InputError, match=sentence):
        train(lambda key: GradientDescent(1.0), TASK, optax.sgd(0.1), key=random.key(0), **sizes)


def test_a_learner_without_trainable_arrays_gets_a_sentence():
    with pytest.raises(InputError, match="LeastSquares has no trainable arrays"):
        train(lambda key: LeastSquares(), TASK, optax.sgd(0.1), steps=1, batch_size=1, key=random.key(0))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"covariates": "uniform", "covariate_covariance": ((1.0,),), "dim": 1},
            "neither uniform covariates nor linear functions have one",
        ),
        ({"covariates": "gaussian", "covariate_covariance": ((1.0,),)}, "the dimension is 10"),
        ({"noise_variance": -1.0}, "noise variance"),
        ({"distractors": 11}, "11 distractors"),
    ],
)
def test_settings_that_make_no_task_get_a_sentence(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        TrainingSettings(**settings).task()


@pytest.mark.parametrize("value", [{"learning_rate": 0.0}, {"clip": -1.0}])
def test_an_optimiser_that_cannot_move_gets_a_sentence(value):
    with pytest.raises(InputError, match="give a number above 0"):
        TrainingSettings(**value).optimiser()


def test_a_clip_that_vanishes_in_adam_gets_a_sentence():
    """One step on a gradient cut to the norm c is the rate times c / (c + ε)."""
    with pytest.raises(InputError, match="clip is 1e-08; gradients cut to that norm vanish beside the 1e-08 that Adam"):
        clipped_adam(1e-3, clip=1e-8)
    optimiser = clipped_adam(1e-3, clip=3e-8)
    change, _ = optimiser.update(jnp.ones(1), optimiser.init(jnp.zeros(1)))
    np.testing.assert_allclose(change, -1e-3 * 3 / 4, rtol=1e-4)


def test_settings_give_the_start_of_the_query_token():
    start = ((0.5, -1.0), (1.0, 2.0))
    model = TrainingSettings(dim=2, outputs=2, layers=2, initial_weights=start).initialise(random.key(0))
    assert isinstance(model, LinearTransformer)
    np.testing.assert_array_equal(model.initial_weights, start)
    with pytest.raises(InputError, match=r"W_0, the initial weights, has shape \(2, 2\); give \(1, 2\)"):
        TrainingSettings(dim=2, initial_weights=start).initialise(random.key(0))


def test_settings_describe_the_gaussian_task_too():
    covariance = ((2.0, 0.5), (0.5, 1.0))
    task = TrainingSettings(dim=2, covariates="gaussian", covariate_covariance=covariance, scale=1.0).task()
    assert isinstance(task.covariates, Gaussian)
    np.testing.assert_allclose(task.covariates.second_moment(), covariance)


def test_a_batch_in_parts_has_the_mean_of_their_losses_and_gradients():
    task = RegressionTask(Gaussian(2), LinearFunctions(2), context_length=3)
    optimiser = optax.sgd(0.1)
    run = train(
        lambda _: GradientDescent(0.3), task, optimiser, steps=1, batch_size=12, microbatches=3, key=random.key(2)
    )
    data_key = jax.random.split(jax.random.fold_in(random.key(2), 0), 3)[1]
    parts = jax.random.split(jax.random.fold_in(data_key, 0), 3)
    values, slopes = zip(
        *(jax.value_and_grad(lambda r, k=k: batch_loss(GradientDescent(r), task, k, 4))(0.3) for k in parts),
        strict=True,
    )
    np.testing.assert_allclose(run.metrics.loss.values[0, 1], np.mean(values), rtol=1e-5)
    np.testing.assert_allclose(run.learner().step_size, 0.3 - 0.1 * np.mean(slopes), rtol=1e-5)
    with pytest.raises(InputError, match="no 5 equal parts"):
        train(
            lambda _: GradientDescent(0.3), task, optimiser, steps=1, batch_size=12, microbatches=5, key=random.key(2)
        )
