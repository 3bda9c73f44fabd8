"""Training: the loop, its bookkeeping, and what it finds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from compiled import compiled

from mesalens import GradientDescent, InputError, LeastSquares, LinearTransformer, random
from mesalens.tasks import Gaussian, LinearFunctions, RegressionTask, Uniform
from mesalens.theory import best_step_size, one_step_risk
from mesalens.training import (
    SGD,
    Adam,
    Objective,
    SquaredError,
    TrainingDivergedError,
    TrainingSettings,
    schedule,
    train,
)
from mesalens.training.optimisers.adam import clipped_adam

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


@pytest.mark.slow
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
        task={"dim": d, "context_length": n},
        optimiser={"learning_rate": 3e-3},
        steps=1500,
        batch_size=512,
        seeds=6,
        seed=3,
    )
    losses = settings.train().metrics.loss.isel(step=slice(-3, None)).mean("step").values
    theory = one_step_risk(settings.exact_task())
    reached = losses[losses < (theory.best_risk + theory.null_risk) / 2]
    assert len(reached) >= 3  # the others are on the plateau that the study describes
    np.testing.assert_allclose(reached, theory.best_risk, rtol=0.03)


def measure(learner, key):
    return {"norm": jnp.sum(learner.weights.W_Q**2), "draw": jax.random.uniform(key)}


@pytest.fixture(scope="module")
def three():
    said = []
    training = trained(3, steps=25, measure=measure, progress=said.append)
    assert said == [10, 20, 25]
    return training


def test_seeds_differ(three):  # and are independent of the other seeds: test_checkpoint.py
    assert not np.allclose(three.learner(0).weights.W_Q, three.learner(1).weights.W_Q)


def test_the_same_key_gives_the_same_bits_and_chunks_do_not_matter(three):
    np.testing.assert_array_equal(
        three.learners.weights.P, trained(3, steps=25, every=30).learners.weights.P
    )


def test_metrics_are_labelled_and_measured_every_k_steps(three):
    metrics = three.metrics
    assert metrics.norm.dims == ("seed", "step")
    assert metrics.step.values.tolist() == [0, 10, 20, 25]
    assert np.isnan(metrics.loss[:, 0]).all() and np.isfinite(metrics.loss[:, 1:]).all()
    np.testing.assert_allclose(
        metrics.norm[1, -1], jnp.sum(three.learner(1).weights.W_Q ** 2), rtol=1e-5
    )
    assert len(np.unique(metrics.draw)) == 12


def loss_and_slope(task, batch_size, step_size, key):
    """The mean loss of a batch and its slope, without the loop."""

    def loss(step_size):
        return SquaredError().loss(task, batch_size)(GradientDescent(step_size), key)

    return compiled(jax.value_and_grad(loss), step_size)


@pytest.mark.parametrize(
    ("batching", "x64", "tolerance"),
    [("cores", False, 1e-5), ("cores", True, 1e-12), ("vmap", True, 1e-12)],
)
def test_one_step_is_one_step_of_the_optimiser(batching, x64, tolerance):
    """The loop against Optax called by hand, on the batch that the loop draws, in the precision of JAX."""
    with jax.enable_x64(x64):
        training = train(
            lambda key: GradientDescent(1.0),
            TASK,
            optax.sgd(0.5),
            steps=1,
            batch_size=64,
            key=random.key(4),
            batching=batching,
        )
        data_key = jax.random.split(jax.random.fold_in(random.key(4), 0), 3)[1]
        loss, slope = loss_and_slope(TASK, 64, 1.0, jax.random.fold_in(data_key, 0))
        found = training.learner().step_size
        assert found.dtype == (np.float64 if x64 else np.float32)
        np.testing.assert_allclose(found, 1 - 0.5 * slope, rtol=tolerance)
        np.testing.assert_allclose(training.metrics.loss[0, 1], loss, rtol=tolerance)


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


def test_only_the_seed_that_diverges_stops_and_the_others_end_with_the_bits_that_they_have_without_it(
    finite,
):
    said = []
    training = diverging(17, say=said.append)
    metrics, steps = training.metrics, np.asarray(training.learners.step_size)
    diverged, others = np.array([0, 3]), np.array([1, 2])
    assert metrics.ending.values.tolist() == ["diverged", "all steps", "all steps", "diverged"]
    assert metrics.steps_taken.values.tolist() == [16, 40, 40, 16]
    assert len(said) == 2
    for seed, line in zip(diverged, said, strict=True):
        assert line.startswith(f"seed {seed}: diverged") and "step 17" in line and "step 16" in line
    np.testing.assert_array_equal(steps[others], finite.learners.step_size[others])
    np.testing.assert_array_equal(
        steps[diverged], diverging(17, above=np.inf, steps=16).learners.step_size[diverged]
    )
    for name in ("loss", "draw"):
        np.testing.assert_array_equal(metrics[name][others], finite.metrics[name][others])
        np.testing.assert_array_equal(
            metrics[name][diverged, :2], finite.metrics[name][diverged, :2]
        )
        assert np.isnan(metrics[name][diverged, 2:]).all()
    with pytest.raises(TrainingDivergedError, match=r"seed 0 after step 16; seed 3 after step 16"):
        training.require_finite()


@pytest.mark.slow
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
    with pytest.warns(UserWarning, match=r"seed \d: diverged.* step 11.* step 10"):
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
            optax.GradientTransformation(
                lambda _: (), lambda g, s, p: (jax.tree.map(lambda _: 0.002, g), s)
            ),
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
    options = {
        "steps": 20,
        "batch_size": 8,
        "seeds": 2,
        "every": 20,
        "key": random.key(0),
        "say": said.append,
    }
    training = train(made, TASK, clipped_adam(rate, clip=1e-3), **options)
    with pytest.raises(
        TrainingDivergedError, match=r"seed 0 after step \d+; seed 1 after step \d+"
    ):
        training.require_finite()
    assert len(said) == 2 and (training.metrics.steps_taken < 20).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(training.learners))


@pytest.mark.parametrize("cut", [{"activation_clip": 1e-30}, {}])
def test_a_gradient_that_is_0_gets_a_sentence(cut):
    """With activations clipped to nothing; and from weights of 0, which only one of the seeds has."""

    def initialise(key):
        model = LinearTransformer.initialise(3, key=key, **cut)
        if model.activation_clip is not None:
            return model
        first = jnp.all(jax.random.key_data(key) == jax.random.key_data(first_key))
        return jax.tree.map(lambda leaf: jnp.where(first, 0, leaf), model)

    first_key = jax.random.split(jax.random.fold_in(random.key(0), 1), 3)[0]
    seed = 0 if "activation_clip" in cut else 1
    with pytest.raises(InputError, match=rf"gradient is 0 .* 2 steps .*seed {seed}"):
        train(
            initialise,
            TASK,
            optax.adam(0.1),
            steps=4,
            batch_size=8,
            seeds=2,
            key=random.key(0),
            every=2,
        )


@pytest.mark.parametrize(
    ("options", "keywords"),
    [
        ({"steps": 0}, "steps.*0"),
        ({"steps": 10**20}, "steps.*99999|steps.*1000000"),
        ({"batch_size": 0}, "batch_size.*0"),
        ({"batch_size": 2.5}, r"batch_size.*2\.5"),
        ({"microbatches": 0}, "microbatches.*0"),
        ({"seeds": 0}, "seeds.*0"),
        ({"every": 0}, "every.*0"),
        ({"memory": -1}, "memory.*-1"),
        ({"memory": float("nan")}, "memory.*nan"),
        ({"batching": "gpu"}, "batching.*gpu"),
        ({"objective": "sample"}, "objective.*sample.*sampled"),
        ({"stop": "near"}, "stop.*near.*near-risk"),
        ({"stop": "near-risk"}, "risk"),  # which has no default
        ({"objective": 3}, "objective.*int"),
        ({"stop": 3}, "stop.*int"),
    ],
)
def test_bad_options_get_a_sentence(unchecked, options, keywords):
    """`batching="gpu"` was a division by zero."""
    options = {"steps": 1, "batch_size": 1, "seeds": 1, "every": 1, **options}
    with pytest.raises(InputError, match=keywords):
        train(lambda key: GradientDescent(1.0), TASK, optax.sgd(0.1), key=random.key(0), **options)


@pytest.mark.parametrize(
    ("place", "value", "keywords"),
    [
        (0, GradientDescent(1.0), "initialise.*GradientDescent"),
        (0, 3, "initialise.*int"),
        (0, lambda key: lambda prompt: prompt.ys[0], "initialise.*Learner.*function"),
        (1, LinearFunctions(3), "task.*LinearFunctions"),
        (1, lambda: 3, "task.*int"),
        (2, 1e-3, "optimiser.*float"),
        (2, "adma", "optimiser.*adma.*adam"),
        (2, lambda: 1e-3, "optimiser.*float"),
    ],
)
def test_what_is_not_a_learner_a_task_or_an_optimiser_gets_a_sentence(
    unchecked, place, value, keywords
):
    arguments = [lambda key: GradientDescent(1.0), TASK, optax.sgd(0.1)]
    arguments[place] = value
    with pytest.raises(InputError, match=keywords):
        train(*arguments, steps=1, batch_size=4, key=random.key(0))


@pytest.mark.parametrize("name", ["loss", "risk", "excess_risk"])
def test_a_measure_does_not_replace_what_training_measures(name):
    """It was mixed into the training loss."""
    options = {"objective": "population"} if name == "risk" else {}
    with pytest.raises(InputError, match=f"measure.*{name}"):
        train(
            lambda key: LinearTransformer.initialise(3, key=key), TASK, optax.sgd(0.1), steps=1, batch_size=1,
            key=random.key(0), measure=lambda learner, key: {name: 1.0}, **options,
        )  # fmt: skip


@pytest.mark.parametrize("seed", [3, 99, -1, None, 1.0, True])
def test_a_seed_that_there_is_not_gets_a_sentence(unchecked, three, seed):
    """JAX clamps indices, so that the last seed was returned."""
    with pytest.raises(InputError, match=f"seed.*{seed}"):
        three.learner(seed)


def test_a_learner_without_trainable_arrays_gets_a_sentence():
    with pytest.raises(InputError, match="LeastSquares has no trainable arrays"):
        train(
            lambda key: LeastSquares(),
            TASK,
            optax.sgd(0.1),
            steps=1,
            batch_size=1,
            key=random.key(0),
        )


def test_a_clip_that_vanishes_in_adam_gets_a_sentence():
    """One step on a gradient cut to the norm c is the rate times c / (c + ε)."""
    with pytest.raises(InputError, match=r"clip.*1e-08"):
        clipped_adam(1e-3, clip=1e-8)
    optimiser = clipped_adam(1e-3, clip=3e-8)
    change, _ = compiled(optimiser.update, jnp.ones(1), optimiser.init(jnp.zeros(1)))
    np.testing.assert_allclose(change, -1e-3 * 3 / 4, rtol=1e-4)


def test_a_batch_in_parts_has_the_mean_of_their_losses_and_gradients():
    task = RegressionTask(Gaussian(2), LinearFunctions(2), context_length=3)
    optimiser = optax.sgd(0.1)
    run = train(
        lambda _: GradientDescent(0.3),
        task,
        optimiser,
        steps=1,
        batch_size=12,
        microbatches=3,
        key=random.key(2),
    )
    data_key = jax.random.split(jax.random.fold_in(random.key(2), 0), 3)[1]
    parts = jax.random.split(jax.random.fold_in(data_key, 0), 3)
    values, slopes = zip(*(loss_and_slope(task, 4, 0.3, key) for key in parts), strict=True)
    np.testing.assert_allclose(run.metrics.loss.values[0, 1], np.mean(values), rtol=1e-5)
    np.testing.assert_allclose(run.learner().step_size, 0.3 - 0.1 * np.mean(slopes), rtol=1e-5)
    with pytest.raises(InputError, match=r"batch_size=12.*microbatches=5"):
        train(
            lambda _: GradientDescent(0.3),
            task,
            optimiser,
            steps=1,
            batch_size=12,
            microbatches=5,
            key=random.key(2),
        )


# Optimisers, objectives and stopping rules, as objects and by name


def by(optimiser="sgd", **options):
    """Trained on 8 prompts a step, from one step size."""
    options = {"steps": 4, "batch_size": 8, "every": 2, "seeds": 2, "key": random.key(6), **options}
    return train(lambda key: GradientDescent(jnp.array(0.2)), TASK, optimiser, **options)


def assert_same_bits(one, other):
    for a, b in zip(jax.tree.leaves(one.learners), jax.tree.leaves(other.learners), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one.metrics.loss, other.metrics.loss)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "instance", "transformation"),
    [
        ("adam", Adam(), clipped_adam(1e-3, clip=1e-3, b2=0.98)),
        (
            {"kind": "sgd", "learning_rate": 0.3, "clip": 0.1, "schedule": "linear", "warmup": 1},
            SGD(0.3, clip=0.1, schedule="linear", warmup=1),
            optax.chain(
                optax.clip_by_global_norm(0.1),
                optax.sgd(schedule("linear", 0.3, steps=4, warmup=1)),
            ),
        ),
    ],
    ids=["adam", "mapping"],
)
def test_an_optimiser_by_name_as_an_object_and_of_optax_are_the_same_training(
    name, instance, transformation
):
    expected = by(transformation)
    assert not np.allclose(expected.learners.step_size, 0.2)
    assert_same_bits(by(name), expected)
    assert_same_bits(by(instance), expected)


@pytest.mark.slow
def test_momentum_is_that_of_the_formula():
    """v <- μ v + g, θ <- θ - η v, on gradients that are recomputed from the prompts of each step."""
    found = by(SGD(0.3, momentum=0.5), seeds=1, steps=3)
    data_key = jax.random.split(jax.random.fold_in(random.key(6), 0), 3)[1]
    step_size, velocity = 0.2, 0.0
    for number in range(3):
        key = jax.random.fold_in(data_key, number)
        _, slope = loss_and_slope(TASK, 8, step_size, key)
        velocity = 0.5 * velocity + slope
        step_size -= 0.3 * velocity
    np.testing.assert_allclose(found.learner().step_size, step_size, rtol=1e-5)


@pytest.mark.parametrize(
    ("optimiser", "keywords"),
    [
        (Adam(b2=2.0), "b2.*2.0"),
        (Adam(b2=1.0), "b2.*1.0"),
        (Adam(b2=-0.1), "b2.*-0.1"),
        (Adam(b2=float("nan")), "b2.*nan"),
        (Adam(b1=1.0), "b1.*1.0"),
        (Adam(learning_rate=0.0), "learning_rate.*0.0"),
        (Adam(learning_rate=float("nan")), "learning_rate.*nan"),
        (Adam(clip=-1.0), "clip.*-1.0"),
        (Adam(clip=float("inf")), "clip.*inf"),
        (lambda: Adam(schedule="flat"), "schedule.*flat"),
        (Adam(warmup=4), "warmup=4.*steps=4"),
        (SGD(-1.0), "learning_rate.*-1.0"),
        (SGD(momentum=1.0), "momentum.*1.0"),
        (SGD(clip=0.0), "clip.*0.0"),
        ({"kind": "adam", "b2": 1.5}, "b2.*1.5"),
        ({"kind": "adam", "rate": 1.5}, "rate"),
    ],
)
def test_numbers_of_an_optimiser_that_are_out_of_range_are_named(unchecked, optimiser, keywords):
    """b2 = 2 trained, and NaN was blamed on the learning rate."""
    with pytest.raises(InputError, match=keywords):
        by(optimiser)


@pytest.mark.slow
def test_an_objective_by_name_and_as_an_object_are_the_same_training():
    assert_same_bits(by(objective={"kind": "sampled"}), by(objective=SquaredError()))
    with pytest.raises(InputError, match=r"classes|classification"):
        by(objective="cross-entropy")


class AbsoluteError(Objective):
    """An objective of a user: not a mean over terms, and of its own loss."""

    def loss(self, task, batch_size):
        def loss(learner, key):
            prompts, targets = task.sample(key, (batch_size,))
            return jnp.abs(learner.batch(prompts) - targets).mean()

        return loss


def test_an_objective_of_a_user_trains():
    found = by(objective=AbsoluteError(), seeds=1, steps=1)
    data_key = jax.random.split(jax.random.fold_in(random.key(6), 0), 3)[1]
    key = jax.random.fold_in(data_key, 0)
    loss = compiled(AbsoluteError().loss(TASK, 8), GradientDescent(0.2), key)
    np.testing.assert_allclose(found.metrics.loss[0, 1], loss, rtol=1e-6)
