"""Members of the open axes that a user writes, from Python, from settings and on the command line.

The classes are in `user_classes.py`, which imports public names alone; so does this file.
"""

import json
from functools import partial
from pathlib import Path

import jax
import jaxtyping
import numpy as np
import pytest
import user_classes as user

from mesalens import InputError, LinearTransformer, Transformer, random, train
from mesalens.adapters import NumpyLearner
from mesalens.analysis import compare, risk
from mesalens.cli import main
from mesalens.models import KernelAttention
from mesalens.tasks import Gaussian, LinearFunctions, RegressionTask
from mesalens.theory import optimal_layer, population_risk, simulated_moments, task_moments
from mesalens.training import TrainingSettings, load_run

FILE = Path(user.__file__)
FEW = {"steps": 4, "every": 2, "batch_size": 16}
GAUSSIAN = RegressionTask(Gaussian(3), LinearFunctions(3), context_length=4)


def at(name):
    """A class of the user on the command line and in settings."""
    return f"{FILE}:{name}"


def linear(key, **options):
    return LinearTransformer.initialise(3, init_scale=0.1, key=key, **options)


def transformer(key, **options):
    return Transformer.initialise(3, init_scale=0.1, key=key, **options)


def regression(covariates=None, functions=None, **options):
    return RegressionTask(
        covariates or Gaussian(3), functions or LinearFunctions(3), context_length=4, **options
    )


FROM_PYTHON = {
    "covariates, noise and structure": {
        "task": regression(user.TwoClusters(3, separation=2.0), noise=user.UniformNoise(0.5)),
        "initialise": partial(linear, structure=partial(user.Diagonal.initialise, spread=2.0)),
    },
    "functions and objective": {
        "task": regression(functions=user.Quadratics(3, linear=0.5)),
        "objective": user.Huber(0.1),
    },
    "task, kernel and stop": {
        "task": user.SparseRegression(3, 4, 2),
        "initialise": partial(transformer, attention=KernelAttention(user.laplace_kernel)),
        "stop": user.AfterMeasurements(1),
    },
    "attention, visibility, tokens and positions": {
        "initialise": partial(
            transformer,
            attention=user.PolynomialAttention(3),
            visibility=user.Window(3),
            tokens=user.LabelFirst(),
            positions=user.Countdown(),
        )
    },
    "learner": {"initialise": lambda key: user.Smoother.initialise(3, key=key)},
}


@pytest.mark.parametrize("axes", FROM_PYTHON)
def test_a_users_classes_train_and_are_evaluated_from_python(axes):
    options = {
        "initialise": linear,
        "task": GAUSSIAN,
        "optimiser": user.Lion(),
        **FEW,
        "key": random.key(0),
    }
    options |= FROM_PYTHON[axes]
    training = train(**options).require_finite()
    before, after = options["initialise"](random.key(1)), training.learner()
    assert jax.tree.structure(before) == jax.tree.structure(after)
    moved = [
        a.shape == b.shape and np.any(a != b)
        for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True)
    ]
    assert all(moved)
    assert training.metrics.steps_taken.item() == (2 if "stop" in options else 4)
    measured = risk(after, options["task"], random.key(1), prompts=64)
    assert 0 < measured.value < 100


@pytest.mark.slow
def test_numbers_of_a_users_classes_are_varied_in_one_program():
    training = train(
        lambda key: linear(key),
        lambda separation: regression(user.TwoClusters(3, separation=separation)),
        lambda rate: user.Lion(rate),
        vary={"separation": [1.0, 2.0], "rate": [1e-3, 1e-2]},
        **FEW,
        key=random.key(0),
    )
    assert training.metrics.loss.dims == ("separation", "rate", "seed", "step")
    assert len(np.unique(training.metrics.loss.isel(step=-1))) == 4


def test_the_exact_optimum_of_a_users_covariates_and_noise_is_that_of_simulation():
    task = regression(user.TwoClusters(3, separation=2.0, scale=0.7), noise=user.UniformNoise(0.5))
    moments, simulated = (
        task_moments(task),
        simulated_moments(task, key=random.key(0), relative_error=0.03),
    )
    assert (moments.method, simulated.method) == ("exact", "simulation")
    best, estimate = optimal_layer(task), optimal_layer(task, simulated)
    assert (
        best.implements == "preconditioned-gradient-descent" and best.certificate.proves_optimality
    )
    for name in ("risk", "null_risk"):
        assert (
            abs(getattr(best, name) - getattr(estimate, name)) < 5 * estimate.standard_errors[name]
        )


def test_the_exact_risk_of_a_users_structure_is_that_of_its_matrices():
    layer = linear(random.key(0), structure=partial(user.Diagonal.initialise, spread=3.0))
    A, B = layer.effective()
    exact = float(population_risk(layer, task_moments(GAUSSIAN)))
    merged = population_risk(
        LinearTransformer.from_effective(A, B, layers=1), task_moments(GAUSSIAN)
    )
    assert float(merged) == pytest.approx(exact, rel=1e-5)


