"""Constructions with softmax attention: that they are descent, how fast they come to it, and what their limits are worth."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from compiled import compiled

from mesalens import GradientDescent, InputError, Prompt
from mesalens.analysis import risks
from mesalens.learners import Learner
from mesalens.models import AllRows, Causal, ContextOnly, Sinusoidal
from mesalens.simulation import expectation
from mesalens.tasks import (
    ClassificationTask,
    Distractors,
    Exponential,
    Gaussian,
    GaussianNoise,
    HeteroscedasticNoise,
    IndependentCovariates,
    Laplace,
    LaplaceNoise,
    LinearFunctions,
    Monomials,
    RegressionTask,
    Sphere,
    StudentTNoise,
    Uniform,
)
from mesalens.theory import (
    centred_step_risk,
    copying_transformer,
    one_step_risk,
    softmax_descent_transformer,
)

N, D, M = 5, 3, 2
VISIBILITY = {"context": ContextOnly(), "all": AllRows(), "causal": Causal()}
POSITIONS = Sinusoidal(20)
RNG = np.random.default_rng(0)
PRECONDITIONER = RNG.normal(size=(D, D))
with jax.enable_x64(True):
    PROMPT = Prompt(RNG.normal(size=(N, D)), RNG.normal(size=(N, M)), RNG.normal(size=D))
SIGMA = np.array([[1.5, 0.4], [0.4, 0.5]])


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def differ(learner, other):
    """Whether two learners' predictions are apart by more than a tenth of their size."""
    here, there = learner(PROMPT), other(PROMPT)
    return np.linalg.norm(here - there) > 0.1 * np.linalg.norm(there)


def copying(learner, keys, sharpness, positions=POSITIONS):
    return compiled(
        copying_transformer,
        learner,
        dim=D,
        outputs=M,
        context_length=N,
        positions=positions,
        sharpness=float(sharpness),
        visibility=VISIBILITY[keys],
    )


def nearness(offset):
    """f(Δ) for the encodings of these tests, from the formula of Vaswani et al. (2017)."""
    waves = POSITIONS.entries // 2
    return sum(np.cos(offset / 10_000 ** (k / waves)) for k in range(waves))


GAP = nearness(0) - nearness(1)
LEARNERS = {
    "one step": ({}, 1),
    "a preconditioner": ({"preconditioner": PRECONDITIONER}, 1),
    "three steps": ({}, 3),
    "three step sizes": ({"preconditioner": PRECONDITIONER, "sizes": [0.5, 0.3, 0.2]}, 3),
    "GD++": ({"data_correction": [0.2, 0.1, 0.3]}, 3),
}


