"""Sweeps: every point of a grid is the training that it would be alone."""

import json
import re
import signal
from decimal import Decimal

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest
import xarray as xr
from small_training import StoppedError, assert_same

from mesalens import GradientDescent, InputError, LinearTransformer, cli, plots, random
from mesalens.progress import ProgressReport
from mesalens.storage import load_dataset
from mesalens.tasks import Gaussian, GaussianNoise, LinearFunctions, RegressionTask
from mesalens.theory import layer_risks, task_moments
from mesalens.training import (
    SGD,
    Training,
    TrainingDivergedError,
    TrainingSettings,
    load_run,
    train,
)
from mesalens.training.checkpoint import steps_done
from mesalens.training.optimisers.adam import clipped_adam
from mesalens.training.sweeps import plan

pytest_plugins = ["small_training"]
pytestmark = pytest.mark.usefixtures("compiled_once")


def task(noise_variance=0.0, context_length=3):
    noise = GaussianNoise(noise_variance)
    return RegressionTask(
        Gaussian(2), LinearFunctions(2), context_length=context_length, noise=noise
    )


def measure(learner, key):
    return {"draw": jax.random.uniform(key), "size": jnp.sum(learner.weights.W_Q**2)}


def options(**others):
    return {"steps": 6, "every": 3, "batch_size": 16, "seeds": 2, "key": random.key(3), **others}


def assert_points_agree(point, metrics, alone, rtol=None):
    """Bit for bit, or to rounding; draws always bit for bit, as keys are the same."""
    names = sorted(alone.metrics.data_vars)
    assert sorted(metrics.data_vars) == names
    compare = np.testing.assert_array_equal
    if rtol is not None:
        compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-7)  # noqa: E731
    for name in names:
        (np.testing.assert_array_equal if name == "draw" else compare)(
            metrics[name], alone.metrics[name]
        )
    for name in ("ending", "steps_taken", "step", "seed"):
        assert metrics[name].values.tolist() == alone.metrics[name].values.tolist()
    for seed in range(len(alone.metrics.seed)):
        jax.tree.map(compare, point(seed), alone.learner(seed))


RATES, SCALES = [1e-3, 3e-2], [0.002, 0.1, 0.5]


def initialise(key, init_scale=0.5):
    return LinearTransformer.initialise(2, init_scale=init_scale, key=key)


def optimiser(learning_rate):
    return clipped_adam(learning_rate, clip=1.0)


@pytest.fixture(scope="module")
def grid(compiled_once):
    vary = {"learning_rate": RATES, "init_scale": SCALES}
    return train(initialise, task(), optimiser, vary=vary, measure=measure, **options())


@pytest.mark.parametrize(
    ("learning_rate", "init_scale"),
    [
        (3e-2, 0.1),
        *(pytest.param(rate, scale, marks=pytest.mark.slow) for rate in RATES for scale in SCALES),
    ],
)
def test_a_point_of_a_grid_is_a_training_alone(grid, learning_rate, init_scale):
    alone = train(
        lambda key: initialise(key, init_scale), task(), optimiser(learning_rate), measure=measure, **options()
    )  # fmt: skip
    where = {"learning_rate": learning_rate, "init_scale": init_scale}
    assert_points_agree(
        lambda seed: grid.learner(seed, **where), grid.metrics.sel(where), alone, rtol=1e-5
    )


def test_a_seed_has_the_same_keys_at_each_point(grid):
    draws = grid.metrics.draw
    np.testing.assert_array_equal(draws, draws.isel(learning_rate=[0, 0], init_scale=[0, 0, 0]))
    assert len(np.unique(draws)) == 2 * 3
    sizes = grid.metrics["size"].isel(step=0)
    np.testing.assert_allclose(
        sizes / sizes.init_scale, sizes[[0, 0]][:, [0, 0, 0]] / 0.002, rtol=1e-5
    )