@pytest.mark.slow
def test_a_numpy_function_is_compared_with_a_trained_learner():
    trained = train(linear, GAUSSIAN, user.Lion(), **FEW, key=random.key(0)).learner()
    references = {"numpy": NumpyLearner(user.numpy_ridge)}
    values = compare(trained, references, GAUSSIAN, random.key(1), prompts=64).value
    assert float(values.sel(reference="numpy", measure="reference_risk")) < 3
    assert "sensitivity_cosine" not in values.measure  # as NumPy cannot be differentiated


SETTINGS = {
    "task": {
        "dim": 3,
        "context_length": 4,
        "covariates": {"kind": at("TwoClusters"), "separation": 2.0},
        "functions": {"kind": at("Quadratics"), "linear": 0.5},
        "noise": {"kind": at("UniformNoise"), "width": 0.25},
    },
    "model": {"structure": {"kind": at("Diagonal"), "spread": 2.0}, "init_scale": 0.1},
    "objective": {"kind": at("Huber"), "delta": 0.5},
    "optimiser": at("Lion"),
    "stop": {"kind": at("AfterMeasurements"), "times": 2},
    **FEW,
}
TRANSFORMER = {
    "task": {"kind": at("SparseRegression"), "dim": 3, "context_length": 4, "nonzero": 2},
    "model": {
        "kind": "transformer",
        "attention": {"kind": at("PolynomialAttention"), "degree": 3},
        "visibility": {"kind": at("Window"), "length": 3},
        "tokens": at("LabelFirst"),
        "positions": {"kind": at("Countdown"), "length": 5.0},
    },
    **FEW,
}


@pytest.mark.parametrize("content", [SETTINGS, TRANSFORMER], ids=["linear", "transformer"])
def test_settings_with_a_users_classes_are_read_back(content):
    settings = TrainingSettings.read(content)
    again = TrainingSettings.read(json.loads(settings.model_dump_json()))
    assert again.model_dump() == settings.model_dump()


@pytest.mark.slow
def test_settings_with_a_users_classes_train_on_the_exact_risk():
    task = SETTINGS["task"] | {"functions": "linear"}
    training = TrainingSettings.read(SETTINGS | {"objective": "population", "task": task}).train()
    assert np.isfinite(training.metrics.loss.values[..., 1:]).all()
    assert training.metrics.steps_taken.item() == 4


def test_settings_build_what_they_say():
    settings = TrainingSettings.read(SETTINGS)
    task, learner = settings.sampled_task(), settings.initialise(random.key(0))
    found = [task.covariates, task.functions, task.noise, learner.weights, settings.stopping_rule()]
    assert [type(each).__name__ for each in found] == [
        "TwoClusters",
        "Quadratics",
        "UniformNoise",
        "Diagonal",
        "AfterMeasurements",
    ]
    assert (task.covariates.separation, task.functions.linear, task.noise.width) == (2.0, 0.5, 0.25)
    assert settings.stopping_rule().times == 2 and settings.objective.build().delta == 0.5
    model = TrainingSettings.read(TRANSFORMER).initialise(random.key(0))
    assert (model.stored_layers[0].attention.kind.degree, model.visibility.length) == (3, 3)
    assert model.embedding.positions.length == 5.0 and type(model.tokens).__name__ == "LabelFirst"


def command(capsys, *words):
    """The exit code of a command, and what it printed on standard output and standard error."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    return code, *capsys.readouterr()


SHORT = ("--dim", 3, "--context-length", 4, "--steps", 4, "--every", 2, "--batch-size", 16)
COMMANDS = {
    "linear": (
        *("--task.covariates", at("TwoClusters"), "--task.covariates.separation", 2),
        *("--task.noise", at("UniformNoise"), "--task.noise.width", 0.5),
        *("--functions", at("Quadratics"), "--task.functions.linear", 0.5),
        *("--model.structure", at("Diagonal"), "--model.structure.spread", 2),
        *("--objective", at("Huber"), "--objective.delta", 0.5, "--optimiser", at("Lion")),
        *("--learning-rate", 0.02, "--stop", at("AfterMeasurements"), "--stop.times", 1),
    ),
    "transformer": (
        *(
            "--task",
            at("SparseRegression"),
            "--task.nonzero",
            2,
            "--model",
            "transformer",
            "--layers",
            2,
        ),
        *("--model.attention", at("PolynomialAttention"), "--model.attention.degree", 3),
        *(
            "--model.first-attention",
            "kernel",
            "--model.first-attention.kernel",
            at("laplace_kernel"),
        ),
        *("--model.visibility", at("Window"), "--model.visibility.length", 3),
        *("--model.tokens", at("LabelFirst"), "--model.positions", at("Countdown")),
    ),
    "learner": ("--model", at("Smoother"), "--model.width", 2),
}
SMOOTHER = f"{at('Smoother')} width=2"
NUMPY = f"mesalens.adapters:NumpyLearner function={at('numpy_ridge')}"


@pytest.mark.parametrize(
    "name",
    ["linear", *(pytest.param(n, marks=pytest.mark.slow) for n in COMMANDS if n != "linear")],
)
def test_a_users_classes_are_trained_and_compared_on_the_command_line(name, tmp_path, capsys):
    folder = tmp_path / "run"
    code, out, err = command(capsys, "train", *COMMANDS[name], *SHORT, "--out", folder)
    assert code == 0, err
    settings = load_run(folder)[0].model_dump()
    if name == "linear":
        assert settings["model"]["structure"] == {"kind": at("Diagonal"), "spread": 2.0}
        assert settings["objective"] == {"kind": at("Huber"), "delta": 0.5}
    references = (SMOOTHER, NUMPY) if name == "transformer" else ("ridge penalty=1",)
    words = " ".join(references).split()
    code, out, err = command(
        capsys, "compare", folder, "--prompts", 50, "--json", "--reference", *words
    )
    assert code == 0, err
    found = json.loads(out)["references"]
    assert found.keys() == set(references)
    assert all(measures["reference_risk"]["value"][0] > 0 for measures in found.values())


@pytest.fixture
def without_type_checks(monkeypatch):
    """As for a user: annotations are not checked, so that the sentences of the package are seen."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def test_theory_says_which_tasks_it_is_for(capsys, without_type_checks):
    code, _, err = command(
        capsys,
        "optimum",
        "--task",
        at("SparseRegression"),
        "--task.dim",
        3,
        "--task.context-length",
        4,
    )
    assert code == 2 and "RegressionTask" in err and "SparseRegression" in err