def descent(name):
    given, steps = LEARNERS[name]
    given = {key: np.asarray(value) for key, value in given.items()}
    return GradientDescent(given.pop("sizes", 0.4), steps, **given)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        *(pytest.param(name, "context", marks=pytest.mark.slow) for name in LEARNERS),
        ("a preconditioner", "all"),
        ("a preconditioner", "causal"),
    ],
)
def test_a_sharp_copy_makes_the_prediction_that_of_descent(name, keys):
    learner = descent(name)
    transformer = copying(learner, keys, 60.0)
    assert transformer.layers == 1 + learner.steps
    expected = compiled(learner, PROMPT)
    np.testing.assert_allclose(compiled(transformer, PROMPT), expected, rtol=1e-12, atol=1e-13)
    if keys == "context":  # nothing but the labels' place is predicted before the first step
        expected = np.concatenate([np.zeros((1, M)), compiled(learner.iterates, PROMPT)])
        iterates = compiled(transformer.iterates, PROMPT)
        np.testing.assert_allclose(iterates, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("keys", ["context", "all", "causal"])
def test_the_error_of_a_copy_falls_as_exp_of_minus_sharpness_times_gap(keys):
    learner = GradientDescent(0.4)
    sharpness = np.array([16.0, 20.0, 24.0])
    errors = [
        np.linalg.norm(compiled(copying(learner, keys, beta), PROMPT) - compiled(learner, PROMPT))
        for beta in sharpness
    ]
    np.testing.assert_allclose(np.diff(np.log(errors)) / np.diff(sharpness), -GAP, rtol=1e-3)


def test_a_copied_label_is_smaller_by_its_two_neighbours_weight():
    """To first order; the last label has one neighbour that is a key, the query's row being none."""
    left = np.exp(-12 * GAP)
    rows = copying(GradientDescent(0.4), "context", 12.0).residual_stream(PROMPT)[1]
    loss = 1 - rows[: 2 * N : 2, D : D + M] / PROMPT.ys
    expected = np.array([2] * (N - 1) + [1])[:, None] * left
    np.testing.assert_allclose(loss, np.broadcast_to(expected, loss.shape), rtol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["three step sizes", "GD++"])
@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_a_blunt_copy_is_descent_on_blurred_labels(name, sharpness):
    learner = descent(name)
    rows, labels = np.arange(0, 2 * N, 2), np.arange(1, 2 * N, 2)
    offsets = np.arange(2 * N) - (rows[:, None] + 1)
    blur = scipy.special.softmax(sharpness * nearness(offsets), axis=1)[:, labels]
    expected = learner(Prompt(PROMPT.xs, blur @ PROMPT.ys, PROMPT.query))
    np.testing.assert_allclose(copying(learner, "context", sharpness)(PROMPT), expected, rtol=1e-10)


@pytest.mark.parametrize("keys", ["context", "all", "causal"])
def test_rows_attend_to_the_row_behind_or_before(keys):
    weights = copying(GradientDescent(0.4), keys, 60.0).attention_weights
    first = compiled(weights, PROMPT)[0, 0]
    rows = np.arange(2 * N + 1)
    expected = {
        "context": [*rows[1:-1], 2 * N - 1, 2 * N - 1],
        "all": [*rows[1:], 2 * N],
        "causal": [0, *rows[:-1]],
    }
    np.testing.assert_array_equal(np.argmax(first, axis=1), expected[keys])


@pytest.mark.parametrize(
    "keys", ["context", *(pytest.param(keys, marks=pytest.mark.slow) for keys in ("all", "causal"))]
)
@pytest.mark.parametrize("matrix", ["W_Q", "W_K", "W_V", "P"])
def test_one_wrong_sign_in_the_first_layer_breaks_the_copy(keys, matrix):
    learner = descent("a preconditioner")
    factor = lambda t: getattr(t.stored_layers[0].attention, matrix)  # noqa: E731
    broken = eqx.tree_at(factor, copying(learner, keys, 60.0), replace_fn=lambda w: -w)
    assert differ(broken, learner)


@pytest.mark.parametrize("keys", ["context", "all", "causal"])
def test_a_step_the_other_way_breaks_the_copy(keys):
    learner = descent("a preconditioner")
    backwards = eqx.tree_at(
        lambda t: t.stored_layers[0].attention.W_Q,
        copying(learner, keys, 60.0),
        replace_fn=lambda w: jnp.swapaxes(w, 1, 2),  # R is orthogonal, the rest 0
    )
    assert differ(backwards, learner)


@pytest.mark.slow
def test_without_spare_entries_more_layers_are_not_the_steps_of_descent():
    """With all keys they are those of descent to which the query is an example of label 0; with causal ones not even that."""
    two = GradientDescent(0.8, 2)

    def longer(keys):
        model = copying(GradientDescent(0.8), keys, 60.0)
        copy, step = model.stored_layers
        return type(model)(
            model.tokens,
            model.embedding,
            (copy, step, step),
            layers=3,
            dim=D,
            outputs=M,
            visibility=model.visibility,
        )

    with_query = Prompt(
        jnp.vstack([PROMPT.xs, PROMPT.query]), jnp.vstack([PROMPT.ys, jnp.zeros(M)]), PROMPT.query
    )
    same_rate = GradientDescent(0.8 * (N + 1) / N, 2)
    np.testing.assert_allclose(longer("all")(PROMPT), same_rate(with_query), rtol=1e-11)
    assert not np.allclose(same_rate(with_query), two(PROMPT), rtol=1e-3)
    assert differ(longer("causal"), two)


@pytest.mark.parametrize(
    ("given", "keys", "positions", "sentence"),
    [
        ({"steps": 2}, "all", POSITIONS, "steps.*2"),
        ({"steps": 2}, "causal", POSITIONS, "steps.*2"),
        ({"initial_weights": np.ones((M, D))}, "context", POSITIONS, "initial_weights"),
        ({"momentum": 0.5}, "context", POSITIONS, "momentum"),
        ({}, "all", Sinusoidal(4), "positions.*4"),
    ],
)
def test_descent_that_cannot_be_built_gets_a_sentence(given, keys, positions, sentence):
    given = {"steps": 1} | given
    with pytest.raises(InputError, match=sentence):
        copying(GradientDescent(0.4, **given), keys, 1.0, positions)


def test_nothing_to_copy_gets_a_sentence():
    with pytest.raises(InputError, match=r"context_length.*0"):
        copying_transformer(
            GradientDescent(0.4), dim=D, context_length=0, positions=POSITIONS, sharpness=1.0
        )


class CentredStep(Learner):
    """One step from zero, all x of the context less their mean."""

    step_size: float
    preconditioner: np.ndarray | None = None

    def __call__(self, prompt):
        xs = prompt.xs - prompt.xs.mean(0)
        reading = (
            prompt.query if self.preconditioner is None else self.preconditioner @ prompt.query
        )
        return self.step_size / len(xs) * prompt.ys.T @ (xs @ reading)


PAIR = GradientDescent(0.7, preconditioner=PRECONDITIONER)
LIMIT = CentredStep(0.7, PRECONDITIONER)


def pair(scale):
    return compiled(softmax_descent_transformer, PAIR, dim=D, outputs=M, scale=float(scale))


def test_two_heads_come_to_the_centred_step_with_the_square_of_their_scale():
    scales = np.array([0.02, 0.04, 0.08])
    predictions = np.stack([compiled(pair(scale), PROMPT) for scale in scales])
    errors = predictions - compiled(LIMIT, PROMPT)
    np.testing.assert_allclose(np.diff(np.log(np.abs(errors)), axis=0) / np.log(2), 2, atol=0.03)

    b = (PROMPT.xs - PROMPT.xs.mean(0)) @ PRECONDITIONER @ PROMPT.query
    third = (b**3 - 3 * np.mean(b**2) * b - np.mean(b**3)) / 6
    np.testing.assert_allclose(errors[0] / scales[0] ** 2, 0.7 / N * PROMPT.ys.T @ third, rtol=0.01)


def test_two_heads_take_the_step_in_single_precision():
    exact, prompt = (
        compiled(LIMIT, PROMPT),
        jax.tree.map(lambda leaf: leaf.astype(np.float32), PROMPT),
    )
    with jax.enable_x64(False):
        predicted = compiled(pair(0.005), prompt)
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, exact, atol=2e-4)