def test_results_of_a_grid_are_labelled(grid):
    metrics = grid.metrics
    assert metrics.loss.dims == ("learning_rate", "init_scale", "seed", "step")
    assert metrics.ending.dims == ("learning_rate", "init_scale", "seed")
    assert (
        metrics.learning_rate.values.tolist() == RATES
        and metrics.init_scale.values.tolist() == SCALES
    )
    assert metrics.seed.values.tolist() == [0, 1] and metrics.step.values.tolist() == [0, 3, 6]
    assert grid.learners.weights.W_Q.shape == (2, 3, 2, 1, 1, 3, 3)
    learner = grid.learner(1, learning_rate=3e-2, init_scale=0.002)
    np.testing.assert_array_equal(learner.weights.W_Q, grid.learners.weights.W_Q[1, 0, 1])
    np.testing.assert_array_equal(
        grid.learner(1, learning_rate=float(np.float32(3e-2)), init_scale=0.002).weights.W_Q,
        learner.weights.W_Q,
    )
    assert len(np.unique(grid.metrics.loss[..., -1])) == 12


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ({}, "seed, learning_rate, init_scale"),
        ({"learning_rate": 1e-3}, "init_scale"),
        ({"learning_rate": 1e-3, "init_scale": 0.1, "noise": 0}, "noise"),
        ({"learning_rate": 1e-2, "init_scale": 0.1}, "learning_rate.*0.01.*0.001, 0.03"),
        ({"learning_rate": "1e-3", "init_scale": 0.1}, "learning_rate.*'1e-3'"),
    ],
)
def test_a_learner_that_is_none_of_the_grid_gets_a_sentence(grid, where, sentence):
    with pytest.raises(InputError, match=sentence):
        grid.learner(0, **where)


SKEWED = np.array([[2.0, 0.3], [0.3, 0.5]])


@pytest.mark.slow
def test_tasks_that_differ_in_numbers_are_axes_by_their_labels():
    """Noise 0 is a number like others here, although a task without noise draws none."""

    def task_of(noise, covariates):
        return RegressionTask(
            covariates, LinearFunctions(2), context_length=3, noise=GaussianNoise(noise)
        )

    covariates = {
        "round": Gaussian(2, covariance=np.eye(2)),
        "skewed": Gaussian(2, covariance=SKEWED),
    }
    vary = {"noise": [0.0, 0.1], "covariates": covariates}
    found = train(initialise, task_of, optimiser(1e-2), vary=vary, **options())
    assert found.metrics.covariates.values.tolist() == ["round", "skewed"]
    for where in ({"noise": 0.0, "covariates": "skewed"}, {"noise": 0.1, "covariates": "round"}):
        its = task_of(where["noise"], covariates[where["covariates"]])
        alone = train(initialise, its, optimiser(1e-2), **options())
        assert_points_agree(
            lambda seed, where=where: found.learner(seed, **where),
            found.metrics.sel(where),
            alone,
            rtol=1e-4,
        )
    assert len(np.unique(found.metrics.loss[..., -1])) == 8


def descents(vary, **others):
    """Descent whose step size is varied."""
    return train(
        lambda key, step_size: GradientDescent(step_size),
        task(),
        SGD(0.1),
        vary=vary,
        **options(**others),
    )


@pytest.mark.parametrize(
    ("vary", "keywords"),
    [
        ({}, "initialise.*step_size"),
        ({"step_size": [0.1], "rate": [0.1]}, "rate"),  # on which nothing depends
        ({"step_size": [0.1], "seed": [1, 2]}, "seed"),
        ({"step_size": [0.1], "step": [1, 2]}, "step"),
        ({"step_size": []}, r"step_size.*\[\]"),
        ({"step_size": {}}, r"step_size.*\[\]"),
        ({"step_size": [0.1, 0.2, 0.1]}, r"step_size.*\[0.1, 0.2, 0.1\]"),
        ({"step_size": [0.1, float("nan")]}, "step_size.*nan"),
        ({"step_size": ["large"]}, "step_size.*'large'"),
        ({"step_size": [True, False]}, "step_size.*True"),
        ({"step_size": [np.ones(2)]}, "step_size.*array"),
        ({"step_size": [Decimal("0.1"), Decimal("0.2")]}, "step_size.*Decimal"),
        (
            {"step_size": {"3": task(context_length=3), "4": task(context_length=4)}},
            "step_size.*shapes or types",
        ),
        ({"step_size": {"a": np.ones(2), "b": np.ones(3)}}, "step_size.*shapes or types"),
        ({"step_size": {"a": 0.1, "b": None}}, "step_size.*shapes or types"),
    ],
)
def test_axes_that_there_are_not_get_a_sentence(vary, keywords):
    with pytest.raises(InputError, match=keywords):
        descents(vary)


