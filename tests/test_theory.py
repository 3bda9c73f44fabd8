"""Exact results against simulation, brute force and autodiff."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from compiled import compiled, mapped

import mesalens
from mesalens import GradientDescent, InputError, Prompt, theory
from mesalens.analysis import risk, risks
from mesalens.tasks import (
    Cosines,
    Distractors,
    Exponential,
    Functions,
    Gaussian,
    GaussianNoise,
    HeteroscedasticNoise,
    Laplace,
    LaplaceNoise,
    LinearFunctions,
    RegressionTask,
    StudentTNoise,
    Uniform,
)
from mesalens.theory import best_step_size, gradient_descent_transformer, one_step_risk

SIGMA = np.array([[1.5, 0.4], [0.4, 0.5]])
START = np.array([[0.5, -0.3], [0.2, 0.7]])

TASKS = {
    "uniform": (RegressionTask(Uniform(4, 0.5), LinearFunctions(4), context_length=6), None),
    "gaussian, noise": (
        RegressionTask(Gaussian(3), LinearFunctions(3), context_length=5, noise=GaussianNoise(0.3)),
        None,
    ),
    "n = d = 1": (RegressionTask(Gaussian(1), LinearFunctions(1), context_length=1), None),
    "laplace, n < d": (RegressionTask(Laplace(5, 0.4), LinearFunctions(5), context_length=2), None),
    "exponential, distractors": (
        RegressionTask(
            Exponential(2, 0.5),
            LinearFunctions(2),
            context_length=4,
            distractors=Distractors(1, 0.7),
        ),
        None,
    ),
    "laplace noise": (
        RegressionTask(Uniform(3), LinearFunctions(3), context_length=5, noise=LaplaceNoise(0.4)),
        None,
    ),
    "student noise": (
        RegressionTask(
            Gaussian(3), LinearFunctions(3), context_length=5, noise=StudentTNoise(0.4, 12.0)
        ),
        None,
    ),
    "heteroscedastic noise, distractors": (
        RegressionTask(
            Exponential(2, 0.5),
            LinearFunctions(2, 2),
            context_length=4,
            noise=HeteroscedasticNoise(0.4, 1.5),
            distractors=Distractors(1, 0.7),
        ),
        START,
    ),
    "all of it": (
        RegressionTask(
            Gaussian(2, 0.8, covariance=SIGMA),
            LinearFunctions(2, 2, covariance=SIGMA[::-1, ::-1].copy(), scale=1.2),
            context_length=4,
            noise=GaussianNoise(0.2),
            distractors=Distractors(2, 0.5),
        ),
        START,
    ),
}


LIKE_OTHERS = ("gaussian, noise", "exponential, distractors", "laplace noise")
"""Tasks whose parts are those of others: they are simulated in the slow tests alone."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in LIKE_OTHERS else ()) for n in TASKS],
)
def test_exact_risks_of_one_step_lie_in_the_intervals_of_a_simulation(name):
    task, start = TASKS[name]
    theory = one_step_risk(task, start)
    step_sizes = [factor * theory.best_step_size for factor in (0.0, 1.0, 1.4)]
    weights = None if start is None else jnp.asarray(start, jnp.float32)
    learners = [GradientDescent(size, initial_weights=weights) for size in step_sizes]
    simulated = risks(learners, task, jax.random.key(1), prompts=150_000)
    for step_size, found in zip(step_sizes, simulated, strict=True):
        assert abs(found.value - theory.at(step_size)) < 4.5 * found.standard_error


@pytest.mark.slow  # the parabola is simulated at three points above
@pytest.mark.parametrize("name", TASKS)
def test_best_step_size_is_where_the_simulated_risk_is_least(name):
    """Brute force: the least of the empirical risk over step sizes, on the same prompts, with the error of that minimiser."""
    task, start = TASKS[name]
    weights = None if start is None else jnp.asarray(start, jnp.float32)
    prompts, targets = task.sample(jax.random.key(2), (200_000,))
    still, moved = (
        np.asarray(jax.vmap(GradientDescent(rate, initial_weights=weights))(prompts), np.float64)
        for rate in (0.0, 1.0)
    )
    change, missing = moved - still, np.asarray(targets, np.float64) - still
    scan = scipy.optimize.minimize_scalar(
        lambda rate: np.mean(np.sum((rate * change - missing) ** 2, axis=1))
    )
    # The minimiser is a ratio of means; its error is that of the terms at the minimum (delta method)
    terms = np.sum(change * (missing - scan.x * change), axis=1) / np.mean(
        np.sum(change**2, axis=1)
    )
    assert abs(scan.x - best_step_size(task, start)) < 4.5 * terms.std() / np.sqrt(len(terms))


