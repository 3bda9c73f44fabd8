"""Gradient flow of one layer: steps of a rank, fixed points, time courses, aligned weights, plateaus."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

from mesalens import InputError, LinearTransformer, kinds, random
from mesalens.analysis import learned_preconditioner, plateaus
from mesalens.models import Factors, LowRank, Sizes, Sparse
from mesalens.tasks import (
    Exponential,
    Gaussian,
    GaussianNoise,
    LinearFunctions,
    RegressionTask,
    Retrieved,
)
from mesalens.theory import (
    best_preconditioner,
    best_rank_step,
    escape_time_course,
    fixed_point,
    layer_risk,
    merged_time_course,
    plateau_risks,
    population_risk,
    preconditioned_risk,
    step_along,
    task_moments,
)
from mesalens.training import gradient_flow

KEY = jax.random.key(0)


def gaussian(spectrum=(0.4, 0.3, 0.2, 0.1), n=31, noise=0.0, seed=None, prior=None, mean=None):
    """x ~ N(0, Σ), Σ of this spectrum, in a random frame if there is a seed."""
    d = len(spectrum)
    axes = (
        np.eye(d)
        if seed is None
        else np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
    )
    covariates = Gaussian(d, covariance=axes.T * np.array(spectrum) @ axes)
    functions = LinearFunctions(d, covariance=prior, mean=mean)
    return RegressionTask(covariates, functions, context_length=n, noise=GaussianNoise(noise))


def general(d=3, n=5, noise=0.3, seed=0):
    """Covariances of inputs and weights that do not commute."""
    a, b = np.random.default_rng(seed).normal(size=(2, d, d))
    covariates, functions = Gaussian(d, covariance=a @ a.T), LinearFunctions(d, covariance=b @ b.T)
    return RegressionTask(covariates, functions, context_length=n, noise=GaussianNoise(noise))


# Steps of a rank


def test_the_plateaus_of_the_paper_are_at_these_numbers_in_every_frame():
    known = [1, 0.640580, 0.377372, 0.209805, 0.135995]
    for seed in (None, 1, 2):
        np.testing.assert_allclose(
            plateau_risks(task_moments(gaussian(seed=seed))), known, atol=5e-7
        )


@pytest.mark.parametrize(("spectrum", "n", "noise"), [((0.7,), 1, 0.0), ((2.0,), 1, 0.5), ((1.5, 0.2), 1, 0.1), ((3.0, 1.0, 0.1), 7, 2.0)])  # fmt: skip
def test_plateau_risks_of_gaussian_inputs_are_the_closed_form(spectrum, n, noise):
    spectrum = np.array(spectrum)
    gains = spectrum / (1 + (1 + (spectrum.sum() + noise) / spectrum) / n)
    expected = spectrum.sum() + noise - np.cumsum([0, *gains])
    found = plateau_risks(task_moments(gaussian(spectrum, n, noise, seed=3)))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("task", [general(), general(2, 1, 0.0, 1), general(4, 6, 0.1, 2)])
def test_no_factors_of_a_rank_do_better_than_the_best_step_of_that_rank(task):
    moments, d, n = task_moments(task), task.dim, task.context_length
    # Closed forms of E[s s^T] and E[s y_q x_q^T] for Gaussian inputs
    sigma, prior = task.covariates.covariance, task.functions.covariance
    noise = float(task.noise.variance)
    signal = sigma @ prior @ sigma
    K = n * (n + 1) * signal + n * (np.trace(sigma @ prior) + noise) * sigma
    null = np.trace(sigma @ prior) + noise
    for rank in range(1, d + 1):
        P, risk = best_rank_step(moments, rank)
        assert np.linalg.matrix_rank(P) == rank
        assert preconditioned_risk(P, moments) == pytest.approx(risk, rel=1e-9)
        scale = np.sqrt(np.abs(best_preconditioner(moments)[0]).max())

        def of(flat, rank=rank, scale=scale):
            left, right = scale * flat.reshape(2, d, rank)
            step = left @ right.T
            return null - 2 * n * np.sum(step * signal) + np.sum((step @ K) * (sigma @ step))

        starts = np.random.default_rng(rank).normal(size=(4, 2 * d * rank))
        found = min(
            minimize(of, start, method="BFGS", options={"gtol": 1e-9}).fun for start in starts
        )
        assert found == pytest.approx(risk, rel=1e-5) and found > risk * (1 - 1e-9)
    np.testing.assert_allclose(P, best_preconditioner(moments)[0], rtol=1e-6, atol=1e-9)
    assert best_rank_step(moments, 0)[1] == moments.null_risk
    np.testing.assert_allclose(
        plateau_risks(moments), [best_rank_step(moments, rank)[1] for rank in range(d + 1)]
    )


def test_ranks_and_places_that_do_not_exist_get_a_sentence():
    moments = task_moments(general())
    with pytest.raises(InputError, match=r"rank.*3.*4"):
        best_rank_step(moments, 4)
    with pytest.raises(InputError, match=r"subset.*3"):
        fixed_point(moments, [0, 3])
    with pytest.raises(InputError, match=r"subset.*\[1, 1\]"):
        step_along(moments, [1, 1])
    with pytest.raises(InputError, match=r"place.*2.*3"):
        escape_time_course(moments, 3, 0.1, [0.0, 1.0])


# Fixed points


def slope_and_risk(layer, moments):
    with jax.enable_x64(True):
        value, slope = jax.value_and_grad(population_risk)(layer, moments)
        return float(jnp.linalg.norm(ravel_pytree(slope)[0])), float(value)


@pytest.mark.parametrize(
    "task", [general(), gaussian((0.7,), 1), gaussian((0.5, 0.3, 0.1), seed=1)]
)
def test_every_subset_of_the_directions_is_a_fixed_point_with_the_risk_of_its_step(task):
    moments, d = task_moments(task), task.dim
    for subset in range(2**d):
        chosen = [i for i in range(d) if subset >> i & 1]
        layer = fixed_point(moments, chosen)
        P, risk = step_along(moments, chosen)
        slope, value = slope_and_risk(layer, moments)
        assert slope < 1e-11 and value == pytest.approx(risk, rel=1e-10)
        with jax.enable_x64(True):
            np.testing.assert_allclose(learned_preconditioner(layer)[0], P, atol=1e-12)
            off = jax.tree.map(lambda leaf: 1.1 * leaf, layer)
        assert slope_and_risk(off, moments)[0] > 1e-3 or not chosen


def test_a_head_of_zeros_falls_off_a_fixed_point_along_a_missing_direction_by_the_stated_cube():
    moments, step = task_moments(gaussian()), 1e-2
    layer = fixed_point(moments, [0, 2])
    whole = fixed_point(moments, range(4))
    with jax.enable_x64(True):
        grown = jax.tree.map(
            lambda a, b: a.at[0, 1].set(step * b[0, 1] / jnp.linalg.norm(b[0, 1])), layer, whole
        )
    change = slope_and_risk(grown, moments)[1] - slope_and_risk(layer, moments)[1]
    assert change == pytest.approx(-2 * step**3 * 31 * 0.3**2, rel=1e-3)  # 2 b k·G q with G = n λ²


# Time courses


def start_from(layer):
    return lambda key: layer


@pytest.mark.parametrize(("d", "n", "noise"), [(1, 1, 0.0), (3, 5, 0.4)])
def test_the_merged_time_course_is_that_of_the_flow(d, n, noise):
    task = gaussian(np.full(d, 1.5), n, noise)
    moments, times = task_moments(task), np.linspace(0, 1.5, 31)
    b = np.array([0.1, -0.02, 0.05])[None, :, None, None]
    weights = Sparse(jnp.asarray(-b * np.eye(d) / np.sqrt(d)), jnp.asarray(b))
    flow = gradient_flow(
        start_from(LinearTransformer(weights, layers=1)),
        task,
        times,
        key=KEY,
        rtol=1e-9,
        atol=1e-12,
    )
    share = merged_time_course(moments, float(np.sum(b**2)), times)
    null, best = moments.null_risk, best_preconditioner(moments)[1]
    expected = null - (null - best) * (2 * share - share**2)
    np.testing.assert_allclose(flow.metrics.risk[0], expected, rtol=1e-6)
    assert share[0] < 0.2 and share[-1] > 0.9


@pytest.mark.parametrize(("spectrum", "n", "place"), [((1.3,), 1, 0), ((0.9, 0.5), 5, 0), ((0.9, 0.5), 5, 1)])  # fmt: skip
def test_the_escape_is_that_of_the_flow_of_one_head(spectrum, n, place):
    task = gaussian(spectrum, n, 0.2, seed=1, prior=2 * np.eye(len(spectrum)))
    moments = task_moments(task)
    whole, rest = fixed_point(moments, range(len(spectrum))), fixed_point(moments, range(place))
    with jax.enable_x64(True):
        limit = float(jnp.linalg.norm(whole.weights.W_K[0, place]))
        small = jax.tree.map(lambda a, b: a.at[0, place].set(0.1 * b[0, place]), rest, whole)
        small = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), small)
    times = np.linspace(0, 60, 41)
    flow = gradient_flow(
        start_from(small),
        task,
        times,
        key=KEY,
        measure=lambda layer: {"a": jnp.abs(layer.weights.B_yy[0, place, 0, 0])},
    )
    found = escape_time_course(moments, place, 0.1 * limit, times)
    np.testing.assert_allclose(flow.metrics.a[0], found, rtol=2e-4)
    assert found[0] == pytest.approx(0.1 * limit) and found[-1] > 0.9 * limit


def test_tasks_without_these_time_courses_get_a_sentence():
    with pytest.raises(InputError, match="isotropic"):
        merged_time_course(task_moments(gaussian()), 1e-3, [0.0, 1.0])
    with pytest.raises(InputError, match=r"direction 0.*commute"):
        escape_time_course(task_moments(general()), 0, 0.1, [0.0, 1.0])
    for time_course in (merged_time_course, lambda m, *rest: escape_time_course(m, 0, *rest)):
        with pytest.raises(InputError, match=r"start.*-1"):
            time_course(task_moments(gaussian((1.0, 1.0))), -1.0, [0.0, 1.0])


def test_the_flow_keeps_what_is_measured_at_each_time_also_after_it_has_arrived():
    task, times = gaussian((1.0,), 2), [0.0, 0.5, 300.0, 500.0]
    start = partial(LinearTransformer.initialise, 1, structure=LowRank.initialise, init_scale=0.3)
    flow = gradient_flow(lambda key: start(key=key), task, times, seeds=2, key=KEY, rtol=1e-12, atol=1e-14, measure=lambda layer: {"Q": layer.weights.W_Q[0]})  # fmt: skip
    Q = flow.metrics.Q
    assert Q.shape == (2, 4, 1, 1, 1) and Q.dims[:2] == ("seed", "time")
    np.testing.assert_allclose(Q[:, -1], flow.learners.weights.W_Q[:, 0], rtol=1e-6)
    assert np.isfinite(Q).all() and not np.allclose(Q[0], Q[1])
    np.testing.assert_allclose(Q[:, 2], Q[:, 3], rtol=1e-6)


# Structures and initial weights


@pytest.mark.parametrize("scale", [1.0, 0.03])
def test_a_flow_does_not_arrive_at_a_saddle(scale):
    """From small weights, or for small inputs, the gradient is below every threshold at first."""
    covariates = Gaussian(2, scale=scale)
    task = RegressionTask(covariates, LinearFunctions(2, scale=scale), context_length=8)

    def initialise(key):
        return LinearTransformer.initialise(
            2, heads=2, structure=Sparse.initialise, init_scale=1e-9, key=key
        )

    flow = gradient_flow(initialise, task, [0.0, 40.0 / scale**6], key=random.key(0))
    best = best_preconditioner(task_moments(task))[1]
    assert float(flow.metrics.risk[0, -1]) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("outputs", [1, 2])
def test_time_courses_are_not_stated_for_joint_moments_or_several_outputs(outputs):
    covariates = Retrieved(3) if outputs == 1 else Gaussian(3)
    task = RegressionTask(covariates, LinearFunctions(3, outputs), context_length=5)
    moments = task_moments(task)
    for result in (
        lambda: merged_time_course(moments, 0.1, [0.0, 1.0]),
        lambda: escape_time_course(moments, 0, 0.1, [0.0, 1.0]),
        lambda: fixed_point(moments, [0]),
    ):
        with pytest.raises(InputError, match="share the function" if outputs == 1 else "outputs"):
            result()


def test_low_rank_keys_read_covariates_alone_and_have_the_rank():
    weights = LowRank.initialise(Sizes(2, 3, 4, 2), rank=2, scale=1.0, key=KEY)
    A, B = weights.effective()
    assert A.shape == B.shape == (2, 3, 6, 6)
    assert not A[..., 4:, :].any() and not A[..., 4:].any() and not B[..., :4, :].any() and not B[..., :4].any()  # fmt: skip
    assert (np.linalg.matrix_rank(np.asarray(A)) == 2).all()
    np.testing.assert_allclose(A[1, 2, :4, :4], weights.W_K[1, 2].T @ weights.W_Q[1, 2], rtol=1e-5)
    np.testing.assert_allclose(B[..., 4:, 4:], weights.B_yy)


@pytest.mark.parametrize("rank", [0, 5])
def test_a_rank_that_is_none_gets_a_sentence(rank):
    with pytest.raises(InputError, match=f"rank.*{rank}"):
        LowRank.initialise(Sizes(1, 1, 4, 1), rank=rank, scale=1.0, key=KEY)


def test_settings_know_the_structure_and_the_aligned_weights_and_where_they_do_not_fit():
    def layer(**structure):
        settings = kinds.build(
            "learner",
            {"kind": "linear-transformer", "structure": structure},
            dim=3,
            outputs=1,
            key=KEY,
        )
        return settings.weights

    assert layer(kind="low-rank", rank=3).W_K.shape == (1, 1, 3, 3)
    assert not layer(kind="factors", aligned=True).W_V[..., :3].any()
    with pytest.raises(InputError, match=r"rank.*3.*4"):
        layer(kind="low-rank", rank=4)
    with pytest.raises(InputError, match="aligned"):
        layer(kind="sparse", aligned=True)


def aligned(key, d=3, outputs=1, heads=2, scale=0.5):
    structure = partial(Factors.initialise, aligned=True)
    return LinearTransformer.initialise(d, outputs, heads=heads, structure=structure, init_scale=scale, key=key)  # fmt: skip


def test_aligned_weights_are_the_usual_ones_with_two_blocks_of_zeros():
    layer = aligned(KEY, outputs=2).weights
    usual = LinearTransformer.initialise(3, 2, heads=2, init_scale=0.5, key=KEY).weights
    assert not layer.W_K[..., 3:].any() and not layer.W_V[..., :3].any()
    np.testing.assert_array_equal(layer.W_Q, usual.W_Q)
    np.testing.assert_array_equal(layer.P, usual.P)
    np.testing.assert_array_equal(layer.W_K[..., :3], usual.W_K[..., :3])
    np.testing.assert_array_equal(layer.W_V[..., 3:], usual.W_V[..., 3:])


def blocks(layer, task):
    """The largest slope of the blocks that are 0, and of the others."""
    slopes = jax.grad(population_risk)(layer, task_moments(task)).weights
    d = task.dim
    return (
        max(float(jnp.abs(block).max()) for block in (slopes.W_K[..., d:], slopes.W_V[..., :d])),
        max(float(jnp.abs(block).max()) for block in (slopes.W_K[..., :d], slopes.W_V[..., d:])),
    )


def test_the_blocks_have_no_slope_where_labels_have_a_symmetric_law_and_one_where_they_have_not():
    exponential = RegressionTask(
        Exponential(3), LinearFunctions(3), context_length=4, noise=GaussianNoise(0.2)
    )
    with jax.enable_x64(True):
        for task in (general(), exponential, gaussian((0.5, 0.2, 0.2), 1)):
            zero, rest = blocks(aligned(KEY), task)
            assert zero < 1e-14 * rest
        shifted = gaussian((0.5, 0.3, 0.2), 4, mean=np.array([[1.0, -0.5, 2.0]]))
        zero, rest = blocks(aligned(KEY), shifted)
        assert zero > 1e-3 * rest


@pytest.mark.slow
def test_gradient_flow_leaves_the_blocks_zero_and_arrives_where_the_usual_weights_may_not():
    task = gaussian((1.2, 0.5), 4, 0.3, seed=1, prior=np.array([[1.0, 0.5], [0.5, 2.0]]))
    start = partial(aligned, d=2, heads=1, scale=0.05)
    flow = gradient_flow(start, task, [0.0, 400.0], seeds=3, key=random.key(1))
    weights = flow.learners.weights
    assert not weights.W_K[..., 2:].any() and not weights.W_V[..., :2].any()
    np.testing.assert_allclose(
        flow.metrics.risk[:, -1], best_preconditioner(task_moments(task))[1], rtol=1e-6
    )
    assert layer_risk(flow.learner(0), task_moments(task)) == pytest.approx(
        float(flow.metrics.risk[0, -1])
    )


# Plateaus


def staircase(times, levels, drops, width=0.15):
    """Steps between levels, each a logistic function of log t."""
    falls = np.diff(levels)[:, None] / (
        1 + np.exp(-(np.log(times) - np.log(drops)[:, None]) / width)
    )
    return levels[0] + falls.sum(0)


def test_plateaus_of_a_staircase_are_its_levels_and_drops_their_times():
    times, levels, drops = np.geomspace(0.01, 1e4, 300), [1.0, 0.7, 0.2, 0.15], [0.5, 20.0, 800.0]
    found = plateaus(times, staircase(times, levels, drops))
    np.testing.assert_allclose(found.losses, levels, atol=2e-3)
    np.testing.assert_allclose(found.drops, drops, rtol=0.05)
    assert np.all(found.times[:-1] < drops) and np.all(found.times[1:] > drops)
    # The last drop is a twentieth of the first two: none for whom that is too little
    few = plateaus(times, staircase(times, levels, drops), least=0.2)
    np.testing.assert_allclose(few.losses, [1.0, 0.7, 0.15], atol=0.06)
    np.testing.assert_allclose(few.drops, drops[:2], rtol=0.05)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_plateaus_depend_on_the_units_of_time_and_loss_alone_by_a_factor(scale):
    times = np.geomspace(0.01, 1e4, 200)
    losses = staircase(times, [2.0, 1.0, 0.3], [1.0, 100.0])
    one, other = plateaus(times, losses), plateaus(scale * times, losses / scale)
    for found, expected in zip(
        other, (scale * one.times, one.losses / scale, scale * one.drops), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_decay_has_one_drop_a_constant_none_and_a_rise_is_no_drop():
    times = np.geomspace(1e-3, 1e3, 100)
    decay = plateaus(times, 0.5 + np.exp(-times))
    assert len(decay.drops) == 1 and decay.losses == pytest.approx([1.5, 0.5], abs=2e-3)
    assert decay.drops[0] == pytest.approx(1, rel=0.1)  # d/d log t of e^-t is largest at t = 1
    constant = plateaus(times, np.full(100, 0.3))
    assert constant.losses.tolist() == [0.3] and not len(constant.drops)
    assert not len(plateaus(times, staircase(times, [0.2, 0.9], [1.0])).drops)


def test_a_drop_that_has_begun_before_the_first_time_or_not_ended_at_the_last_counts():
    times = np.geomspace(1.0, 100.0, 80)
    assert len(plateaus(times, np.exp(-times / 200)).drops) == 1
    found = plateaus(times, np.exp(-times) + 1)
    assert len(found.drops) == 1 and found.losses == pytest.approx([1.0], abs=1e-3)


@pytest.mark.parametrize("times", [[0.0, 1.0, 2.0], [1.0, 1.0, 2.0], [1.0, 2.0], [2.0, 1.0, 0.5]])
def test_times_of_plateaus_that_are_none_get_a_sentence(times):
    with pytest.raises(InputError, match="times"):
        plateaus(times, np.ones(len(times)))


@pytest.mark.parametrize(("losses", "least", "word"), [([1.0, 2.0], 0.1, "losses"), ([1.0, 2.0, np.nan], 0.1, "losses"), ([1.0, 2.0, 3.0], 0.0, "least"), ([1.0, 2.0, 3.0], 1.5, "least")])  # fmt: skip
def test_losses_and_shares_of_plateaus_that_are_none_get_a_sentence(losses, least, word):
    with pytest.raises(InputError, match=word):
        plateaus([1.0, 2.0, 3.0], losses, least=least)