def test_values_are_checked_as_they_would_be_alone_although_jax_traces_them():
    with pytest.raises(InputError, match=r"learning_rate.*-0\.1"):
        train(
            initialise,
            task(),
            optimiser,
            vary={"init_scale": [0.1], "learning_rate": [0.1, -0.1]},
            **options(),
        )


@pytest.mark.slow
def test_one_point_is_a_training_without_vary_to_the_bit():
    def start(key):
        return GradientDescent(jax.random.uniform(key))

    one = train(start, task(), lambda rate: SGD(rate), vary={"rate": [0.25]}, **options())
    none = train(start, task(), optax.sgd(0.25), **options())
    np.testing.assert_array_equal(one.learners.step_size[0], none.learners.step_size)
    np.testing.assert_array_equal(one.metrics.loss[0], none.metrics.loss)
    assert (one.metrics.loss.dims, none.metrics.loss.dims) == (
        ("rate", "seed", "step"),
        ("seed", "step"),
    )


@pytest.mark.slow
def test_axes_take_numbers_of_all_kinds(tmp_path):
    """Integers beside others, and NumPy's, which JSON does not know."""
    found = train(
        lambda key, base, power: GradientDescent(base**power),
        task(),
        "sgd",
        vary={"base": [1, 0.5, np.float32(0.25), np.int64(2)], "power": [1, 2]},
        checkpoint=tmp_path,
        **options(),
    )
    assert found.metrics.base.values.tolist() == [1, 0.5, 0.25, 2]
    sizes = found.learners.step_size
    np.testing.assert_array_equal(sizes[0, 0], sizes[0, 1])
    np.testing.assert_array_equal(sizes[1, 1], sizes[2, 0])
    assert len(np.unique(sizes)) == 6 * 2
    np.testing.assert_array_equal(found.learner(1, base=0.25, power=1).step_size, sizes[1, 1, 1])


@pytest.mark.parametrize("value", ["c", 3, 0.5, True, None])
def test_a_value_that_an_axis_of_words_lacks_gets_a_sentence(value):
    """A number was compared with words, which NumPy refuses."""
    metrics = xr.Dataset(coords={"task": ["a", "b"], "seed": [0], "ending": (("task", "seed"), [[""]] * 2)})  # fmt: skip
    learners = jax.vmap(jax.vmap(GradientDescent))(jnp.array([[0.1], [0.2]]))
    training = Training(learners, metrics)
    assert training.learner(task="b").step_size == np.float32(0.2)
    with pytest.raises(InputError, match=f"task has no value {value!r}; it has a, b"):
        training.learner(task=value)


@pytest.mark.slow
def test_the_risk_itself_is_minimised_for_one_task_at_many_learning_rates():
    exact = options(objective="population", seeds=1, steps=1)
    found = train(initialise, task(), optimiser, vary={"learning_rate": RATES}, **exact)
    of_rates = jax.tree.map(lambda leaf: leaf[:, 0], found.learners)
    exact_risks = layer_risks(of_rates, task_moments(task()))
    np.testing.assert_allclose(found.metrics.risk[:, 0, -1], exact_risks, rtol=1e-6)
    assert found.metrics.risk.dtype == np.float64
    # Adam's first step has the length of its rate in each entry
    start = initialise(jax.random.split(jax.random.fold_in(random.key(3), 0), 3)[0])
    for rate in RATES:
        learner = found.learner(0, learning_rate=rate)
        np.testing.assert_allclose(
            np.abs(learner.weights.W_Q - start.weights.W_Q)[..., :2], rate, rtol=1e-3
        )


def test_the_risk_itself_is_not_minimised_for_several_tasks():
    with pytest.raises(InputError, match="one task"):
        train(
            initialise, lambda noise: task(noise), optimiser(1e-2), vary={"noise": [0.1, 0.2]}, **options(objective="population")
        )  # fmt: skip


def explosive(rates, say=None):
    """Descent on the step size, whose own step is far too large at the largest rate."""
    return train(
        lambda key: GradientDescent(0.1), task(0.1), lambda rate: optax.sgd(rate), vary={"rate": rates}, say=say, **options(every=1)
    )  # fmt: skip


