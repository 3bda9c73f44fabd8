"""What layers do, one after the other, against plain NumPy and the theory of gradient descent."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy
from matplotlib.patches import Rectangle

from mesalens import GradientDescent, InputError, LinearTransformer, Ridge, plots
from mesalens.analysis import (
    input_spectra,
    largest_stable_damping,
    nearest_learners,
    risk_by_depth,
    similarities,
    similarity,
)
from mesalens.random import unroll
from mesalens.tasks import Gaussian, GaussianNoise, LinearFunctions, RegressionTask, Uniform
from mesalens.theory import gradient_descent_transformer, one_step_risk

TASK = RegressionTask(Uniform(3), LinearFunctions(3, 2), context_length=5, noise=GaussianNoise(0.1))
KEY = jax.random.key(0)
GD = GradientDescent(1.2, 3)


def constructed(learner):
    return gradient_descent_transformer(learner, dim=3, outputs=2, context_length=5)


def gd_plus_plus(step_size, data_correction, layers, *, dim=3, outputs=2, n=5):
    """A = diag(I, 0), B = diag(-γ/n I, -η/n I), looped."""
    A = jnp.diag(jnp.repeat(jnp.array([1.0, 0.0]), np.array([dim, outputs])))
    B = -jnp.diag(jnp.repeat(jnp.array([data_correction, step_size]), np.array([dim, outputs]))) / n
    return LinearTransformer.from_effective(
        A[None, None], B[None, None], layers=layers, outputs=outputs
    )


SAMPLE = jax.jit(TASK.sample, static_argnums=1)


def arrays(key, prompts):
    prompt, target = SAMPLE(key, (prompts,))
    return tuple(
        np.asarray(leaf, np.float64) for leaf in (prompt.xs, prompt.ys, prompt.query, target)
    )


@pytest.fixture(scope="module")
def drawn():
    """The 100 prompts from which `expectation` takes a mean, in one chunk; in float64."""
    return arrays(jax.random.split(unroll(KEY), 1)[0], 100)


def descent(xs, ys, query, step_size, steps):
    """The predictions of gradient descent before the first and after every step, through the eigenvalues of X^T X / n."""
    eigenvalues, vectors = np.linalg.eigh(np.swapaxes(xs, 1, 2) @ xs / xs.shape[1])
    moments = np.einsum("pde,pnd,pnm->pem", vectors, xs, ys) / xs.shape[1]
    queries = np.einsum("pde,pd->pe", vectors, query)
    return np.stack(
        [
            np.einsum(
                "pe,pem,pe->pm",
                (1 - (1 - step_size * eigenvalues) ** t) / eigenvalues,
                moments,
                queries,
            )
            for t in range(steps + 1)
        ],
        axis=1,
    )


def test_similarity_against_numpy(drawn):
    xs, ys, query, target = drawn
    rows, columns = descent(xs, ys, query, 1.2, 3), descent(xs, ys, query, 0.5, 4)
    alike = similarity(GD, GradientDescent(0.5, 4), TASK, KEY, prompts=100)
    assert dict(alike.sizes) == {"layer": 4, "iterate": 5}
    unit = np.mean(np.sum(target**2, axis=-1))
    for layer in range(4):
        differences = [np.sum((rows[:, layer] - columns[:, k]) ** 2, axis=-1) for k in range(5)]
        np.testing.assert_allclose(
            alike.difference[layer], np.mean(differences, axis=1) / unit, rtol=1e-3, atol=1e-9
        )
        spread = np.std(differences, axis=1, ddof=1) / unit / 10
        np.testing.assert_allclose(
            alike.difference_standard_error[layer], spread, rtol=1e-3, atol=1e-9
        )
        assert alike.nearest[layer] == np.argmin(np.mean(differences, axis=1))
        for k in range(5):
            a, b = rows[:, layer].ravel(), columns[:, k].ravel()
            lengths = np.linalg.norm(a) * np.linalg.norm(b)
            expected = a @ b / lengths if lengths else float(layer == k)
            assert float(alike.cosine[layer, k]) == pytest.approx(expected, abs=1e-4)
            a, b = a - target.ravel(), b - target.ravel()
            expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            assert float(alike.error_cosine[layer, k]) == pytest.approx(expected, abs=1e-4)
    np.testing.assert_allclose(
        alike.layer_risk, np.mean(np.sum((rows - target[:, None]) ** 2, -1), 0), rtol=1e-3
    )


@pytest.mark.slow
def test_a_learner_is_like_itself_and_one_that_overflows_is_like_nothing():
    layer = gd_plus_plus(1.2, 0.2, 3)
    own = similarity(layer, layer, TASK, KEY, prompts=50)
    assert np.all(np.diag(own.difference) == 0) and list(own.nearest) == [0, 1, 2, 3]
    np.testing.assert_allclose(np.diag(own.cosine), 1, atol=1e-6)
    lost = similarity(layer, gd_plus_plus(1e30, 0.2, 3), TASK, KEY, prompts=50)
    assert not any(np.isnan(values).any() for values in lost.values())
    assert np.all(np.isinf(lost.difference[:, -1])) and np.all(lost.cosine[:, -1] == 0)
    assert np.all(lost.nearest == 0)


def test_each_layer_is_nearest_to_the_learner_that_it_is():
    """The names stand in the order in which they were given."""
    others = {"ridge": Ridge(0.5), "same": GD, "far": GradientDescent(0.1, 3)}
    table = nearest_learners(similarities(constructed(GD), others, TASK, KEY, prompts=100))
    assert list(table.nearest.values) == ["same"] * 4
    assert list(table.iterate.sel(learner="same")) == [0, 1, 2, 3]
    assert np.all(table.iterate.sel(learner="ridge") == 0)
    assert np.all(
        table.difference.sel(learner="ridge")[1:] > 10 * table.difference.sel(learner="same")[1:]
    )
    assert np.all(table.difference.sel(learner="same") < 1e-9)
    with pytest.raises(InputError, match="candidates"):
        similarities(constructed(GD), {}, TASK, KEY)


@pytest.fixture(scope="module")
def measured():
    """The curvature of two steps of GD++ with γ = 0.3, and the prompts on which it was measured."""
    found = input_spectra(gd_plus_plus(1.0, 0.3, 2), TASK, KEY, prompts=3000, quantiles=(0.1, 0.5))
    return found, *arrays(unroll(KEY), 3000)


@pytest.mark.slow
def test_spectrum_of_gd_plus_plus_follows_its_recursion(measured):
    """x after l layers is μ_l(X^T X / n) x with μ_{l+1} = μ_l (1 - γ λ μ_l²), so that the eigenvalues are λ μ_l²."""
    found, xs, *_ = measured
    eigenvalues = np.linalg.eigvalsh(np.swapaxes(xs, 1, 2) @ xs / 5)
    transformed = np.ones_like(eigenvalues)
    gamma = 5 * float(np.float32(0.3) / np.float32(5))
    for layer in range(3):
        expected = np.sort(eigenvalues * transformed**2)[:, ::-1]
        np.testing.assert_allclose(found.eigenvalues[layer], expected, rtol=1e-6, atol=1e-12)
        condition = expected[:, 0] / expected[:, -1]
        np.testing.assert_allclose(
            found.condition[layer], np.quantile(condition, (0.1, 0.5)), rtol=1e-6
        )
        assert float(found.log_condition[layer]) == pytest.approx(
            np.log(condition).mean(), rel=1e-6
        )
        error = np.log(condition).std(ddof=1) / np.sqrt(3000)
        assert float(found.log_condition_standard_error[layer]) == pytest.approx(error, rel=1e-6)
        transformed = transformed * (1 - gamma * eigenvalues * transformed**2)


def test_the_step_on_the_prompt_itself_has_the_exact_risk(measured):
    """Its standard error is that of a bootstrap that finds the best step size anew."""
    found, xs, ys, query, target = measured
    found, exact = found.sel(layer=0), one_step_risk(TASK)
    assert abs(float(found.step_risk) - exact.best_risk) < 4.5 * float(
        found.step_risk_standard_error
    )
    assert float(found.step_size) == pytest.approx(exact.best_step_size, rel=0.1)

    steps = np.einsum("pnm,pnd,pd->pm", ys, xs, query) / 5
    terms = np.stack(
        [np.sum(a * b, -1) for a, b in ((target, target), (target, steps), (steps, steps))]
    )
    counts = np.random.default_rng(0).multinomial(3000, np.full(3000, 1 / 3000), 300)
    null, gain, cost = terms @ counts.T / 3000
    assert np.std(null - gain**2 / cost) == pytest.approx(
        float(found.step_risk_standard_error), rel=0.2
    )


def test_the_step_after_layers_takes_their_inputs_and_the_first_labels(measured):
    """GD++ as it transforms inputs and query, by plain loops."""
    found, *drawn = measured
    gain = cost = null = 0.0
    for x, y, query, target in zip(*drawn, strict=True):
        for _ in range(2):
            shrink = np.eye(3) - 0.3 / 5 * x.T @ x
            x, query = x @ shrink, shrink @ query
        step = sum(y[i] * (x[i] @ query) for i in range(5)) / 5
        null, gain, cost = null + target @ target, gain + target @ step, cost + step @ step
    assert float(found.step_risk[2]) == pytest.approx((null - gain**2 / cost) / 3000, rel=1e-6)
    assert float(found.step_size[2]) == pytest.approx(gain / cost, rel=1e-6)


def test_few_examples_on_a_line_have_finite_conditions():
    line = RegressionTask(
        Gaussian(3, covariance=np.diag([1.0, 0, 0])), LinearFunctions(3, 2), context_length=2
    )
    found = input_spectra(gd_plus_plus(1.0, 0.3, 1, n=2), line, KEY, prompts=20)
    assert found.sizes["eigenvalue"] == 2
    np.testing.assert_allclose(found.eigenvalues[:, :, 1], 0, atol=1e-25)
    np.testing.assert_allclose(found.condition, (3 * np.finfo(float).eps) ** -2)


def test_damped_layers_are_gradient_descent_with_smaller_steps(drawn):
    xs, ys, query, target = drawn
    layer = constructed(GD)
    found = risk_by_depth(layer, TASK, KEY, times=20, dampings=(1.0, 0.5, 1e30), prompts=100)
    assert found.risk.dims == ("damping", "times") and list(found.times) == list(range(21))
    for damping in (1.0, 0.5):
        errors = np.sum((descent(xs, ys, query, 1.2 * damping, 20) - target[:, None]) ** 2, -1)
        np.testing.assert_allclose(found.risk.sel(damping=damping), errors.mean(0), rtol=1e-4)
        np.testing.assert_allclose(
            found.standard_error.sel(damping=damping), errors.std(0, ddof=1) / 10, rtol=1e-3
        )
    diverged = found.isel(damping=2, times=-1)
    assert np.isinf(diverged.risk) and np.isinf(diverged.standard_error)


def test_damped_layers_that_move_inputs_against_loops_over_tokens(drawn):
    found = risk_by_depth(
        gd_plus_plus(0.8, 0.2, 1), TASK, KEY, times=20, dampings=(0.75, 0.5, 0.25), prompts=100
    )
    errors = np.zeros(21)
    for x, y, query, target in zip(*drawn, strict=True):
        prediction = np.zeros(2)
        for t in range(21):
            errors[t] += np.sum((prediction - target) ** 2) / 100
            inputs, residuals = x, y
            prediction = prediction + 0.75 * 0.8 / 5 * residuals.T @ inputs @ query
            y = residuals - 0.75 * 0.8 / 5 * inputs @ inputs.T @ residuals
            x = inputs - 0.75 * 0.2 / 5 * inputs @ inputs.T @ inputs
            query = query - 0.75 * 0.2 / 5 * inputs.T @ inputs @ query
    np.testing.assert_allclose(found.risk[0], errors, rtol=1e-4)


def test_largest_stable_damping_is_where_gradient_descent_diverges(drawn):
    """The risk after 50 steps, in closed form, crosses the risk of predicting 0 at this λ: a little above 2 / (η μ_max)."""
    xs, ys, query, target = drawn

    def excess(log_damping):
        errors = (descent(xs, ys, query, 1.2 * np.exp(log_damping), 50)[:, -1] - target) ** 2
        return np.log(errors.sum() / np.sum(target**2))

    found = largest_stable_damping(
        constructed(GD), TASK, KEY, prompts=100, precision=0.003, between=(0.1, 10.0)
    )
    edge = 2 / 1.2 / np.linalg.eigvalsh(np.swapaxes(xs, 1, 2) @ xs / 5).max()
    crossing = np.exp(scipy.optimize.brentq(excess, np.log(0.9 * edge), np.log(1.5 * edge)))
    assert found <= crossing * 1.0005 and found == pytest.approx(crossing, rel=0.0035)
    assert edge < found < 1.1 * edge


def test_what_cannot_be_measured_is_said():
    layer, unshared = constructed(GD), LinearTransformer.initialise(3, 2, layers=2, key=KEY)
    with pytest.raises(InputError, match="looped"):
        risk_by_depth(unshared, TASK, KEY)
    with pytest.raises(InputError, match="dampings"):
        risk_by_depth(layer, TASK, KEY, dampings=())
    with pytest.raises(InputError, match=r"damping .*0.0"):
        risk_by_depth(layer, TASK, KEY, dampings=(0.5, 0.0))
    with pytest.raises(InputError, match=r"d = 3|d=3|got d"):
        risk_by_depth(LinearTransformer.initialise(4, key=KEY), TASK, KEY)
    with pytest.raises(InputError, match=r"between .*0.1"):
        largest_stable_damping(layer, TASK, KEY, between=(1.0, 0.1))
    with pytest.raises(InputError, match=r"between.*0\.01"):
        largest_stable_damping(layer, TASK, KEY, prompts=200, between=(1e-3, 1e-2))
    ascending = constructed(GradientDescent(-1.2, 3))
    with pytest.raises(InputError, match=r"between.*damping 1\."):
        largest_stable_damping(ascending, TASK, KEY, prompts=200, between=(1.0, 2.0))
    with pytest.raises(InputError, match=r"prompts .*1"):
        input_spectra(layer, TASK, KEY, prompts=1)
    with pytest.raises(InputError, match=r"quantiles .*50.0"):
        input_spectra(layer, TASK, KEY, quantiles=(0.5, 50.0))


def test_figures_by_depth_draw_all_and_hide_nothing(measured):
    figure, (left, middle, right) = plt.subplots(1, 3, layout="constrained", figsize=(14, 4))
    layer = gd_plus_plus(1.2, 0.2, 3)
    plots.similarity_map(left, similarity(layer, layer, TASK, KEY, prompts=50))
    frames = [patch for patch in left.patches if isinstance(patch, Rectangle)]
    assert len(left.texts) == 16 and [frame.get_x() for frame in frames] == [-0.5, 0.5, 1.5, 2.5]
    plots.spectra(middle, measured[0], color=plots.TRAINED)
    labels = [label.get_text().split("\n")[0] for label in middle.get_yticklabels()]
    assert labels == ["the prompt", "after layer 1", "after layer 2"]
    damped = risk_by_depth(
        constructed(GD), TASK, KEY, times=20, dampings=(1.0, 0.5, 1e30), prompts=100
    )
    plots.risk_by_depth(right, damped)
    figure.canvas.draw()
    legend = right.get_legend()
    assert legend is not None and legend.get_window_extent().x0 >= right.get_window_extent().x1
    plt.close(figure)
