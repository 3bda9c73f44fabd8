"""Training: the loop, its bookkeeping, and what it finds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

from mesalens import GradientDescent, InputError, LeastSquares, LinearTransformer, random
from mesalens.tasks import Gaussian, LinearFunctions, RegressionTask, Uniform
from mesalens.theory import best_step_size, one_step_risk
from mesalens.training import TrainingDivergedError, TrainingSettings, batch_loss, clipped_adam, train

pytest_plugins = ["small_training"]
pytestmark = pytest.mark.usefixtures("compiled_once")

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


# Divergence


def diverging(at, above=0.15, **options):
    """Steps of gradient descent from random step sizes; those that are above a number then get a weight that is not finite at a step."""

    def update(gradients, state, step_size):
        broken = jnp.where((state == at - 1) & (step_size.step_size > above), jnp.nan, 0)
        return jax.tree.map(lambda g: broken - 1e-4 * g, gradients), state + 1

    options = {
        "steps": 40,
        "seeds": 4,
        "every": 10,
        "measure": lambda learner, key: {"draw": jax.random.uniform(key)},
    } | options
    return train(
        lambda key: GradientDescent(jax.random.uniform(key)),
        TASK,
        optax.GradientTransformation(lambda parameters: jnp.array(0), update),
        batch_size=4,
        key=random.key(0),
        **options,
    )


@pytest.fixture(scope="module")
def finite():
    """Nothing diverges."""
    training = diverging(17, above=np.inf)
    assert training.require_finite() is training and training.diverged() == []
    return training


def test_only_the_seed_that_diverges_stops_and_the_others_end_with_the_bits_that_they_have_without_it(finite):
    said = []
    training = diverging(17, say=said.append)
    metrics, steps = training.metrics, np.asarray(training.learners.step_size)
    diverged, others = np.array([0, 3]), np.array([1, 2])
    assert metrics.ending.values.tolist() == ["diverged", "all steps", "all steps", "diverged"]
    assert metrics.steps_taken.values.tolist() == [16, 40, 40, 16]
    assert said == [
        f"seed {seed}: diverged, as the loss, the gradient or the weights were not finite at step 17; it stays as it was after step 16, and "
        "others go on. Lower the learning rate, the initial scale or the scale of the task."
        for seed in diverged
    ]
    np.testing.assert_array_equal(steps[others], finite.learners.step_size[others])
    np.testing.assert_array_equal(steps[diverged], diverging(17, above=np.inf, steps=16).learners.step_size[diverged])
    for name in ("loss", "draw"):
        np.testing.assert_array_equal(metrics[name][others], finite.metrics[name][others])
        np.testing.assert_array_equal(metrics[name][diverged, :2], finite.metrics[name][diverged, :2])
        assert np.isnan(metrics[name][diverged, 2:]).all()
    sentence = (
        r"seed 0 after step 16; seed 3 after step 16\. Lower the learning rate, the initial scale or the scale of"
    )
    with pytest.raises(TrainingDivergedError, match=sentence):
        training.require_finite()


def test_divergence_is_said_once_and_survives_a_training_that_is_stopped(tmp_path):
    said = []

    def stop(done):
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        diverging(17, say=said.append, checkpoint=tmp_path, progress=stop)
    again = diverging(17, say=said.append, checkpoint=tmp_path)
    assert [line.partition(":")[0] for line in said] == ["seed 0", "seed 3"]
    once = diverging(17, say=said.append)
    xr.testing.assert_identical(again.metrics, once.metrics)
    np.testing.assert_array_equal(again.learners.step_size, once.learners.step_size)


def test_a_training_ends_where_every_seed_has_diverged():
    done = []
    with pytest.warns(UserWarning, match=r"seed \d: diverged, .* at step 11; it stays as it was after step 10"):
        training = diverging(11, above=0.0, progress=done.append)
    assert done == [10, 20] and training.metrics.step.values.tolist() == [0, 10, 20]
    assert training.metrics.steps_taken.values.tolist() == [10] * 4
    assert np.isfinite(training.learners.step_size).all()


@pytest.mark.parametrize("steps", [4, 9])
def test_a_gradient_that_is_not_finite_is_found_where_loss_and_weights_are(steps):
    """The optimiser leaves it out, and all goes on as if nothing were wrong; the last step of all is judged too."""

    @jax.custom_jvp
    def smooth(x):
        return x

    @smooth.defjvp
    def _(primals, tangents):
        return primals[0], jnp.where(primals[0] > 0.5, jnp.nan, 1) * tangents[0]

    class Broken(GradientDescent):
        def __call__(self, prompt):
            return GradientDescent(smooth(self.step_size))(prompt)

    said = []
    training = train(
        lambda key: Broken(jnp.array(0.495)),
        TASK,
        optax.chain(
            optax.zero_nans(),
            optax.GradientTransformation(lambda _: (), lambda g, s, p: (jax.tree.map(lambda _: 0.002, g), s)),
        ),
        steps=steps,
        batch_size=4,
        key=random.key(0),
        say=said.append,
    )
    assert training.diverged() == ["seed 0 after step 3"] and "not finite at step 4" in said[0]
    np.testing.assert_allclose(training.learner().step_size, 0.501, rtol=1e-6)


@pytest.mark.parametrize(
    ("made", "rate"),
    [
        (lambda key: LinearTransformer.initialise(3, layers=4, looped=True, key=key), 1e9),
        (lambda key: GradientDescent(jnp.ones(3), 3, data_correction=jnp.ones(3)), 1e30),
    ],
)
def test_steps_that_are_far_too_large_are_named_for_deep_learners(made, rate):
    said = []
    options = {"steps": 20, "batch_size": 8, "seeds": 2, "every": 20, "key": random.key(0), "say": said.append}
    training = train(made, TASK, clipped_adam(rate, clip=1e-3), **options)
    with pytest.raises(
        TrainingDivergedError, match=r"seed 0 after step \d+; seed 1 after step \d+\. Lower the learning"
    ):
        training.require_finite()
    assert len(said) == 2 and (training.metrics.steps_taken < 20).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(training.learners))


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