def test_a_point_that_diverges_stops_alone_and_is_named():
    said = []
    found = explosive([1e30, 0.01], say=said.append)
    assert found.metrics.ending.values.tolist() == [["diverged"] * 2, ["all steps"] * 2]
    assert len(said) == 2
    for seed, line in enumerate(said):
        last = int(found.metrics.steps_taken[0, seed])
        assert re.match(
            rf"rate 1e\+30, seed {seed}: diverged.* step {last + 1}.* step {last}", line
        )
        # Until then it has losses, after it none; and its weights are those of the last good step
        assert np.isfinite(found.metrics.loss[0, seed, 1 : last + 1]).all()
        assert np.isnan(found.metrics.loss[0, seed, last + 1 :]).all()
    assert np.isfinite(found.learners.step_size).all()
    np.testing.assert_array_equal(
        found.metrics.loss[1], explosive([0.01], say=pytest.fail).metrics.loss[0]
    )
    taken = found.metrics.steps_taken.values[0]
    assert found.diverged() == [
        f"rate 1e+30, seed {seed} after step {taken[seed]}" for seed in (0, 1)
    ]
    with pytest.raises(TrainingDivergedError, match=r"rate 1e\+30, seed 0 after step \d+; rate 1e"):
        found.require_finite()


# -- Settings -------------------------------------------------------------------------------------------------------

SETTINGS = TrainingSettings(
    task={"dim": 2, "context_length": 3, "covariates": {"kind": "gaussian", "scale": 0.5}},
    model={"init_scale": 0.5},
    optimiser={"clip": 1.0},
    steps=6,
    every=3,
    batch_size=16,
    seeds=2,
)
OF_ONE_SEED = SETTINGS.replaced("seeds", 1)
VARIED = {
    "context_length": [3, 4],
    "learning_rate": [1e-3, 3e-2],
    "noise_variance": [0.0, 0.1],
    "task.covariates.scale": [0.5, 1.0],
}


def programs(settings, vary):
    return len(plan(settings.replaced("vary", vary))[1])


def sweep(settings, vary, **options):
    return settings.replaced("vary", vary).train(**options)


@pytest.fixture(scope="module")
def of_settings(compiled_once):
    done = []
    found = sweep(OF_ONE_SEED, VARIED, measure=measure, progress=done.append)
    assert programs(OF_ONE_SEED, VARIED) == 2
    assert [*dict.fromkeys(done)] == [3, 6, 9, 12]  # of both programs together
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    [
        (1, 1, 0, 1),
        *(pytest.param(place, marks=pytest.mark.slow) for place in np.ndindex(2, 2, 2, 2)),
    ],
)
def test_settings_that_are_varied_together_are_trainings_of_their_own(of_settings, place):
    where = {name: values[i] for (name, values), i in zip(VARIED.items(), place, strict=True)}
    alone = OF_ONE_SEED
    for name, value in where.items():
        alone = alone.replaced(name, value)
    alone = alone.train(measure=measure)
    assert_points_agree(
        lambda seed: of_settings.learner(seed, **where),
        of_settings.metrics.sel(where),
        alone,
        rtol=1e-4,
    )


def test_results_of_varied_settings_are_labelled_in_the_order_that_was_asked_for(of_settings):
    assert of_settings.metrics.loss.dims == (*VARIED, "seed", "step")
    for name, values in VARIED.items():
        assert of_settings.metrics[name].values.tolist() == values
    assert of_settings.metrics.attrs["generator"] == "threefry"


@pytest.mark.parametrize(
    ("vary", "count"),
    [
        (
            {
                "learning_rate": [1e-3, 1e-2],
                "optimiser.b2": [0.9, 0.98],
                "optimiser.clip": [0.1, 1.0],
                "init_scale": [0.1, 1.0],
            },
            1,
        ),
        ({"noise_variance": [0, 0.1, 0.2]}, 1),
        ({"covariates": ["gaussian", "uniform"], "task.functions.scale": [1.0, 2.0]}, 2),
        ({"context_length": [3, 4, 5], "batch_size": [16, 32]}, 6),
        ({"task.covariates.covariance": [((1.0, 0.0), (0.0, 1.0)), ((2.0, 0.0), (0.0, 1.0))]}, 1),
        ({"condensed": [False, True], "noise_variance": [0, 0.1]}, 2),
        ({"task.distractors": [0, 1]}, 2),
        ({"optimiser.schedule": ["cosine", "linear"], "learning_rate": [1e-3, 1e-2]}, 2),
    ],
)
def test_settings_share_a_program_if_shapes_agree(vary, count):
    assert programs(SETTINGS, vary) == count


