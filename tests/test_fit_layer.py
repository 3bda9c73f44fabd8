"""`fit_layer`: least squares on prompts, against NumPy on predictions."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from mesalens import InputError, Prompt, random
from mesalens.tasks import Gaussian, GaussianNoise, LinearFunctions, RegressionTask
from mesalens.theory import layer_risk, optimal_layer, task_moments
from mesalens.training import fit_layer


def prompts_of(N, n=5, d=3, m=1, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (N, n, d), (N, n, m), (N, d), (N, m)
    xs, ys, query, targets = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return Prompt(xs, ys, query), targets


def design(prompts):
    """What predictions are linear in: y_ik e_i x_q^T, summed over i, for each prompt and k."""
    xs, ys, query = (np.asarray(each, float) for each in (prompts.xs, prompts.ys, prompts.query))
    rows = [
        np.outer(sum(y[k] * np.append(x, y) for x, y in zip(X, Y, strict=True)), q).ravel()
        for X, Y, q in zip(xs, ys, query, strict=True)
        for k in range(ys.shape[-1])
    ]
    return np.array(rows)


def weights(layer):
    A, B = (np.asarray(each[0, 0]) for each in layer.effective())
    d = layer.dim
    np.testing.assert_array_equal(B, np.diag([0.0] * d + [-1.0] * layer.outputs))
    np.testing.assert_array_equal(A[:, d:], 0)
    return A[:, :d].ravel()


@pytest.mark.parametrize(
    ("N", "n", "d", "m"), [(40, 5, 3, 1), (40, 4, 2, 2), (7, 5, 3, 1), (3, 4, 2, 2), (5, 1, 1, 1)]
)
def test_the_layer_is_the_least_squares_solution_of_least_norm(N, n, d, m):
    prompts, targets = prompts_of(N, n, d, m)
    layer = fit_layer(prompts, targets)
    F = design(prompts)
    expected = np.linalg.lstsq(F, targets.ravel(), rcond=None)[0]
    np.testing.assert_allclose(weights(layer), expected, rtol=1e-4, atol=1e-5)
    predicted = jax.vmap(layer)(prompts)
    np.testing.assert_allclose(predicted.ravel(), F @ expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("N", "m"), [(40, 1), (6, 1), (20, 2)])
def test_with_a_ridge_the_gradient_vanishes(N, m, ridge=0.7):
    prompts, targets = prompts_of(N, m=m)
    F = design(prompts)
    expected = np.linalg.solve(F.T @ F + N * ridge * np.eye(F.shape[1]), F.T @ targets.ravel())
    layer = fit_layer(prompts, targets, ridge=ridge)
    np.testing.assert_allclose(weights(layer), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("N", [10, 30])
def test_prompts_that_depend_on_each_other_give_the_weights_of_least_norm(N):
    prompts, targets = prompts_of(5)
    repeated = jax.tree.map(lambda leaf: jnp.tile(leaf, (N // 5, *[1] * (leaf.ndim - 1))), prompts)
    expected = np.linalg.pinv(design(prompts)) @ targets.ravel()
    layer = fit_layer(repeated, np.tile(targets, (N // 5, 1)))
    np.testing.assert_allclose(weights(layer), expected, rtol=1e-4, atol=1e-5)


def test_condensed_prompts_give_the_same_layer():
    prompts, targets = prompts_of(40, n=9)
    expected = weights(fit_layer(prompts, targets))
    condensed = weights(fit_layer(jax.vmap(lambda each: each.condense())(prompts), targets))
    np.testing.assert_allclose(condensed, expected, rtol=1e-3, atol=1e-5)


def test_many_prompts_give_nearly_the_best_layer():
    task = RegressionTask(
        Gaussian(2), LinearFunctions(2), noise=GaussianNoise(0.1), context_length=6
    )
    best, moments = optimal_layer(task), task_moments(task)
    excess = [
        layer_risk(fit_layer(*task.sample(random.key(0), (N,))), moments) / best.risk - 1
        for N in (200, 20_000)
    ]
    assert 0 < excess[1] < 0.01
    assert excess[0] > 5 * excess[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p, t: fit_layer(p, t, ridge=-1.0), "ridge"),
        (lambda p, t: fit_layer(p, t[:-1]), "targets"),
        (lambda p, t: fit_layer(p, t[:, 0]), "targets"),
        (lambda p, t: fit_layer(jax.tree.map(lambda leaf: leaf[0], p), t), "batch"),
        (lambda p, t: fit_layer(jax.tree.map(lambda leaf: leaf[None], p), t[:1]), "batch"),
        (lambda p, t: fit_layer(p, t + np.inf), "finite"),
        (lambda p, t: fit_layer(Prompt(p.xs * np.nan, p.ys, p.query), t), "finite"),
    ],
)
def test_bad_input_gets_a_sentence(change, words, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match=words) as caught:
        change(*prompts_of(20))
    assert str(caught.value).endswith(".")


def test_more_labels_than_memory_holds_get_a_sentence(monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Free", (), {"available": 1000})())
    with pytest.raises(InputError, match=r"20 labels.*memory"):
        fit_layer(*prompts_of(20))