@pytest.mark.slow
def test_two_heads_are_an_odd_function_and_serve_contexts_of_any_length():
    turned = Prompt(PROMPT.xs, PROMPT.ys, -PROMPT.query)
    np.testing.assert_allclose(pair(0.9)(turned), -pair(0.9)(PROMPT), rtol=1e-12)
    raised = Prompt(PROMPT.xs, PROMPT.ys + 5, PROMPT.query)  # a constant of the labels is not seen
    np.testing.assert_allclose(pair(0.9)(raised), pair(0.9)(PROMPT), rtol=1e-11)
    shorter = Prompt(PROMPT.xs[:3], PROMPT.ys[:3], PROMPT.query)
    np.testing.assert_allclose(pair(1e-3)(shorter), LIMIT(shorter), rtol=1e-4)


@pytest.mark.parametrize("matrix", ["W_Q", "W_K", "W_V", "P"])
def test_heads_that_do_not_differ_in_sign_are_no_step(matrix):
    """An even part that is left over is 1/κ times too large; with both signs turned, it is the step uphill."""
    for turned in ([1, -1], [-1, -1]):
        broken = eqx.tree_at(
            lambda t: getattr(t.stored_layers[0].attention, matrix),
            pair(1e-3),
            replace_fn=lambda w, turned=turned: w * np.array(turned)[:, None, None],
        )
        assert np.abs(broken(PROMPT) - LIMIT(PROMPT)).max() > 0.1