def test_learners_that_hold_functions_may_have_several_programs():
    mlp = {"kind": "transformer", "embedding_size": 4, "input_mlp_widening": 2}
    assert programs(SETTINGS.replaced("model", mlp), {"context_length": [3, 4]}) == 2


def test_each_task_has_a_program_if_its_risk_or_optimum_is_asked_for():
    vary = {"noise_variance": [0.1, 0.2], "learning_rate": RATES}
    for name, kind in (("objective", "population"), ("stop", "near-optimum")):
        assert programs(SETTINGS.replaced(name, kind), vary) == 2


@pytest.mark.parametrize(
    ("vary", "keywords"),
    [
        (
            {"layers": [1, 2], "noise_variance": [0.0, 0.1]},
            "layers 1, .*layers 2, .*|layers 1.*shapes.*layers 2",
        ),
        ({"learning_rat": [1e-3]}, "learning_rat"),
        ({"learning_rate": ["x"]}, "learning_rate.*number"),
        ({"context_length": [3, 3.5]}, "context_length.*integer"),
        ({"covariates": ["gaussain"]}, "gaussain.*gaussian"),
        ({"noise_variance": [-0.1]}, "variance.*-0.1"),
        ({"learning_rate": [1e-3, 0.0]}, "learning_rate.*0.0"),
        ({"init_scale": [-1.0]}, "init_scale.*-1.0"),
        ({"optimiser.b2": []}, r"optimiser.b2.*\[\]"),
        ({"optimiser.b2": [0.9, "0.9"]}, "optimiser.b2.*0.9"),
        ({"learning_rate": [1e-3], "optimiser.learning_rate": [1e-2]}, "learning_rate"),
        *(({name: [1]}, f"cannot have {name}") for name in ("seeds", "steps", "seed", "every")),
        *(
            ({name: ["flat"]}, f"cannot have {name}")
            for name in ("stop", "objective", "generator", "vary")
        ),
        ({"stop.tolerance": [0.1]}, "cannot have stop"),
    ],
)
def test_settings_that_cannot_be_varied_get_a_sentence(vary, keywords):
    with pytest.raises(InputError, match=keywords):
        sweep(SETTINGS, vary)
    if "0.0" not in keywords and "-1.0" not in keywords:  # numbers that are seen when they are used
        with pytest.raises(InputError, match=keywords):
            programs(SETTINGS, vary)


@pytest.mark.slow
def test_each_noise_level_ends_near_its_own_optimum():
    """One is there long before the other, whose values stand on where the first has none of its own."""
    near = SETTINGS.replaced("stop", {"kind": "near-optimum", "tolerance": 0.5}).replaced(
        "learning_rate", 0.03
    )
    near = near.replaced("steps", 60).replaced("every", 4)
    levels = [0.1, 2.0]
    done = []
    found = sweep(near, {"noise_variance": levels}, progress=done.append)
    assert done[-1] == 120 and done == sorted(done)
    for place, level in list(enumerate(levels))[1:]:
        alone = near.replaced("noise_variance", level).train()
        points = len(alone.metrics.step)
        np.testing.assert_array_equal(found.learners.weights.P[place], alone.learners.weights.P)
        assert found.metrics.ending[place].values.tolist() == alone.metrics.ending.values.tolist()
        assert (
            found.metrics.steps_taken[place].values.tolist()
            == alone.metrics.steps_taken.values.tolist()
        )
        for name in ("loss", "excess_risk"):
            np.testing.assert_array_equal(
                found.metrics[name][place, :, :points], alone.metrics[name]
            )
            np.testing.assert_array_equal(
                found.metrics[name][place, :, points:],
                alone.metrics[name][:, [-1] * (len(found.metrics.step) - points)],
            )
    assert (found.metrics.ending == "converged").all()
    ends = found.metrics.steps_taken.values
    assert ends[0].max() != ends[1].max()


