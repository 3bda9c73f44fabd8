"""What trained layers compute, read off their weights: the step they take, and how far apart two are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mesalens import GradientDescent, InputError, LinearTransformer, random
from mesalens.analysis import expectation, learned_preconditioner
from mesalens.tasks import Gaussian, GaussianNoise, LinearFunctions, RegressionTask
from mesalens.theory import (
    best_preconditioner,
    best_rank_step,
    distances,
    exact_moments,
    gradient_descent_transformer,
    layer_risk,
    layer_risks,
    one_step_risk,
    one_step_risk_from,
)

SIGMA = np.array([[1.5, 0.4], [0.4, 0.5]])
TASK = RegressionTask(
    Gaussian(2, covariance=SIGMA),
    LinearFunctions(2, covariance=np.diag([2.0, 0.3])),
    context_length=3,
    noise=GaussianNoise(0.2),
)


def random_layers(seeds, heads=2):
    keys = jax.random.split(random.key(7), seeds)
    return jax.vmap(
        lambda key: LinearTransformer.initialise(2, heads=heads, init_scale=0.5, key=key)
    )(keys)


def test_the_step_of_the_construction_is_its_preconditioner():
    P = np.array([[0.3, 0.1], [-0.2, 0.5]])
    descent = GradientDescent(0.6, preconditioner=jnp.asarray(P))
    layer = gradient_descent_transformer(descent, dim=2, outputs=2, context_length=3)
    np.testing.assert_allclose(
        learned_preconditioner(layer), np.stack([0.6 / 3 * P.T] * 2), rtol=1e-6
    )
    with pytest.raises(InputError, match="layers=2"):
        learned_preconditioner(
            gradient_descent_transformer(GradientDescent(0.5, 2), dim=2, context_length=3)
        )


@pytest.mark.slow
def test_the_step_is_the_part_of_a_layer_that_changes_sign_with_the_labels():
    layer = jax.tree.map(lambda leaf: leaf[0], random_layers(1))
    prompt, _ = TASK.sample(random.key(3))
    negative = type(prompt)(prompt.xs, -prompt.ys, prompt.query)
    odd = (layer(prompt) - layer(negative)) / 2
    P = learned_preconditioner(layer)[0]
    np.testing.assert_allclose(
        odd[0], prompt.query @ P @ (prompt.xs.T @ prompt.ys[:, 0]), rtol=1e-4
    )


def test_one_step_from_moments_is_the_exact_one():
    exact, same = one_step_risk(TASK), one_step_risk_from(exact_moments(TASK), 3)
    for name in ("null_risk", "gain", "cost", "best_step_size"):
        assert getattr(same, name) == pytest.approx(getattr(exact, name), rel=1e-12)


@pytest.mark.slow
def test_distances_are_those_of_predictions_on_prompts():
    layers = random_layers(2)
    others = jax.tree.map(lambda leaf: leaf[::-1], layers)
    moments = exact_moments(TASK)
    one, other = (jax.tree.map(lambda leaf, i=i: leaf[i], layers) for i in (0, 1))

    def squares(prompt, _):
        return {
            "difference": jnp.sum((one(prompt) - other(prompt)) ** 2),
            "length": jnp.sum(one(prompt) ** 2),
        }

    simulated = jax.jit(lambda key: expectation(squares, TASK, key, prompts=100_000))(random.key(4))
    ratio = simulated["difference"].value / simulated["length"].value
    assert distances(layers, others, moments)[0] == pytest.approx(float(ratio), rel=0.1)
    np.testing.assert_allclose(distances(layers, layers, moments), 0, atol=1e-12)
    np.testing.assert_allclose(
        layer_risks(layers, moments),
        [layer_risk(one, moments), layer_risk(other, moments)],
        rtol=1e-12,
    )


@pytest.mark.slow
def test_the_best_step_of_rank_one_is_between_the_best_step_and_none_and_has_the_stated_risk():
    moments = exact_moments(TASK)
    P, risk = best_rank_step(moments, 1)
    assert np.linalg.matrix_rank(P) == 1
    assert best_preconditioner(moments)[1] < risk < moments.null_risk
    with jax.enable_x64(True):
        descent = GradientDescent(jnp.asarray(3.0), preconditioner=jnp.asarray(P.T))
        layer = gradient_descent_transformer(descent, dim=2, context_length=3)
    assert layer_risk(layer, moments) == pytest.approx(risk, rel=1e-6)
    # Brute force over all steps u v^T
    rng = np.random.default_rng(0)
    for u, v in zip(rng.normal(size=(30, 2)), rng.normal(size=(30, 2)), strict=True):
        step = np.outer(u, v)
        A, B = np.zeros((2, 1, 1, 3, 3))
        A[0, 0, :2, :2], B[0, 0, 2, 2] = step.T, -1.0
        nothing = moments.null_risk
        full = layer_risk(
            LinearTransformer.from_effective(jnp.asarray(A), jnp.asarray(B), layers=1), moments
        )
        half = layer_risk(
            LinearTransformer.from_effective(jnp.asarray(A / 2), jnp.asarray(B), layers=1), moments
        )
        curvature, slope = (
            2 * (full + nothing - 2 * half),
            4 * half - 3 * nothing - full,
        )  # a parabola in the length
        assert nothing - slope**2 / (4 * curvature) >= risk - 1e-5