@pytest.mark.slow
def test_one_head_is_the_mean_label_and_a_step():
    scale, attention = 1e-3, lambda t: t.stored_layers[0].attention
    model = pair(scale)
    one = eqx.tree_at(attention, model, jax.tree.map(lambda factor: factor[:1], attention(model)))
    expected = 0.7 / (2 * scale) * PROMPT.ys.mean(0) + LIMIT(PROMPT) / 2
    np.testing.assert_allclose(one(PROMPT), expected, rtol=1e-3 * scale, atol=2e-3)


@pytest.mark.parametrize(
    ("given", "scale", "sentence"),
    [
        ({"steps": 2}, 0.1, "steps.*2"),
        ({"initial_weights": np.ones((M, D))}, 0.1, "initial_weights"),
        ({}, 0.0, "scale.*0.0"),
        (
            {"preconditioner": np.ones((1, 1))},
            0.1,
            r"preconditioner.*\(3, 3\).*\(1, 1\)",
        ),
    ],
)
def test_a_pair_that_cannot_be_built_gets_a_sentence(given, scale, sentence):
    with pytest.raises(InputError, match=sentence):
        softmax_descent_transformer(GradientDescent(0.4, **given), dim=D, outputs=M, scale=scale)


class Skewed(IndependentCovariates):
    """Each coordinate is 2 with probability 1/3, else -1."""

    def sample(self, key, shape=()):
        return jnp.where(jax.random.uniform(key, (*shape, self.dim)) < 1 / 3, 2.0, -1.0)

    def central_moments(self):
        return 0.0, 2.0, 2.0, 6.0


FAST = ("gaussian", "heteroscedastic noise")
TASKS = {
    "uniform": RegressionTask(Uniform(4, 0.5), LinearFunctions(4), context_length=6),
    "laplace, noise": RegressionTask(
        Laplace(3, 0.6), LinearFunctions(3), context_length=3, noise=GaussianNoise(0.4)
    ),
    "sphere": RegressionTask(Sphere(3), LinearFunctions(3, 2), context_length=2),
    "skewed, a mean of W": RegressionTask(
        Skewed(2), LinearFunctions(2, 2, mean=np.array([[1.0, 0.5], [-0.3, 0.2]])), context_length=4
    ),
    "laplace noise": RegressionTask(
        Uniform(3), LinearFunctions(3), context_length=4, noise=LaplaceNoise(0.4)
    ),
    "student noise": RegressionTask(
        Gaussian(3), LinearFunctions(3), context_length=4, noise=StudentTNoise(0.4, 9.0)
    ),
    "heteroscedastic noise": RegressionTask(
        Skewed(2), LinearFunctions(2, 2), context_length=4, noise=HeteroscedasticNoise(0.4, 1.5)
    ),
    "gaussian": RegressionTask(
        Gaussian(2, covariance=SIGMA),
        LinearFunctions(2, covariance=SIGMA[::-1, ::-1].copy()),
        context_length=4,
        noise=GaussianNoise(0.3),
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in TASKS]
)
def test_exact_risk_of_the_centred_step_lies_in_the_interval_of_a_simulation(name):
    """Of the step, and of two softmax heads whose scale is so small that their bias is far below the interval."""
    with jax.enable_x64(False):
        task = TASKS[name]
        theory = centred_step_risk(task)
        size = 1.3 * theory.best_step_size
        heads = softmax_descent_transformer(
            GradientDescent(size), dim=task.dim, outputs=task.outputs, scale=0.01
        )
        for simulated in risks(
            (CentredStep(size), heads), task, jax.random.key(1), prompts=100_000
        ):
            assert abs(float(simulated.value) - theory.at(size)) < 4.5 * float(
                simulated.standard_error
            )


@pytest.mark.slow
def test_two_heads_of_a_larger_scale_can_have_less_risk_than_their_limit():
    with jax.enable_x64(False):
        task = RegressionTask(Uniform(10), LinearFunctions(10), context_length=10)
        limit = CentredStep(centred_step_risk(task).best_step_size)
        heads = softmax_descent_transformer(GradientDescent(1.8), dim=10, scale=0.9)

        def gain(prompt, target):
            return jnp.sum((limit(prompt) - target) ** 2) - jnp.sum((heads(prompt) - target) ** 2)

        difference = expectation(gain, task, jax.random.key(0), prompts=40_000)
        assert abs(difference.value - 0.024) < 3 * difference.standard_error < 0.012