class Interrupted:
    """Raises when so many steps are done."""

    def __init__(self, at):
        self.at = at

    def __call__(self, done):
        if done == self.at:
            raise StoppedError


@pytest.mark.slow
@pytest.mark.parametrize("at", [3, 9])
def test_a_sweep_that_is_stopped_in_either_program_goes_on_bit_for_bit(of_settings, tmp_path, at):
    with pytest.raises(StoppedError):
        sweep(OF_ONE_SEED, VARIED, measure=measure, progress=Interrupted(at), checkpoint=tmp_path)
    assert steps_done(tmp_path) == at
    done = []
    again = sweep(OF_ONE_SEED, VARIED, measure=measure, progress=done.append, checkpoint=tmp_path)
    assert_same(again, of_settings)
    assert at not in done[:1] and done[-1] == 12
    with pytest.raises(InputError, match=r"(?s)points.*0.2"):
        sweep(
            OF_ONE_SEED,
            VARIED | {"noise_variance": [0.0, 0.2]},
            measure=measure,
            checkpoint=tmp_path,
        )


# -- Command line ---------------------------------------------------------------------------------------------------

SMALL = (
    "--dim",
    2,
    "--context-length",
    3,
    "--steps",
    20,
    "--batch-size",
    16,
    "--every",
    10,
    "--seeds",
    2,
)
VARY = ("--vary", "learning_rate=1e-3,1e-2", "noise_variance=0,0.1")


def run(capsys, *arguments):
    """Exit code, standard output and standard error of `mesalens sweep`."""
    try:
        code = cli.main(["sweep", *map(str, arguments)])
    except SystemExit as exit_:
        code = exit_.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(autouse=True)
def programs_of_the_user_are_left_alone(monkeypatch):
    monkeypatch.setenv("MESALENS_PROGRAMS", "off")


@pytest.fixture(scope="module")
def swept(compiled_once, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps") / "sweep"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MESALENS_PROGRAMS", "off")
        assert cli.main([*map(str, ("sweep", *SMALL, *VARY, "--out", folder))]) == 0
    return folder


def test_sweep_keeps_settings_weights_metrics_and_a_figure(swept):
    names = {path.name for path in swept.iterdir()}
    assert {"settings.json", "weights.safetensors", "metrics.nc", "sweep.png"} <= names
    settings = json.loads((swept / "settings.json").read_text())
    assert settings["vary"] == {"learning_rate": ["1e-3", "1e-2"], "noise_variance": ["0", "0.1"]}
    metrics = load_dataset(swept / "metrics.nc")
    assert metrics.loss.dims == ("learning_rate", "noise_variance", "seed", "step")
    assert metrics.noise_variance.values.tolist() == [0.0, 0.1]
    read, training = load_run(swept)
    again = read.train()
    xr.testing.assert_equal(metrics, again.metrics)
    np.testing.assert_array_equal(training.learners.weights.P, again.learners.weights.P)
    assert (read.seeds, read.value("dim")) == (2, 2)
    assert (swept / "sweep.png").read_bytes()[:4] == b"\x89PNG"


def test_the_table_cuts_no_name_where_the_terminal_is_narrow(swept, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["sweep", "--resume", str(swept)]) == 0
    out = capsys.readouterr().out
    assert "learning_rate" in out and "noise_variance" in out and "…" not in out


def test_a_finished_sweep_prints_its_table_or_json_alone(swept, capsys):
    code, out, err = run(capsys, "--resume", swept)
    assert code == 0 and "is finished" in err
    for words in (
        "learning_rate",
        "noise_variance",
        "median loss",
        "converged",
        "diverged",
        "0.001",
        "0.01",
        "0.1",
    ):
        assert words in out
    losses = load_dataset(swept / "metrics.nc").loss.isel(step=-1)
    assert f"{float(losses[0, 1].median()):.4g}" in out and f"The sweep: {swept}" in out
    code, out, _ = run(capsys, "--resume", swept, "--json")
    answer = json.loads(out)
    assert code == 0 and answer["out"] == str(swept)
    np.testing.assert_allclose(answer["loss"], losses)
    assert answer["learning_rate"]["data"] == [1e-3, 1e-2]
    code, _, err = run(
        capsys, "--resume", swept, "--learning-rate", 0.5, "--vary", "optimiser.b2=0.9,0.98"
    )
    assert (
        code == 2
        and "optimiser.learning_rate is 0.001 in the folder and 0.5 here" in err
        and "vary" in err
    )


