"""Classes in context: the task, softmax regression and its layer, cross-entropy and accuracy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special
from compiled import compiled
from hypothesis import given, settings
from hypothesis import strategies as st

from mesalens import GradientDescent, InputError, LinearTransformer, Prompt
from mesalens.analysis import accuracy, cross_entropy
from mesalens.learners import LogisticDescent
from mesalens.tasks import (
    ClassificationTask,
    CondensedTask,
    CustomFunctions,
    Gaussian,
    LinearFunctions,
    RegressionTask,
    TwoLayerNetworks,
    Uniform,
)
from mesalens.theory import gradient_descent_transformer, logistic_descent_transformer
from mesalens.training import CrossEntropy, Population, SquaredError, TrainingSettings, train

TASK = ClassificationTask(Gaussian(3), LinearFunctions(3, 4), context_length=6, temperature=0.5)
REGRESSION = RegressionTask(Gaussian(2), LinearFunctions(2, 3), context_length=4)

# A few shapes, so that hypothesis searches numbers and not the compiler's cache
SHAPES = st.sampled_from([(1, 1, 2), (6, 3, 3), (2, 4, 5)])
SIZES = st.builds(lambda shape, seed: (*shape, seed), SHAPES, st.integers(0, 10_000))


def prompt_of(n, d, m, seed, *, one_hot=False) -> Prompt:
    """With one-hot labels, or distributions that leave no class out."""
    rng = np.random.default_rng(seed)
    ys = (
        np.eye(m)[rng.integers(m, size=n)]
        if one_hot
        else scipy.special.softmax(rng.normal(size=(n, m)), axis=1)
    )
    return Prompt(rng.normal(size=(n, d)), ys, rng.normal(size=d))


def loss(weights, prompt):
    logits = prompt.xs @ weights.T
    log_probabilities = logits - jax.scipy.special.logsumexp(logits, axis=1, keepdims=True)
    return -jnp.sum(prompt.ys * log_probabilities) / prompt.context_length


gradient = jax.jit(jax.grad(loss))


# Softmax regression


@pytest.mark.slow
@given(SIZES, st.sampled_from([1, 4]), st.booleans())
@settings(max_examples=15, deadline=None)
def test_logistic_descent_follows_the_gradient_of_the_cross_entropy(sizes, steps, one_hot):
    with jax.enable_x64(True):
        prompt = prompt_of(*sizes, one_hot=one_hot)
        start = jnp.asarray(
            np.random.default_rng(sizes[3] + 1).normal(size=(prompt.outputs, prompt.dim))
        )
        step_sizes = jnp.linspace(0.5, 2.0, steps)
        expected = [start]
        for step_size in step_sizes:
            expected.append(expected[-1] - step_size * gradient(expected[-1], prompt))
        learner = LogisticDescent(step_sizes, steps, initial_weights=start)
        np.testing.assert_allclose(learner.trajectory(prompt), expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(
            learner.iterates(prompt), jnp.stack(expected) @ prompt.query, rtol=1e-9, atol=1e-12
        )
        np.testing.assert_allclose(
            learner(prompt), expected[-1] @ prompt.query, rtol=1e-9, atol=1e-12
        )


def test_labels_may_have_any_mass():
    with jax.enable_x64(True):
        prompt = prompt_of(5, 3, 3, 0)
        counts = Prompt(prompt.xs, np.arange(15.0).reshape(5, 3), prompt.query)
        start = np.ones((3, 3)) * np.arange(3.0)[:, None]
        expected = start - 0.1 * gradient(jnp.asarray(start), counts)
        weights = compiled(LogisticDescent(0.1, initial_weights=start).weights, counts)
        np.testing.assert_allclose(weights, expected, rtol=1e-12)


def test_many_steps_end_at_scipys_minimum():
    with jax.enable_x64(True):
        prompt = prompt_of(12, 3, 3, 1)
        slope = jax.jit(jax.value_and_grad(lambda flat: loss(flat.reshape(3, 3), prompt)))
        found = scipy.optimize.minimize(
            lambda flat: [np.asarray(part) for part in slope(flat)],
            np.zeros(9),
            jac=True,
            tol=1e-12,
        )
        curvature = float(np.linalg.eigvalsh(prompt.xs.T @ prompt.xs / 12)[-1])
        learner = LogisticDescent(2 / curvature, 5000)
        np.testing.assert_allclose(
            learner.weights(prompt), found.x.reshape(3, 3), rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(
            learner(prompt), found.x.reshape(3, 3) @ prompt.query, rtol=1e-5, atol=1e-6
        )


@pytest.mark.slow
@given(SIZES, st.floats(0.01, 0.99), st.booleans())
@settings(max_examples=15, deadline=None)
def test_no_step_below_the_bound_climbs_and_column_sums_stay(sizes, share, one_hot):
    with jax.enable_x64(True):
        prompt = prompt_of(*sizes, one_hot=one_hot)
        curvature = float(np.linalg.eigvalsh(prompt.xs.T @ prompt.xs / prompt.context_length)[-1])
        start = np.random.default_rng(sizes[3]).normal(size=(prompt.outputs, prompt.dim))
        trajectory = LogisticDescent(4 * share / curvature, 6, initial_weights=start).trajectory(
            prompt
        )
        losses = np.array([loss(weights, prompt) for weights in trajectory])
        assert np.all(np.diff(losses) <= 1e-12)
        np.testing.assert_allclose(
            trajectory.sum(axis=1), np.tile(start.sum(axis=0), (7, 1)), rtol=1e-9, atol=1e-12
        )


def test_only_the_step_size_is_trainable():
    mask = LogisticDescent(0.5, initial_weights=jnp.ones((2, 2))).trainable()
    assert mask.step_size is True
    assert mask.initial_weights is False


# One layer of linear self-attention


@pytest.mark.parametrize(("x64", "tolerance"), [(False, 2e-6), (True, 1e-12)])
@pytest.mark.parametrize(
    ("n", "d", "m"),
    [
        pytest.param(7, 3, 2, marks=pytest.mark.slow),
        pytest.param(1, 1, 5, marks=pytest.mark.slow),
        (4, 6, 3),
    ],
)
def test_the_construction_is_a_step_of_softmax_regression(n, d, m, x64, tolerance):
    with jax.enable_x64(x64):
        learner = LogisticDescent(1.7, initial_weights=np.zeros((m, d)) if m == 2 else None)
        transformer = logistic_descent_transformer(learner, dim=d, outputs=m, context_length=n)
        assert transformer.weights.P.dtype == (jnp.float64 if x64 else jnp.float32)
        for seed in range(10):
            prompt = prompt_of(n, d, m, seed, one_hot=seed % 2 == 0)
            expected = compiled(learner, prompt)
            for predict in (transformer, transformer.token_by_token):
                found = compiled(predict, prompt)
                np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def centring(prompt, step_size):
    """What the layer predicts with C y in place of its labels, by least squares."""
    m = prompt.outputs
    centred = prompt.ys @ (np.eye(m) - 1 / m)
    return GradientDescent(step_size)(Prompt(prompt.xs, centred, prompt.query))


@pytest.mark.slow
@given(SIZES)
@settings(max_examples=15, deadline=None)
def test_a_first_step_is_least_squares_with_centred_labels_and_its_probabilities_those_of_any(
    sizes,
):
    with jax.enable_x64(True):
        prompt = prompt_of(*sizes, one_hot=True)
        logits = LogisticDescent(0.8)(prompt)
        np.testing.assert_allclose(logits, centring(prompt, 0.8), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(
            jax.nn.softmax(logits),
            jax.nn.softmax(GradientDescent(0.8)(prompt)),
            rtol=1e-10,
            atol=1e-12,
        )


def test_another_centring_or_sign_breaks_the_construction():
    with jax.enable_x64(True):
        prompt, learner = prompt_of(6, 3, 3, 2, one_hot=True), LogisticDescent(0.8)
        sizes = {"dim": 3, "outputs": 3, "context_length": 6}
        transformer = compiled(logistic_descent_transformer, learner, **sizes)
        uncentred = compiled(gradient_descent_transformer, GradientDescent(0.8), **sizes)
        too_much = eqx.tree_at(
            lambda t: t.weights.W_V, transformer, transformer.weights.W_V.at[..., 3:, 3:].add(1 / 3)
        )
        opposite = eqx.tree_at(lambda t: t.weights.W_V, transformer, -transformer.weights.W_V)
        for broken in (uncentred, too_much, opposite):
            predicted = compiled(broken, prompt)
            assert not np.allclose(predicted, compiled(learner, prompt), rtol=0.01)
        # and after the first step no layer with the same matrices goes on as the descent does
        predicted = compiled(transformer.repeated(2), prompt)
        assert not np.allclose(predicted, compiled(LogisticDescent(0.8, 2), prompt), rtol=0.01)


# The task


def fixed_logits(m, scale=1.0):
    weights = scale * jnp.asarray(np.random.default_rng(3).normal(size=(m, 2)), jnp.float32)
    return CustomFunctions(2, lambda key, x: weights @ x, m), np.asarray(weights, np.float64)


@pytest.mark.parametrize("temperature", [0.4, 2.0])
def test_classes_are_drawn_from_the_softmax_of_the_logits(temperature):
    functions, weights = fixed_logits(3)
    task = ClassificationTask(Uniform(2), functions, context_length=2, temperature=temperature)
    prompts, targets = compiled(task.sample, jax.random.key(4), (100_000,))
    xs = np.concatenate([prompts.xs, prompts.query[:, None]], axis=1).astype(np.float64)
    ys = np.concatenate([prompts.ys, targets[:, None]], axis=1).astype(np.float64)
    np.testing.assert_array_equal(np.sort(ys, axis=-1), np.broadcast_to([0.0, 0.0, 1.0], ys.shape))
    surprise = ys - scipy.special.softmax(xs @ weights.T / temperature, axis=-1)
    # It has mean 0 given the inputs: with every test function of them, and with that of another example
    tests = np.concatenate([np.ones_like(xs[..., :1]), xs, xs**2], axis=-1)
    terms = [
        np.einsum("pjm,pjf->pmf", surprise[:, j : j + 1], tests[:, j : j + 1]) for j in range(3)
    ]
    terms += [np.einsum("pm,pk->pmk", surprise[:, 0], surprise[:, j]) for j in (1, 2)]
    for term in terms:
        distance = np.abs(term.mean(0)) / (term.std(0) / np.sqrt(len(term)))
        assert distance.max() < 5


def test_at_temperature_zero_the_class_is_the_largest_logit():
    functions, weights = fixed_logits(4)
    task = ClassificationTask(Uniform(2), functions, context_length=5)
    prompts, targets = compiled(task.sample, jax.random.key(5), (3, 200))
    assert prompts.ys.shape == (3, 200, 5, 4) and targets.shape == (3, 200, 4)
    assert prompts.ys.dtype == targets.dtype == jnp.float32
    assert (task.dim, task.outputs) == (2, 4)
    for xs, ys in ((prompts.xs, prompts.ys), (prompts.query, targets)):
        logits = np.asarray(xs) @ weights.T
        np.testing.assert_array_equal(np.asarray(ys), np.eye(4)[np.argmax(logits, axis=-1)])
    cold = eqx.tree_at(
        lambda t: t.temperature, task, jnp.array(0.0)
    )  # one that JAX traces draws, and changes nothing
    np.testing.assert_array_equal(
        eqx.filter_jit(lambda t: t.sample(jax.random.key(5), (3, 200)))(cold)[1], targets
    )


@pytest.mark.slow
def test_a_prompt_has_one_function_and_classes_are_alike():
    task = ClassificationTask(Gaussian(2), TwoLayerNetworks(2, 3), context_length=2)
    prompts, targets = task.sample(jax.random.key(6), (20_000,))
    for classes in (targets, prompts.ys[:, 0]):
        np.testing.assert_allclose(classes.mean(axis=0), 1 / 3, atol=5 * np.sqrt(2 / 9 / 20_000))
    # an input that comes twice has its class twice
    same = CustomFunctions(2, lambda key, x: jax.random.normal(key, (3, 2)) @ jnp.sign(x), 3)
    prompts, _ = ClassificationTask(Uniform(2), same, context_length=20).sample(
        jax.random.key(7), (50,)
    )
    signs, classes = np.sign(prompts.xs) @ [2, 1], np.argmax(prompts.ys, axis=-1)
    for sign in np.unique(signs):
        for prompt in range(50):
            assert len(np.unique(classes[prompt][signs[prompt] == sign])) <= 1


# Cross-entropy and accuracy


@pytest.mark.slow
def test_who_knows_the_logits_has_the_entropy_and_accuracy_of_quadrature():
    functions = CustomFunctions(1, lambda key, x: jnp.array([1.5, 0.0]) * x, 2)
    task = ClassificationTask(Uniform(1), functions, context_length=1, temperature=0.5)

    def known(prompt):
        return jnp.array([3.0, 0.0]) * prompt.query

    def mean(value):
        return scipy.integrate.quad(lambda x: value(scipy.special.expit(3 * x)) / 2, -1, 1)[0]

    entropy = cross_entropy(known, task, jax.random.key(0), prompts=100_000)
    exact = mean(lambda p: -p * np.log(p) - (1 - p) * np.log(1 - p))
    assert abs(float(entropy.value) - exact) < 5 * float(entropy.standard_error)
    right = accuracy(known, task, jax.random.key(1), prompts=100_000)
    exact = mean(lambda p: max(p, 1 - p))
    assert abs(float(right.value) - exact) < 5 * float(right.standard_error)
    assert float(right.standard_error) == pytest.approx(
        np.sqrt(exact * (1 - exact) / 100_000), rel=0.02
    )


def test_a_task_that_is_traced_is_measured_all_the_same():
    right = eqx.filter_jit(
        lambda task, key: accuracy(lambda prompt: prompt.ys[0], task, key, prompts=50).value
    )
    assert 0 < right(TASK, jax.random.key(3)) < 1
    warmer = jax.jit(
        lambda t: ClassificationTask(
            Gaussian(3), LinearFunctions(3, 4), context_length=6, temperature=t
        )
    )
    assert float(warmer(0.5).temperature) == 0.5


def test_without_a_guess_it_is_the_logarithm_of_the_classes():
    blind = cross_entropy(lambda prompt: jnp.full(4, 2.0), TASK, jax.random.key(0), prompts=100)
    assert float(blind.value) == pytest.approx(np.log(4), rel=1e-6)
    assert float(blind.standard_error) < 1e-6
    guess = accuracy(lambda prompt: jnp.zeros(4), TASK, jax.random.key(0), prompts=20_000)
    assert abs(float(guess.value) - 1 / 4) < 5 * float(guess.standard_error)


@pytest.mark.slow
def test_the_objective_is_the_cross_entropy_of_a_batch():
    learner, key = LogisticDescent(2.0, 2), jax.random.key(8)
    of_batch = CrossEntropy().loss(TASK, 64)(learner, key)
    prompts, targets = TASK.sample(key, (64,))
    logits = np.asarray(jax.vmap(learner)(prompts), np.float64)
    expected = -np.mean(scipy.special.log_softmax(logits, axis=1)[np.asarray(targets) == 1])
    assert float(of_batch) == pytest.approx(expected, rel=1e-5)
    estimate = cross_entropy(learner, TASK, jax.random.key(9), prompts=8192)
    fresh = eqx.filter_jit(CrossEntropy().loss(TASK, 8192))(learner, jax.random.key(10))
    assert abs(float(estimate.value) - float(fresh)) < 5 * np.sqrt(2) * float(
        estimate.standard_error
    )


@pytest.mark.slow
def test_objectives_by_name():
    learner, key = GradientDescent(0.3), jax.random.key(0)
    prompts, targets = REGRESSION.sample(key, (32,))
    error = np.sum(
        (np.asarray(jax.vmap(learner)(prompts)) - np.asarray(targets)) ** 2, axis=1
    ).mean()
    assert float(SquaredError().loss(REGRESSION, 32)(learner, key)) == pytest.approx(
        error, rel=1e-5
    )
    layer = gradient_descent_transformer(learner, dim=2, outputs=3, context_length=4)
    exact = Population().loss(REGRESSION, 32)(layer, key)
    sampled = eqx.filter_jit(SquaredError().loss(REGRESSION, 100_000))(layer, key)
    assert float(exact) == pytest.approx(float(sampled), rel=0.02)


@pytest.mark.slow
def test_a_trained_step_size_is_where_the_cross_entropy_is_least():
    training = train(
        lambda key: LogisticDescent(1.0),
        TASK,
        optax.adam(optax.cosine_decay_schedule(0.3, 150)),
        steps=150,
        batch_size=1024,
        seeds=3,
        key=jax.random.key(11),
        objective="cross-entropy",
    )
    found = np.asarray(training.learners.step_size)
    prompts, targets = TASK.sample(jax.random.key(12), (100_000,))
    direction = np.asarray(jax.jit(jax.vmap(LogisticDescent(1.0)))(prompts), np.float64)
    labels = np.asarray(targets, np.float64)

    def risk(step_size):
        return -np.mean(
            np.sum(labels * scipy.special.log_softmax(step_size * direction, axis=1), axis=1)
        )

    best = scipy.optimize.minimize_scalar(risk, bounds=(0, 50), method="bounded").x
    assert found.std(ddof=1) < 0.05 * best
    np.testing.assert_allclose(found.mean(), best, rtol=0.03)


@pytest.mark.slow
def test_a_layer_trains_on_cross_entropy():
    training = train(
        lambda key: LinearTransformer.initialise(3, 4, init_scale=0.2, key=key),
        TASK,
        optax.adam(1e-2),
        steps=60,
        batch_size=128,
        every=20,
        key=jax.random.key(13),
        objective="cross-entropy",
    )
    losses = training.metrics.loss.values[0]
    assert losses[-1] < losses[1] - 0.02
    assert "risk" not in training.metrics


CONDENSED = prompt_of(9, 3, 2, 0).condense()
ONE_OUTPUT = RegressionTask(Gaussian(2), LinearFunctions(2), context_length=4)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: LogisticDescent(0.1, 0), "steps .*0"),
        (lambda: LogisticDescent(jnp.ones(3), 2), r"step_size .*\(2,\).*\(3,\)"),
        (lambda: LogisticDescent(float("nan")), "step_size .*nan"),
        (lambda: LogisticDescent(0.1)(CONDENSED), "condensed"),
        (lambda: LogisticDescent(0.1)(prompt_of(4, 3, 1, 0)), "LogisticDescent .*m=1"),
        (
            lambda: logistic_descent_transformer(
                LogisticDescent(0.1, 2), dim=3, outputs=2, context_length=4
            ),
            "steps.*2",
        ),
        (
            lambda: logistic_descent_transformer(
                LogisticDescent(0.1, initial_weights=jnp.ones((2, 3))),
                dim=3,
                outputs=2,
                context_length=4,
            ),
            "initial_weights",
        ),
        (
            lambda: logistic_descent_transformer(
                LogisticDescent(0.1), dim=3, outputs=1, context_length=4
            ),
            "outputs.*1",
        ),
        (
            lambda: ClassificationTask(Gaussian(2), LinearFunctions(2), context_length=4),
            "outputs.*1",
        ),
        (
            lambda: ClassificationTask(Gaussian(2), LinearFunctions(3, 2), context_length=4),
            "dim 2.*dim 3",
        ),
        (
            lambda: ClassificationTask(Gaussian(2), LinearFunctions(2, 2), context_length=0),
            "context_length.*0",
        ),
        (
            lambda: ClassificationTask(
                Gaussian(2), LinearFunctions(2, 2), context_length=4, temperature=-1.0
            ),
            "temperature.*-1.0",
        ),
        (
            lambda: ClassificationTask(
                Gaussian(2), LinearFunctions(2, 2), context_length=4, temperature="a"
            ),
            "temperature.*'a'",
        ),
        (lambda: LogisticDescent(0.1, initial_weights=jnp.ones(3)), r"initial_weights .*\(3,\)"),
        (
            lambda: LogisticDescent(0.1, initial_weights=jnp.ones((1, 3)))(prompt_of(4, 3, 2, 0)),
            r"initial_weights .*\(2, 3\).*\(1, 3\)",
        ),
        (lambda: CrossEntropy().loss(ONE_OUTPUT, 8), "classes.*RegressionTask has 1"),
        (lambda: CrossEntropy().loss(REGRESSION, 8), "classes.*RegressionTask"),
        (lambda: CrossEntropy().loss(CondensedTask(REGRESSION), 8), "classes.*CondensedTask"),
        (
            lambda: TrainingSettings(objective="cross-entropy", task={"outputs": 2}).train(),
            "classes.*RegressionTask",
        ),
        (
            lambda: cross_entropy(GradientDescent(0.1), ONE_OUTPUT, jax.random.key(0)),
            "classes.*RegressionTask has 1",
        ),
        (
            lambda: accuracy(GradientDescent(0.1), ONE_OUTPUT, jax.random.key(0)),
            "classes.*RegressionTask has 1",
        ),
        (
            lambda: accuracy(GradientDescent(0.1), REGRESSION, jax.random.key(0)),
            "classes.*RegressionTask",
        ),
        (
            lambda: jax.jit(lambda key: cross_entropy(GradientDescent(0.1), REGRESSION, key).value)(
                jax.random.key(0)
            ),
            "classes.*RegressionTask",
        ),
    ],
)
def test_bad_input_gets_a_sentence(make, sentence, monkeypatch):
    monkeypatch.setattr(
        jaxtyping.config, "jaxtyping_disable", True
    )  # as where types are not checked, and shapes may be any
    with pytest.raises(InputError, match=sentence) as caught:
        make()
    assert str(caught.value).endswith(".")