NOISES = (GaussianNoise(0.3), LaplaceNoise(0.3), StudentTNoise(0.3), HeteroscedasticNoise(0.3, 1.7))


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_exact_risk_of_the_centred_step_is_the_sum_over_all_contexts(n, noise):
    """Every context of covariates with two values, with its probability; the mean over W and noise by hand."""
    mean = np.array([[1.0, -0.5]])
    task = RegressionTask(
        Skewed(2), LinearFunctions(2, 1, mean=mean), context_length=n, noise=noise
    )
    growth = getattr(noise, "growth", 0.0)
    V = np.eye(2) + mean.T @ mean
    gain = cost = 0.0
    for context in itertools.product([(2.0, 1 / 3), (-1.0, 2 / 3)], repeat=2 * n):
        values, chances = np.transpose(context)
        xs = values.reshape(n, 2)
        centred = xs - xs.mean(0)
        scatter = centred.T @ centred
        variances = 0.3 * (1 + growth * np.mean(xs**2, axis=1))
        labels = np.sum(variances * np.sum(centred**2, axis=1))
        gain += chances.prod() * 2 * np.trace(V @ scatter)  # E[x_q x_q^T] = 2 I
        cost += chances.prod() * 2 * (np.trace(scatter @ V @ scatter) + labels)
    theory = centred_step_risk(task)
    np.testing.assert_allclose([theory.gain, theory.cost], [gain, cost], rtol=1e-12, atol=1e-12)
    assert theory.null_risk == pytest.approx(2 * np.trace(V) + 0.3 * (1 + 2 * growth))
    assert theory.best_risk == pytest.approx(theory.null_risk - (gain**2 / cost if n > 1 else 0))


@pytest.mark.parametrize("n", [2, 5, 30])
def test_for_gaussians_centring_costs_exactly_one_example(n):
    def task(examples):
        return RegressionTask(
            Gaussian(2, 0.7, covariance=SIGMA),
            LinearFunctions(2, 2, covariance=SIGMA[::-1, ::-1].copy()),
            context_length=examples,
            noise=GaussianNoise(0.2),
        )

    centred, fewer = centred_step_risk(task(n)), one_step_risk(task(n - 1))
    assert centred.best_risk == pytest.approx(fewer.best_risk, rel=1e-12)
    assert centred.best_step_size == pytest.approx(n / (n - 1) * fewer.best_step_size, rel=1e-12)


def test_centring_costs_more_than_an_example_with_light_tails_and_less_with_heavy_ones():
    def excess(covariates):
        n_tasks = (
            RegressionTask(covariates, LinearFunctions(4), context_length=n) for n in (10, 9)
        )
        centred, fewer = next(n_tasks), next(n_tasks)
        return centred_step_risk(centred).best_risk - one_step_risk(fewer).best_risk

    assert excess(Uniform(4)) > 1e-3 > -1e-3 > excess(Laplace(4))


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (
            RegressionTask(Exponential(2), LinearFunctions(2), context_length=3),
            "covariates.*Exponential",
        ),
        (RegressionTask(Gaussian(2), Monomials(2), context_length=3), "functions.*Monomials"),
        (
            RegressionTask(
                Gaussian(2), LinearFunctions(2), context_length=3, distractors=Distractors(1)
            ),
            "distractors",
        ),
    ],
)
def test_tasks_without_exact_risk_of_the_centred_step_get_a_sentence(task, sentence):
    with pytest.raises(InputError, match=sentence):
        centred_step_risk(task)


@pytest.mark.parametrize("risk_of", [centred_step_risk, one_step_risk])
def test_classes_have_no_exact_risk(risk_of):
    with pytest.raises(InputError, match=r"RegressionTask.*ClassificationTask"):
        risk_of(ClassificationTask(Gaussian(2), LinearFunctions(2, 2), context_length=3))