def test_an_interrupted_sweep_says_how_to_go_on_and_ends_as_one_that_was_not(
    swept, capsys, tmp_path, monkeypatch
):
    out = tmp_path / "sweep"
    start = ProgressReport.start

    def interrupted(self, title, total):
        report = start(self, title, total)

        def interrupt(done):
            signal.raise_signal(signal.SIGINT)
            report(done)

        return interrupt

    with monkeypatch.context() as patch:
        patch.setattr(ProgressReport, "start", interrupted)
        code, _, err = run(capsys, *SMALL, *VARY, "--out", out)
    assert code == 130
    assert f"stopped after step 10 of 20; go on with: mesalens train --resume {out}" in err
    assert not (out / "metrics.nc").exists()
    code, _, err = run(capsys, "--resume", out)
    assert code == 0 and "going on from step 10 of 20" in err
    xr.testing.assert_identical(
        load_dataset(out / "metrics.nc"), load_dataset(swept / "metrics.nc")
    )
    assert (out / "weights.safetensors").read_bytes() == (
        swept / "weights.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("vary", "keywords"),
    [
        ((), "--vary"),
        (("--vary", "learning_rate"), "learning_rate"),
        (("--vary", "optimiser.b2=0.9", "optimiser.b2=0.98"), "b2=0.98"),
        (("--vary", "learning_rate=1e-3,"), "learning_rate"),
        (("--vary", "learning_rate=1e-3,-1"), "learning_rate.*-1"),
        (("--vary", "layers=1,2"), "layers 1.*layers 2"),
        (("--vary", "seeds=1,2"), "seeds"),
        (("--vary", "noise_variance=0.1,0.10000001"), "noise_variance.*distinct"),
    ],
)
def test_words_that_vary_nothing_get_a_sentence_and_leave_no_folder(
    capsys, tmp_path, vary, keywords
):
    code, out, err = run(capsys, *SMALL, *vary, "--out", tmp_path / "sweep")
    assert code == 2 and out == "" and err.startswith("mesalens: ") and re.search(keywords, err)
    assert list(tmp_path.iterdir()) == []


def test_words_of_the_command_line_are_read_with_dashes_and_blanks():
    words = ("noise-variance= 0.1, 0.2", "--learning_rate =1e-3", "task.covariates.covariance=")
    settings = TrainingSettings(vary=words)
    assert settings.vary == {
        "noise_variance": ("0.1", "0.2"),
        "learning_rate": ("1e-3",),
        "task.covariates.covariance": ("",),
    }


@pytest.mark.slow
@pytest.mark.parametrize("rates", ["1e-3,1e30", "1e30"])
def test_the_exit_code_is_1_where_every_run_diverged(capsys, tmp_path, rates):
    out = tmp_path / "sweep"
    small = (*SMALL[:4], "--steps", 4, "--batch-size", 4, "--every", 1, "--optimiser.clip", 1e30)
    code, printed, err = run(
        capsys, *small, "--vary", f"learning_rate={rates}", "--out", out, "--json"
    )
    assert "learning_rate 1e+30, seed 0: diverged" in err
    answer = json.loads(printed, parse_constant=pytest.fail)  # JSON has no NaN
    endings = [ending for (ending,) in answer["ending"]]
    assert endings == (["all steps", "diverged"] if "," in rates else ["diverged"])
    assert code == int("," not in rates)
    assert (out / "sweep.png").exists()


# -- Figures --------------------------------------------------------------------------------------------------------


def metrics_of(seeds=3, diverged=(), since=2, **axes):
    """Metrics of a sweep that was none; runs at these places have diverged since a measurement."""
    shape = [len(labels) for labels in axes.values()]
    rng = np.random.default_rng(0)
    loss = np.exp(-np.arange(5)) * rng.uniform(1, 2, (*shape, seeds, 1))
    loss[..., 0] = np.nan
    ending = np.full((*shape, seeds), "all steps")
    for place in diverged:
        loss[place][..., since:] = np.nan
        ending[place] = "diverged"
    names = (*axes, "seed")
    return xr.Dataset(
        {"loss": ((*names, "step"), loss), "excess_risk": ((*names, "step"), loss / 2)},
        {**axes, "seed": range(seeds), "step": 10 * np.arange(5), "ending": (names, ending)},
    )


