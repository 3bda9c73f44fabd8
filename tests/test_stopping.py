"""When runs end before their last step; and the schedules of the learning rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from small_training import StoppedError, assert_same

from mesalens import GradientDescent, InputError, LinearTransformer, random
from mesalens.models import Merged
from mesalens.tasks import (
    CondensedTask,
    Cosines,
    Gaussian,
    GaussianNoise,
    LinearFunctions,
    RegressionTask,
    Sphere,
    Uniform,
)
from mesalens.theory import layer_risk, optimal_layer, task_moments
from mesalens.training import (
    Flat,
    NearOptimum,
    NearRisk,
    Never,
    StoppingRule,
    TrainingSettings,
    schedule,
    train,
)

pytest_plugins = ["small_training"]
pytestmark = pytest.mark.usefixtures("compiled_once")

TASK = RegressionTask(Gaussian(2), LinearFunctions(2), context_length=4, noise=GaussianNoise(0.1))
MATRICES = ("A", "B")
TOLERANCE = 0.2


@pytest.fixture(scope="module")
def optimum():
    return optimal_layer(TASK)


@pytest.fixture(scope="module")
def trained(optimum, compiled_once):
    """Trains layers that begin between nothing and the best one, some nearer than others."""
    best = optimum.layer()

    def initialise(key):
        share = 0.5 + 0.4 * jax.random.uniform(key)
        return jax.tree.map(lambda leaf: leaf * share**2, best)

    def measure(learner, _):
        return {
            f"{name}_{i}": entry
            for name in MATRICES
            for i, entry in enumerate(getattr(learner.weights, name).ravel())
        }

    def train_with(stop, folder=None, stopped_at=None, steps=30):
        def progress(done):
            if done == stopped_at:
                raise StoppedError

        return train(
            initialise, TASK, optax.adam(1e-2), steps=steps, every=2, batch_size=32, seeds=4, key=random.key(0),
            measure=measure, stop=stop, progress=progress, checkpoint=folder,
        )  # fmt: skip

    return train_with


class Watched(NearOptimum):
    """Keeps the losses that it is shown."""

    def reached(self, metrics):
        self.shown = [*getattr(self, "shown", []), metrics["loss"].copy()]
        return super().reached(metrics)


@pytest.fixture(scope="module")
def watched():
    return Watched(TASK, TOLERANCE)


@pytest.fixture(scope="module")
def near(trained, watched):
    return trained(watched)


@pytest.fixture(scope="module")
def to_the_end(trained):
    return trained("never")


def layer_at(training, seed, point):
    """The layer of a seed at a measurement, from its entries."""
    shape = training.learners.weights.A.shape[1:]
    values = training.metrics.isel(seed=seed, step=point)
    matrices = {
        name: np.array([values[f"{name}_{i}"] for i in range(np.prod(shape))]) for name in MATRICES
    }
    return LinearTransformer(
        Merged(**{name: jnp.asarray(matrix.reshape(shape)) for name, matrix in matrices.items()}),
        layers=1,
    )


def test_a_layer_ends_at_the_first_measurement_where_its_exact_risk_is_near_the_least(
    near, optimum
):
    moments = task_moments(TASK)
    taken = near.metrics.steps_taken.values
    assert len(set(taken.tolist())) > 2 and taken.max() < 30
    for seed in range(4):
        points = range(len(near.metrics.step))
        excess = np.array(
            [layer_risk(layer_at(near, seed, i), moments) / optimum.risk - 1 for i in points]
        )
        np.testing.assert_allclose(near.metrics.excess_risk[seed], excess, rtol=1e-3, atol=1e-5)
        first = int(np.flatnonzero(excess <= TOLERANCE)[0])
        assert first > 0 and taken[seed] == near.metrics.step[first]
        np.testing.assert_array_equal(
            near.learner(seed).weights.A, layer_at(near, seed, first).weights.A
        )


def test_training_ends_with_its_last_run(near):
    assert near.metrics.ending.values.tolist() == ["converged"] * 4
    assert near.metrics.step.values[-1] == near.metrics.steps_taken.max()
    assert near.diverged() == [] and near.require_finite() is near


def test_a_run_that_has_ended_keeps_its_last_values_and_others_go_on_as_if_it_had_not(
    near, to_the_end
):
    assert to_the_end.metrics.ending.values.tolist() == ["all steps"] * 4
    assert to_the_end.metrics.steps_taken.values.tolist() == [30] * 4
    for name, values in to_the_end.metrics.items():
        for seed, last in enumerate(near.metrics.steps_taken.values):
            # until it ends each has the bits that it has without a rule
            until = near.metrics[name][seed].sel(step=slice(0, last))
            np.testing.assert_array_equal(until, values[seed].sel(step=slice(0, last)))
            after = near.metrics[name][seed].sel(step=slice(last, None))
            np.testing.assert_array_equal(after, np.full(after.shape, until[-1]))


@pytest.mark.slow
def test_ends_survive_a_training_that_is_stopped_and_goes_on(near, trained, tmp_path):
    first, last = near.metrics.steps_taken.values.min(), near.metrics.steps_taken.values.max()
    with pytest.raises(StoppedError):
        trained(NearOptimum(TASK, TOLERANCE), tmp_path, stopped_at=first + 2)
    assert_same(trained(NearOptimum(TASK, TOLERANCE), tmp_path), near)
    # Nothing is left to do, whoever asks for more steps
    xr.testing.assert_identical(
        trained(NearOptimum(TASK, TOLERANCE), tmp_path, stopped_at=last + 2).metrics, near.metrics
    )
    with pytest.raises(
        InputError,
        match=r"stop is risk within 0\.2 of the optimum .* in the folder and risk within 0\.1 of",
    ):
        trained(NearOptimum(TASK, 0.1), tmp_path)


@pytest.mark.parametrize(
    ("make", "keywords"),
    [
        (lambda: NearOptimum(TASK, 0.0), "tolerance.*0.0"),
        (lambda: NearOptimum(TASK, float("nan")), "tolerance.*nan"),
        (
            lambda: NearOptimum(RegressionTask(Uniform(2), Cosines(2), context_length=3)),
            "exact moments.*flat",
        ),
        (
            lambda: NearOptimum(RegressionTask(Sphere(1), LinearFunctions(1), context_length=1)),
            "risk above 0.*flat",
        ),
        (lambda: NearRisk(0.0), "risk.*0.0"),
        (lambda: NearRisk(1.0, -0.1), "tolerance.*-0.1"),
        (lambda: NearRisk(1.0, window=1), "window.*1"),
        (lambda: Flat(0.0), "tolerance.*0.0"),
        (lambda: Flat(0.1), "tolerance.*0.1"),
        (lambda: Flat(float("nan")), "tolerance.*nan"),
        (lambda: Flat(window=2), "window.*2"),
    ],
)
def test_rules_that_cannot_be_followed_get_a_sentence(make, keywords):
    with pytest.raises(InputError, match=keywords):
        make()


@pytest.mark.parametrize(
    ("learner", "sentence"),
    [
        (GradientDescent(0.1), "stop.*LinearTransformer.*GradientDescent"),
        (LinearTransformer.initialise(2, layers=2, key=random.key(0)), "layer"),
        (LinearTransformer.initialise(3, key=random.key(0)), "dim=3"),
    ],
)
def test_learners_whose_optimum_is_not_known_get_a_sentence_before_the_first_step(
    learner, sentence
):
    with pytest.raises(InputError, match=sentence):
        train(
            lambda key: learner, TASK, optax.adam(1e-2), steps=2, batch_size=4, key=random.key(0),
            stop=NearOptimum(TASK), progress=pytest.fail,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("never", {}, "never"),
        ("near-optimum", {"tolerance": 0.03}, "risk within 0.03 of the optimum"),
        ("near-risk", {"risk": 0.5, "window": 3}, "loss within 0.01 of 0.5 over 3 chunks"),
        ("flat", {"tolerance": 0.03}, "loss flat within 0.03 over 10 chunks"),
    ],
)
def test_settings_name_the_rule_and_its_parameters(name, options, words):
    task = {"dim": 2, "context_length": 4, "covariates": "gaussian", "noise": {"variance": 0.1}}
    rule = TrainingSettings(task=task, stop={"kind": name, **options}).stopping_rule()
    assert rule.words().startswith(words)
    if name == "near-optimum":
        assert rule.optimum == optimal_layer(TASK).risk
    if name != "near-risk":  # whose risk has no default
        rule = TrainingSettings(task=task, stop=name).stopping_rule()
        assert name == "never" or rule.tolerance == 0.01


def test_a_condensed_task_has_the_optimum_of_what_it_condenses():
    assert NearOptimum(CondensedTask(TASK)).optimum == NearOptimum(TASK).optimum


@pytest.mark.slow
def test_a_rule_by_name_and_as_an_object_end_the_same_training_alike():
    """`near-optimum` reads the task of the training."""

    def trained(stop):
        return train(
            lambda key: optimal_layer(TASK).layer(), TASK, optax.sgd(1e-6), steps=4, every=2, batch_size=8, key=random.key(0), stop=stop
        )  # fmt: skip

    by_name = trained("near-optimum")
    assert by_name.metrics.steps_taken.values.tolist() == [2]
    xr.testing.assert_identical(by_name.metrics, trained(NearOptimum(TASK)).metrics)
    far = {"kind": "near-risk", "risk": 1e-6, "window": 2}
    xr.testing.assert_identical(trained(far).metrics, trained(NearRisk(1e-6, window=2)).metrics)
    assert trained(
        {"kind": "near-risk", "risk": 1e6, "window": 2}
    ).metrics.ending.values.tolist() == ["converged"]
    xr.testing.assert_identical(trained("never").metrics, trained(Never()).metrics)


def test_a_rule_is_shown_what_was_measured_so_far(near, watched):
    points = len(near.metrics.step)
    assert [shown.shape for shown in watched.shown] == [
        (4, count) for count in range(2, points + 1)
    ]
    np.testing.assert_array_equal(watched.shown[0], near.metrics.loss[:, :2])
    np.testing.assert_array_equal(watched.shown[-1], near.metrics.loss)


class AfterTwoChunks(StoppingRule):
    """A rule of a user."""

    def reached(self, metrics):
        return np.full(len(metrics["loss"]), metrics["loss"].shape[1] > 2)

    def words(self):
        return "after two chunks"


def test_a_rule_of_a_user_ends_runs():
    found = train(
        lambda key: GradientDescent(0.1), TASK, "sgd", steps=20, every=2, batch_size=8, key=random.key(0), stop=AfterTwoChunks()
    )  # fmt: skip
    assert found.metrics.steps_taken.values.tolist() == [4]


def after(first, window):
    """Metrics of runs whose first chunk has the loss `first`, and that begin with nothing, as losses do."""
    runs = len(window)
    return {"loss": np.column_stack((np.full(runs, np.nan), np.full(runs, first), window))}


def flat_by_scipy(window, tolerance):
    """Whether each row is flat, by `scipy.stats.linregress`."""
    found = []
    for row in window:
        line = scipy.stats.linregress(np.arange(len(row)), row)
        span = (len(row) - 1) / row.mean()
        reach = scipy.stats.t.ppf(0.975, len(row) - 2) * line.stderr
        found.append(abs(line.slope) * span + reach * span <= tolerance)
    return np.array(found)


@pytest.mark.parametrize(("size", "tolerance"), [(3, 0.05), (6, 0.01), (10, 0.02)])
def test_flat_is_where_the_interval_of_a_fitted_line_lies_within_the_tolerance(size, tolerance):
    rng = np.random.default_rng(size)
    noise = rng.normal(size=(300, size)) * rng.uniform(0, 3 / size, (300, 1)) ** 2 * tolerance
    slopes = np.linspace(-1, 1, size) * rng.uniform(-1, 1, (300, 1)) * tolerance
    window = rng.uniform(0.1, 5, (300, 1)) * (1 + noise + slopes)
    reached = Flat(tolerance, size).reached(after(100.0, window))
    np.testing.assert_array_equal(reached, flat_by_scipy(window, tolerance))
    assert 10 < reached.sum() < 290


def rate(change, *, noise, runs=2000):
    """The share of simulated windows that are flat within 0.01, whose loss changes so much from end to end."""
    rng = np.random.default_rng(5)
    window = 1 + np.linspace(-0.5, 0.5, 10) * change + noise * rng.normal(size=(runs, 10))
    return Flat(0.01, 10).reached(after(3.0, window)).sum()


def test_a_loss_that_changes_by_the_tolerance_is_held_flat_as_rarely_as_is_said():
    """An interval of 95% leaves 2.5% on each side; the test fails by chance once in 10⁴ times."""
    low, high = scipy.stats.binom.interval(1 - 1e-4, 2000, 0.025)
    for change in (0.01, -0.01):
        assert low <= rate(change, noise=0.001) <= high
        assert rate(1.5 * change, noise=0.001) <= high / 10
    assert rate(0.0, noise=0.001) > 1950  # one that is constant but for noise is found
    assert rate(0.0, noise=0.05) < 20  # noise that hides a change is no evidence that there is none


def test_a_plateau_at_the_beginning_is_not_flat_and_neither_is_a_window_that_is_too_short():
    window = np.ones((1, 12))
    rule = Flat(0.01, 10)
    assert rule.reached(after(1.12, window)).all()
    assert not rule.reached(
        after(1.1, window)
    ).any()  # less than ten tolerances below the first chunk
    assert not rule.reached(after(0.5, window)).any()
    assert rule.reached(after(1.12, window[:, :10])).all()
    assert not rule.reached(after(1.12, window[:, :9])).any()
    once = window.copy()
    once[:, 5] = 1.115  # one chunk of the window is not below, although the line is
    assert not Flat(0.09, 10).reached(after(1.2, once)).any()


def test_losses_that_are_none_or_nothing_are_not_flat():
    for loss in (np.nan, 0.0):
        assert not Flat().reached(after(1.0, np.full((1, 11), loss))).any()
        if loss != 0:
            assert not NearRisk(1.0).reached(after(1.0, np.full((1, 11), loss))).any()


def test_near_a_risk_is_where_the_interval_of_the_mean_loss_lies_below():
    rng = np.random.default_rng(0)
    for size in (2, 5, 9):
        window = 1 + rng.uniform(0, 0.02, (200, 1)) + 0.01 * rng.normal(size=(200, size))
        high = [
            scipy.stats.t.interval(0.95, size - 1, row.mean(), scipy.stats.sem(row))[1]
            for row in window
        ]
        reached = NearRisk(1.0, 0.02, size).reached(after(2.0, window))
        np.testing.assert_array_equal(reached, np.array(high) <= 1.02)
        assert 0 < reached.sum() < 200
        assert not NearRisk(1.0, 0.02, size + 2).reached(after(0.1, window)).any()  # too short


def test_a_risk_above_the_one_that_is_known_is_taken_for_near_as_rarely_as_is_said():
    window = np.random.default_rng(3).normal(1.02, 0.01, (2000, 5))
    low, high = scipy.stats.binom.interval(1 - 1e-4, 2000, 0.025)
    assert low <= NearRisk(1.0, 0.02, 5).reached(after(2.0, window)).sum() <= high


LOSSES = st.lists(st.lists(st.floats(0.5, 2), min_size=6, max_size=6), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(LOSSES, st.integers(-20, 20), st.sampled_from([0.001, 0.01, 0.09]))
def test_units_of_the_loss_and_other_runs_have_no_part_in_a_verdict(window, power, tolerance):
    window = 1 + tolerance * (np.array(window) - 1)
    rows = after(1 + 11 * tolerance, window)
    # Powers of two round nothing
    scaled = {"loss": rows["loss"] * 2.0**power}
    for rule, of_scaled in (
        (Flat(tolerance, 5), Flat(tolerance, 5)),
        (NearRisk(1.0, tolerance), NearRisk(2.0**power, tolerance)),
    ):
        reached = rule.reached(rows)
        np.testing.assert_array_equal(reached, of_scaled.reached(scaled))
        for run in range(len(window)):
            assert rule.reached({"loss": rows["loss"][run : run + 1]}) == reached[run : run + 1]


@settings(max_examples=60, deadline=None)
@given(LOSSES, st.sampled_from([(0.001, 0.002), (0.01, 0.05), (0.05, 0.09)]))
def test_a_larger_tolerance_ends_no_run_later_where_it_has_fallen(window, tolerances):
    small, large = tolerances
    rows = after(50.0, 1 + small * (np.array(window) - 1))
    assert (Flat(small, 5).reached(rows) <= Flat(large, 5).reached(rows)).all()
    assert (NearRisk(1.0, small).reached(rows) <= NearRisk(1.0, large).reached(rows)).all()


RISE, STEPS, RATE = 4, 20, 0.3


def expected(name, warmup):
    """The rate over the steps, by the formulas."""
    t = np.arange(STEPS + 1)
    part = np.maximum(t - warmup, 0) / (STEPS - warmup)
    down = {"constant": 1 + 0 * part, "cosine": (1 + np.cos(np.pi * part)) / 2, "linear": 1 - part}[
        name
    ]
    return RATE * np.where(t < warmup, t / max(warmup, 1), down)


@pytest.mark.parametrize("warmup", [0, RISE])
@pytest.mark.parametrize("name", ["constant", "cosine", "linear"])
def test_schedules_are_their_formulas_for_a_number_and_for_one_that_is_traced(name, warmup):
    rates = schedule(name, RATE, steps=STEPS, warmup=warmup)
    if name == "constant" and not warmup:
        assert rates == RATE
        return
    found = [rates(t) for t in range(STEPS + 1)]
    np.testing.assert_allclose(found, expected(name, warmup), rtol=1e-5, atol=1e-7)
    traced = jax.jit(
        lambda rate: schedule(name, rate, steps=STEPS, warmup=warmup)(jnp.arange(STEPS + 1))
    )(RATE)
    np.testing.assert_allclose(traced, found, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_a_training_takes_the_steps_of_its_schedule():
    """Adam's first steps are the rate long, as gradients of one sign have nothing to be averaged out."""
    training = TrainingSettings(
        task={"dim": 1, "context_length": 2},
        optimiser={"learning_rate": 1e-3, "b2": 0.999, "schedule": "linear", "warmup": 2},
        steps=6,
        every=1,
        batch_size=8,
    ).train(measure=lambda learner, _: {"weight": learner.weights.P[0, 0, -1, -1]})
    moved = np.abs(np.diff(training.metrics.weight[0]))
    assert moved[0] == 0
    np.testing.assert_allclose(moved[1], 1e-3 / 2, rtol=0.5)
    assert moved[2] > moved[1] and moved[-1] < moved[2]


@pytest.mark.parametrize(
    ("options", "keywords"),
    [
        ({"warmup": STEPS}, "warmup=20.*steps=20"),
        ({"warmup": -1}, "warmup.*-1"),
        ({"steps": 0}, "steps.*0"),
        ({"name": "cosine", "learning_rate": -1.0}, "learning_rate.*-1.0"),
        ({"name": "cosin"}, "schedule.*cosin.*cosine"),
    ],
)
def test_schedules_that_there_are_not_get_a_sentence(unchecked, options, keywords):
    options = {"name": "constant", "learning_rate": RATE, "steps": STEPS, **options}
    with pytest.raises(InputError, match=keywords):
        schedule(options.pop("name"), options.pop("learning_rate"), **options)