@pytest.mark.parametrize(
    ("n", "d", "noise"), [(10, 10, 0.0), (1, 1, 0.5), (3, 8, 0.2), (50, 40, 1.0)]
)
def test_isotropic_gaussians_have_the_rate_of_mahankali_et_al(n, d, noise):
    task = RegressionTask(
        Gaussian(d), LinearFunctions(d), context_length=n, noise=GaussianNoise(noise)
    )
    assert best_step_size(task) / n == pytest.approx(1 / (n + d + 1 + noise), rel=1e-12)


def test_the_released_code_of_von_oswald_et_al_found_the_same_risk():
    """Their notebooks carry 0.20469 as the loss (half the risk) of GD at d = n = 10, from a scan on 10 000 prompts."""
    task = RegressionTask(Uniform(10, 0.5), LinearFunctions(10), context_length=10)
    simulated = risk(GradientDescent(best_step_size(task)), task, jax.random.key(0), prompts=10_000)
    assert (
        abs(0.20468888 - one_step_risk(task).best_risk / 2)
        < 4 * float(simulated.standard_error) / 2
    )


def test_other_functions_have_no_exact_risk():
    class Constant(Functions):
        def __call__(self, key, xs):
            return jnp.ones((*xs.shape[:-1], 1))

    with pytest.raises(InputError, match=r"functions.*Constant"):
        one_step_risk(RegressionTask(Gaussian(2), Constant(2), context_length=3))


def test_a_start_of_another_shape_gets_a_sentence():
    with pytest.raises(InputError, match=r"initial_weights.*\(1, 4\).*\(4, 1\)"):
        one_step_risk(TASKS["uniform"][0], np.ones((4, 1)))


CONSTRUCTIONS = [
    (layers, outputs, start, preconditioned)
    for layers in (1, 3)
    for outputs in (1, 2)
    for start in (False, True)
    for preconditioned in (False, True)
]


def construction(layers, outputs, start, preconditioned):
    """A gradient descent, its transformer and prompts, in double precision."""
    rng = np.random.default_rng(3)
    learner = GradientDescent(
        jnp.linspace(0.5, 0.9, layers),
        layers,
        initial_weights=rng.normal(size=(outputs, 4)) if start else None,
        preconditioner=rng.normal(size=(4, 4)) if preconditioned else None,
    )
    task = RegressionTask(Uniform(4), LinearFunctions(4, outputs), context_length=6)
    prompts, _ = compiled(task.sample, jax.random.key(0), (16,))
    transformer = compiled(
        gradient_descent_transformer, learner, dim=4, outputs=outputs, context_length=6
    )
    return learner, transformer, jax.tree.map(lambda leaf: leaf.astype("float64"), prompts)