def texts(panel):
    legend = panel.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


@pytest.fixture
def drawn():
    figures = []

    def draw(metrics, *name):
        with plots.style():
            figure = plots.sweep_figure(metrics, *name)
            figure.canvas.draw()
        figures.append(figure)
        return figure.axes

    yield draw
    for figure in figures:
        plt.close(figure)


def test_a_figure_of_one_axis_names_its_values(drawn):
    steps, end = drawn(metrics_of(learning_rate=[1e-3, 1e-2, 1e-1]))
    assert (
        texts(steps) == ["0.001", "0.01", "0.1"]
        and steps.get_legend().get_title().get_text() == "learning rate"
    )
    assert texts(end) == [] and end.get_xlabel() == "learning rate" and end.get_xscale() == "log"
    assert steps.get_ylabel() == "loss"


def test_a_figure_shows_every_run_and_the_medians(drawn):
    metrics = metrics_of(learning_rate=[1e-3, 1e-2])
    steps, end = drawn(metrics, "excess_risk")
    assert steps.get_ylabel() == "excess risk"
    np.testing.assert_allclose(
        steps.lines[1].get_ydata(), metrics.excess_risk[1, :, 1:].median("seed")
    )
    dots, medians = end.lines
    np.testing.assert_allclose(
        np.sort(dots.get_ydata()), np.sort(metrics.excess_risk[..., -1].values.ravel())
    )
    np.testing.assert_allclose(medians.get_ydata(), metrics.excess_risk[..., -1].median("seed"))


def test_a_figure_of_two_axes_has_a_line_for_each_value_of_the_shorter(drawn):
    steps, end = drawn(metrics_of(noise_variance=[0.0, 0.1], learning_rate=[1e-3, 1e-2, 1e-1]))
    assert texts(steps) == ["0.001", "0.01", "0.1"]
    assert texts(end) == ["noise variance 0", "noise variance 0.1"]
    assert len(steps.lines) == 6


def test_a_figure_of_words_has_them_at_its_ticks(drawn):
    steps, end = drawn(
        metrics_of(covariates=["uniform", "gaussian", "sphere"], context_length=[3, 4])
    )
    assert (
        texts(steps)
        == ["uniform", "gaussian", "sphere"]
        == [tick.get_text() for tick in end.get_xticklabels()]
    )
    assert texts(end) == ["context length 3", "context length 4"]


def test_a_figure_of_three_axes_names_combinations_and_has_no_legend_where_they_are_too_many(drawn):
    three = {"a": [1.0, 2.0], "b": ["x", "y"], "c": [0.0, 1.0, 2.0]}
    steps, end = drawn(metrics_of(**three))
    assert texts(end) == ["a 1, b x", "a 1, b y", "a 2, b x", "a 2, b y"] and texts(steps) == [
        "0",
        "1",
        "2",
    ]
    _, end = drawn(metrics_of(a=[1.0, 2.0, 3.0, 4.0], b=list("vwxy"), c=[0.0, 1.0, 2.0, 3.0, 4.0]))
    assert texts(end) == []


@pytest.mark.parametrize(
    ("diverged", "since"),
    [([(1, 0, 2)], 2), ([(1, 0), (0, 0, 1)], 2), ([(1,)], 1), ([(0,), (1,)], 1), ([(0,), (1,)], 2)],
)
def test_a_figure_counts_the_runs_that_diverged(drawn, diverged, since):
    """Of points, of all at a value, of all there are; whether or not they have losses before."""
    metrics = metrics_of(
        learning_rate=[1e-3, 1e-2], noise_variance=[0.0, 0.1], diverged=diverged, since=since
    )
    _, end = drawn(metrics)
    counts = (metrics.ending == "diverged").sum("seed").values
    marked = sorted(int(text.get_text()) for text in end.texts)
    assert marked == sorted(counts[counts > 0].tolist())
    assert "(× : diverged)" in end.get_title()


def test_a_metric_that_was_not_measured_gets_a_sentence():
    with pytest.raises(InputError, match=r"los.*loss"):
        plots.sweep_figure(metrics_of(a=[1.0, 2.0]), "los")