def test_the_optimum_of_a_users_classes_on_the_command_line(capsys):
    task = ("--task.covariates", at("TwoClusters"), "--task.noise", at("UniformNoise"))
    sizes = ("--task.dim", 3, "--task.context-length", 4)
    code, out, err = command(
        capsys, "optimum", *task, *sizes, "--task.covariates.separation", 2, "--json"
    )
    expected = optimal_layer(
        regression(user.TwoClusters(3, separation=2.0), noise=user.UniformNoise())
    )
    assert code == 0, err
    assert json.loads(out)["risk"] == pytest.approx(expected.risk)


@pytest.mark.slow
def test_a_sweep_of_a_users_classes_on_the_command_line(tmp_path, capsys):
    task = ("--task.covariates", at("TwoClusters"), "--task.noise", at("UniformNoise"))
    vary = ("--vary", "task.covariates.separation=1,2", "task.noise.width=0.5,1")
    code, _, err = command(capsys, "sweep", *task, *vary, *SHORT, "--out", tmp_path / "sweep")
    assert code == 0, err
    assert load_run(tmp_path / "sweep")[1].metrics.loss.sizes["task.noise.width"] == 2


@pytest.mark.parametrize(
    ("words", "keywords"),
    [
        (("--task.covariates", at("Nothing")), ["Nothing"]),
        (("--task.covariates", at("Huber")), ["Huber", "Covariates"]),
        (("--covariates", FILE), [f"{FILE}:NAME, that is {FILE}:TwoClusters."]),
        (("--model", FILE), [f"{FILE}:NAME, that is {FILE}:Smoother."]),
        (("--model.positions", FILE), [f"{FILE}:NAME, that is {FILE}:Countdown."]),
        (("--task.noise", "nothing.py"), ["no file nothing.py", "nothing.py:NAME"]),
        (
            ("--functions", at("numpy_ridge")),
            [f"--functions custom --task.functions.function {at('numpy_ridge')}", "`__call__`"],
        ),
        (("--task.noise", "no_such_file.py:Noise"), ["no_such_file.py"]),
        (("--task.noise", "no_such_module:Noise"), ["no_such_module"]),
        (
            ("--task.covariates", at("TwoClusters"), "--task.covariates.separation", "far"),
            ["task.covariates.separation"],
        ),
        (
            ("--task.covariates", at("TwoClusters"), "--task.covariates.separaton", 2),
            ["separaton", "separation"],
        ),
        (
            ("--model", "mesalens.adapters:NumpyLearner", "--model.function", at("numpy_ridge")),
            ["NumpyLearner", "trainable"],
        ),
        (
            ("--objective", "population", "--model", at("Smoother")),
            ["Smoother", "LinearTransformer"],
        ),
    ],
)
def test_what_cannot_be_used_gets_a_sentence_and_exit_code_2(
    words, keywords, tmp_path, capsys, without_type_checks
):
    code, _, err = command(capsys, "train", *words, *SHORT, "--out", tmp_path / "run")
    assert code == 2 and all(keyword in err for keyword in keywords), err
    assert len(err.strip().splitlines()) == 1


def test_moments_that_a_class_does_not_state_are_simulated_or_asked_for():
    class Silent(user.UniformNoise):
        fourth_cumulant = user.Noise.fourth_cumulant

    task = regression(noise=Silent())
    with pytest.raises(InputError, match="fourth_cumulant"):
        task.noise.fourth_cumulant()
    assert not task.noise.knows_moments
    assert task_moments(task, key=random.key(0), relative_error=0.05).method == "simulation"


def test_a_program_that_is_not_differentiable_is_not_trained():
    with pytest.raises(InputError, match="NumpyLearner"):
        train(
            lambda key: NumpyLearner(user.numpy_ridge),
            GAUSSIAN,
            user.Lion(),
            **FEW,
            key=random.key(0),
        )