def slow_where(quick, cases):
    return [case if quick(case) else pytest.param(case, marks=pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(
    "case", slow_where(lambda case: case[0] == case[1] or all(case[2:]), CONSTRUCTIONS)
)
def test_the_construction_is_gradient_descent(case):
    with jax.enable_x64(True):
        learner, transformer, prompts = construction(*case)
        expected = mapped(learner, prompts)
        for predict in (transformer, transformer.token_by_token):
            np.testing.assert_allclose(mapped(predict, prompts), expected, rtol=1e-11, atol=1e-12)


def test_every_layer_moves_every_label_by_its_step():
    with jax.enable_x64(True):
        learner, transformer, prompts = construction(3, 2, True, False)
        prompt = jax.tree.map(lambda leaf: leaf[0], prompts)
        stream = compiled(transformer.residual_stream, prompt)
        for step in range(4):
            weights = learner.initial_weights
            if step:
                descent = GradientDescent(
                    learner.step_size[:step], step, initial_weights=learner.initial_weights
                )
                weights = compiled(descent.weights, prompt)
            moved = prompt.ys - prompt.xs @ (weights - learner.initial_weights).T
            np.testing.assert_allclose(stream[step, :-1, 4:], moved, atol=1e-12)
            np.testing.assert_allclose(stream[step, -1, 4:], -weights @ prompt.query, atol=1e-12)
            np.testing.assert_allclose(stream[step, :-1, :4], prompt.xs, atol=1e-15)


@pytest.mark.parametrize("matrix", ["W_Q", "W_K", "W_V", "P"])
def test_one_wrong_sign_breaks_the_construction(matrix):
    with jax.enable_x64(True):
        learner, transformer, prompts = construction(1, 1, True, False)
        broken = eqx.tree_at(
            lambda t: getattr(t.weights, matrix), transformer, replace_fn=lambda w: -w
        )
        assert not np.allclose(mapped(broken, prompts), mapped(learner, prompts), rtol=0.01)


def test_one_step_size_for_all_steps_makes_a_looped_transformer():
    transformer = gradient_descent_transformer(GradientDescent(0.5, 4), dim=2, context_length=3)
    assert transformer.looped and transformer.layers == 4


@pytest.mark.parametrize(("looped", "preconditioned"), [(True, False), (False, True)])
def test_the_construction_is_gd_plus_plus(looped, preconditioned):
    with jax.enable_x64(True):
        rng = np.random.default_rng(5)
        learner = GradientDescent(
            jnp.asarray(0.7) if looped else jnp.linspace(0.5, 0.9, 3),
            3,
            data_correction=0.4,
            preconditioner=rng.normal(size=(4, 4)) if preconditioned else None,
        )
        transformer = compiled(
            gradient_descent_transformer, learner, dim=4, outputs=2, context_length=6
        )
        assert transformer.looped == looped
        prompt = Prompt(rng.normal(size=(6, 4)), rng.normal(size=(6, 2)), rng.normal(size=4))
        expected = compiled(learner.iterates, prompt)
        iterates = compiled(transformer.iterates, prompt)
        np.testing.assert_allclose(iterates, expected, rtol=1e-10, atol=1e-12)
        for predict in (transformer, transformer.token_by_token):
            np.testing.assert_allclose(compiled(predict, prompt), expected[-1], rtol=1e-10)


def test_one_corrected_step_from_a_start_has_its_layer():
    learner = GradientDescent(
        0.5, data_correction=0.3, initial_weights=jnp.asarray(START, jnp.float32)
    )
    prompt = Prompt(
        np.eye(3, 2, dtype=np.float32), np.ones((3, 2), np.float32), np.ones(2, np.float32)
    )
    transformer = compiled(
        gradient_descent_transformer, learner, dim=2, outputs=2, context_length=3
    )
    predicted, expected = compiled(transformer, prompt), compiled(learner, prompt)
    np.testing.assert_allclose(predicted, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"momentum": 0.1}, "momentum"),
        (
            {"data_correction": 0.1, "initial_weights": jnp.ones((1, 2))},
            "initial_weights.*data_correction",
        ),
        (
            {"initial_weights": jnp.ones((1, 3))},
            r"initial_weights.*\(1, 2\).*\(1, 3\)",
        ),
        ({"preconditioner": jnp.ones((2, 1))}, r"preconditioner.*\(2, 2\).*\(2, 1\)"),
    ],
)
def test_descent_without_a_transformer_gets_a_sentence(given, sentence):
    with pytest.raises(InputError, match=sentence):
        gradient_descent_transformer(GradientDescent(0.5, 2, **given), dim=2, context_length=3)


def test_a_context_without_examples_has_no_transformer():
    with pytest.raises(InputError, match=r"context_length.*0"):
        gradient_descent_transformer(GradientDescent(0.5), dim=2, context_length=0)


WAYS = [
    (theory.one_step_risk, "one_step_risk_from(task_moments(task, relative_error=0.01), task.context_length)"),
    (theory.gaussian_preconditioner, "optimal_layer(task, relative_error=0.01).descent_preconditioner"),
    (theory.linear_moments, "simulated_moments(task, relative_error=0.01)"),
    (theory.centred_step_risk, "mesalens.analysis.risk(CentredDescent(step_size), task, key)"),
    (theory.bayes_risk, "mesalens.analysis.risk"),
]  # fmt: skip


@pytest.mark.parametrize(("exact", "way"), WAYS)
def test_what_is_for_linear_functions_names_a_way_for_others_that_works(exact, way):
    task = RegressionTask(Gaussian(2), Cosines(2), context_length=3)
    with pytest.raises(InputError, match=f"Cosines; .*{re.escape(way)}"):
        exact(task)
    known = {name: getattr(theory, name) for name in theory.__all__}
    known |= {"mesalens": mesalens, "CentredDescent": mesalens.learners.CentredDescent}
    assert eval(way, known | {"task": task, "step_size": 0.5, "key": jax.random.key(0)}) is not None
