"""Settings: what they describe, what they refuse by name, and runs that are kept and read back."""

import json

import equinox as eqx
import jax
import numpy as np
import pytest
import safetensors.numpy
import xarray as xr
from compiled import compiled

import mesalens
from mesalens import InputError, LinearTransformer, random
from mesalens.kinds import KindSettings, load, overlay, settings_class
from mesalens.models import (
    Interleaved,
    Joint,
    LinearAttention,
    Sinusoidal,
    SoftmaxAttention,
    Transformer,
)
from mesalens.names import AXES, SHORT
from mesalens.tasks import ClassificationTask, CondensedTask, Gaussian, RegressionTask
from mesalens.training import Training, TrainingSettings, load_run, save_run
from mesalens.training.run_folder import begun, load_settings

pytest_plugins = ["small_training"]

KEY = random.key(3)


def same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for one, two in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(one, two) if eqx.is_array(one) else None


# The defaults, and what is given over them


def test_the_task_is_the_standard_one_and_the_optimiser_that_of_the_released_code():
    settings = TrainingSettings()
    task, optimiser = settings.sampled_task(), settings.optimiser.build()
    assert isinstance(task.covariates, Gaussian) and task.covariates.scale == 1
    assert (task.dim, task.context_length, settings.steps, settings.batch_size) == (
        10,
        10,
        5000,
        2048,
    )
    assert (optimiser.learning_rate, optimiser.b2, optimiser.clip) == (1e-3, 0.98, 1e-3)
    same(settings.initialise(KEY), LinearTransformer.initialise(10, key=KEY))


@pytest.mark.parametrize(
    ("given", "path", "value"),
    [
        ({"task": {"dim": 3}}, "task.covariates.kind", "gaussian"),
        ({"task": {"covariates": {"scale": 0.1}}}, "task.covariates.kind", "gaussian"),
        ({"task": {"covariates": {"scale": 0.1}}}, "task.covariates.scale", 0.1),
        ({"task": {"covariates": "uniform"}}, "task.covariates.scale", 1.0),
        ({"task": {"covariates": {"kind": "uniform"}}}, "task.covariates.scale", 1.0),
        ({"task": {"noise": {"variance": 0.1}}}, "task.noise.kind", "gaussian"),
        ({"task": {"noise": {"degrees_of_freedom": 7.0}}}, "task.noise.kind", "student-t"),
        ({"model": {"attention": "softmax"}}, "model.kind", "transformer"),
        ({"model": {"activation_clip": 1.0}}, "model.kind", "linear-transformer"),
        (
            {"model": {"layers": 2, "positions": {"entries": 4}}},
            "model.positions.kind",
            "sinusoidal",
        ),
        ({"optimiser": {"clip": 1.0}}, "optimiser.b2", 0.98),
        ({"optimiser": {"momentum": 0.5}}, "optimiser.kind", "sgd"),
        ({"stop": {"kind": "flat", "tolerance": 0.05}}, "stop.window", 10),
        ({"objective": "population"}, "objective.kind", "population"),
    ],
)
def test_what_is_given_changes_the_defaults_and_the_kind_may_be_left_out(given, path, value):
    assert TrainingSettings(**given).value(path) == value


@pytest.mark.parametrize(
    ("content", "keywords"),
    [
        ({"model": {"layers": "two"}}, r"^model\.layers:.*integer"),
        ({"model": {"layers": 1.5}}, r"^model\.layers:"),
        ({"task": {"noise": {"variance": "much"}}}, r"^task\.noise\.variance:.*number"),
        ({"task": {"covariates": {"kind": "unifrom"}}}, "task.covariates.*unifrom.*uniform"),
        ({"model": "transfromer"}, "model.*transfromer.*transformer"),
        (
            {"model": {"kind": "transformer", "attention": "softmx"}},
            "model.attention.*softmx.*softmax",
        ),
        ({"task": {"noise": 0.1}}, "task.noise.*0.1"),
        ({"optimiser": {"rate": 0.1}}, "optimiser.*rate"),
        ({"stop": {"kind": "flat", "tolerence": 0.1}}, "stop.*tolerence"),
        ({"stop": "near-risk"}, "stop.*risk"),
        ({"step": 10}, "step"),
        ({"vary": ["learning_rate"]}, "vary.*learning_rate"),
        ({"vary": ["b2=0.9", "b2=0.98"]}, "vary.*b2=0.98"),
        ({"generator": "mersenne"}, "generator"),
        (3, "(?i)mapping|dictionary"),
        ({"steps": float("nan")}, "steps"),
        ({"optimiser": {"b2": float("nan")}}, r"optimiser\.b2.*finite"),
        ({"optimiser": {"learning_rate": float("inf")}}, r"optimiser\.learning_rate.*finite"),
        ({"stop": {"kind": "flat", "tolerance": float("nan")}}, r"stop\.tolerance.*finite"),
        ({"task": {"noise": {"variance": float("nan")}}}, r"task\.noise\.variance.*finite"),
        ({"model": {"initial_weights": [[float("nan")] * 10]}}, r"model\.initial_weights.*finite"),
        ({"model": {"activation_clip": float("nan")}}, r"model\.activation_clip.*finite"),
    ],
)
def test_settings_that_there_are_not_are_named_by_their_path(content, keywords):
    """NaN trained, and was not read back: JSON has none."""
    with pytest.raises(InputError, match=keywords) as caught:
        TrainingSettings.read(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("optimiser", "keywords"),
    [
        ({"b2": 2.0}, "b2.*2.0"),
        ({"b2": 1.0}, "b2.*1.0"),
        ({"b2": -0.1}, "b2.*-0.1"),
        ({"learning_rate": 0.0}, "learning_rate.*0.0"),
    ],
)
def test_numbers_out_of_range_are_refused_when_a_training_begins(optimiser, keywords):
    with pytest.raises(InputError, match=keywords):
        TrainingSettings(optimiser=optimiser, steps=2, batch_size=4).train()


# Tasks and models


@pytest.mark.parametrize(
    ("task", "keywords"),
    [
        ({"dim": 0}, "dim.*0"),
        ({"covariates": {"kind": "gaussian", "covariance": ((1.0,),)}}, r"covariance.*\(10, 10\)"),
        ({"noise": {"variance": -1.0}}, "variance.*-1.0"),
        ({"distractors": 11}, "11"),
        ({"condensed": True, "covariates": "uniform"}, "(?i)condensed|uniform|gaussian"),
    ],
)
def test_settings_that_make_no_task_get_a_sentence(task, keywords):
    with pytest.raises(InputError, match=keywords):
        TrainingSettings(task=task).sampled_task()


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ({"functions": "custom"}, "task.functions.function: a value is required."),
        (
            {"kind": "regression", "nois": 1},
            "task.nois: there is no such setting; did you mean noise?",
        ),
        (
            {"covariates": {"kind": "gaussian", "qqq": 1}},
            "task.covariates.qqq: there is no such setting.",
        ),
    ],
)
def test_a_setting_that_is_missing_or_too_many_is_named_by_its_path(task, sentence):
    with pytest.raises(InputError) as caught:
        TrainingSettings.read({"task": task})
    assert str(caught.value) == sentence


def test_settings_describe_tasks():
    covariance = ((2.0, 0.5), (0.5, 1.0))
    gaussian = {"dim": 2, "covariates": {"kind": "gaussian", "covariance": covariance}}
    task = TrainingSettings(task=gaussian).sampled_task()
    assert isinstance(task, RegressionTask) and isinstance(task.covariates, Gaussian)
    np.testing.assert_allclose(task.covariates.second_moment(), covariance)
    condensed = TrainingSettings(task={**gaussian, "condensed": True})
    assert isinstance(condensed.sampled_task(), CondensedTask)
    same(condensed.exact_task(), task)
    classes = TrainingSettings(
        task={"kind": "classification", "dim": 3, "outputs": 4, "temperature": 0.5}
    )
    assert (
        isinstance(classes.sampled_task(), ClassificationTask)
        and classes.sampled_task().outputs == 4
    )


OTHER = {
    "tokens": ("interleaved", Interleaved()),
    "positions": ({"entries": 4}, Sinusoidal(4)),
    "first_attention": ("softmax", SoftmaxAttention()),
    **{name: (True, True) for name in ("layer_norm", "biases", "readout")},
    **{name: (2, 2) for name in ("mlp_widening", "input_mlp_widening", "heads", "key_size")},
    "embedding_size": (5, 5),
}


@pytest.mark.parametrize("part", OTHER)
def test_a_transformer_has_the_part_that_is_set_and_no_other(part):
    given, expected = OTHER[part]
    model = {
        "kind": "transformer",
        "layers": 2,
        "attention": "linear",
        "init_scale": 0.1,
        part: given,
    }
    made = TrainingSettings(task={"dim": 2}, model=model).initialise(KEY)
    options = {"layers": 2, "attention": LinearAttention(), "init_scale": 0.1, part: expected}
    same(made, Transformer.initialise(2, key=KEY, **options))


def test_settings_give_the_start_of_the_query_token():
    start = ((0.5, -1.0), (1.0, 2.0))
    model = {"layers": 2, "initial_weights": start}
    linear = TrainingSettings(task={"dim": 2, "outputs": 2}, model=model).initialise(KEY)
    assert isinstance(linear, LinearTransformer)
    np.testing.assert_array_equal(linear.initial_weights, start)
    with pytest.raises(InputError, match=r"initial_weights.*\(1, 2\).*\(2, 2\)"):
        TrainingSettings(task={"dim": 2}, model=model).initialise(KEY)
    joint = {"attention": "softmax", "tokens": {"kind": "joint", "initial_weights": ((1.0, 2.0),)}}
    tokens = TrainingSettings(task={"dim": 2}, model=joint).initialise(KEY).tokens
    assert isinstance(tokens, Joint)
    np.testing.assert_array_equal(tokens.initial_weights, [[1, 2]])


@pytest.mark.parametrize(
    ("model", "keywords"),
    [
        ({"readout": True, "activation_clip": 1.0}, "model.*readout.*activation_clip"),
        ({"attention": "linear", "first_attention": "softmax", "layers": 2, "looped": True}, "first_attention"),
        ({"layers": 0}, "layers.*0"),
        ({"kind": "transformer", "positions": {"entries": 3}}, "entries.*3"),
        ({"kind": "transformer", "mlp_widening": 0}, "mlp_widening.*0"),
        ({"kind": "transformer", "embedding_size": 0}, "embedding_size.*0"),
    ],
)  # fmt: skip
def test_models_that_do_not_go_together_get_a_sentence(model, keywords):
    with pytest.raises(InputError, match=keywords):
        eqx.filter_eval_shape(TrainingSettings.read({"model": model}).initialise, KEY)


# Members of axes

MEMBERS = [(axis, kind) for axis, known in AXES.items() for kind in known.members]
REQUIRED = {
    "function": "test_settings:projection",
    "step_size": 0.1,
    "steps": 2,
    "lower": 0.1,
    "upper": 1.0,
    "penalty": 0.1,
    "prior_covariance": np.eye(3).tolist(),
    "noise_variance": 0.1,
    "metric": 0.5,
    "value": 0.5,
    "components": 2,
    "neighbours": 3,
    "bandwidth": 1.0,
    "decay": 0.9,
    "pool": np.eye(3).tolist(),
    "kernel": "jax.numpy:multiply",
    "entries": 4,
    "rows": 5,
    "size": 4,
    "risk": 0.5,
}
"""Parameters without defaults."""
OF_MIXTURE = {"components": [{"probability": 0.5, "dim": 3}, {"probability": 0.5, "dim": 3}]}


def projection(key, x):
    return x[0]


@pytest.mark.parametrize(("axis", "kind"), MEMBERS, ids=[" ".join(pair) for pair in MEMBERS])
def test_every_member_can_be_described_and_built(axis, kind):
    """With its defaults, if it has them; what it needs besides is named."""
    model = settings_class(axis, kind)
    assert model.__doc__ and issubclass(model, KindSettings)
    needed = [name for name, field in model.model_fields.items() if field.is_required()]
    if needed:
        with pytest.raises(InputError, match=needed[0]):
            model.read({})
    values = {
        name: (REQUIRED | OF_MIXTURE if kind == "mixture" else REQUIRED)[name] for name in needed
    }
    settings = model.read(values)
    assert model.read(json.loads(settings.model_dump_json())) == settings
    task = TrainingSettings(task={"dim": 3, "noise": {"variance": 0.1}}).sampled_task()
    dim = 1 if kind == "sine" else 3  # a sine wave is a function of one number
    made = settings.build(dim=dim, outputs=1, key=KEY, task=task)
    if axis != "structure":  # which a model makes, as it has its sizes
        assert isinstance(made, load(AXES[axis].place(AXES[axis].base)))


def test_a_class_in_a_file_of_the_user_is_a_member(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import jax.numpy as jnp\n"
        "from mesalens.learners import Learner\n"
        "from mesalens.training import Objective\n"
        "class Mean(Learner):\n"
        "    'The mean label, times a number.'\n"
        "    scale: float = 0.5\n"
        "    def __call__(self, prompt):\n"
        "        return self.scale * prompt.ys.mean(axis=0)\n"
        "class Absolute(Objective):\n"
        "    power: int = 1\n"
        "    def loss(self, task, batch_size):\n"
        "        def loss(learner, key):\n"
        "            prompts, targets = task.sample(key, (batch_size,))\n"
        "            return jnp.abs(learner.batch(prompts) - targets).mean() ** self.power\n"
        "        return loss\n"
    )
    kind = f"{tmp_path}/mine.py:Mean"
    settings = TrainingSettings(
        model={"kind": kind, "scale": 0.25}, objective=f"{tmp_path}/mine.py:Absolute"
    )
    assert settings.initialise(KEY).scale == 0.25 and settings.value("objective.power") == 1
    assert TrainingSettings.read(settings.model_dump(mode="json")) == settings
    with pytest.raises(InputError, match=r"Absolute.*Learner"):
        TrainingSettings.read({"model": f"{tmp_path}/mine.py:Absolute"})
    with pytest.raises(InputError, match="Medain"):
        TrainingSettings.read({"model": f"{tmp_path}/mine.py:Medain"})
    with pytest.raises(InputError, match=r"yours\.py"):
        TrainingSettings.read({"model": f"{tmp_path}/yours.py:Mean"})


# Values by their paths


def test_values_are_read_and_replaced_by_their_paths():
    settings = TrainingSettings(task={"dim": 3})
    assert settings.value("task.dim") == settings.value("dim") == 3
    assert settings.value("--noise-variance") == 0.0
    other = settings.replaced("noise_variance", "0.1")  # as the command line has it
    assert other.value("task.noise.variance") == 0.1 and settings.value("noise_variance") == 0.0
    assert other.value("dim") == 3 and other.replaced("noise_variance", 0.0) == settings
    assert settings.replaced("task.covariates", "sphere").value("covariates").kind == "sphere"
    assert settings.replaced("batch_size", 3).batch_size == 3
    for path, keywords in [
        ("task.dimm", "dimm.*dim"),
        ("laeyrs", "laeyrs"),
        ("task.dim.x", "x"),
        ("clip", "clip"),
    ]:
        with pytest.raises(InputError, match=keywords):
            settings.replaced(path, 1)
    with pytest.raises(InputError, match=r"task\.dim.*integer"):
        settings.replaced("dim", 1.5)


def test_a_value_that_jax_traces_takes_a_place_as_it_is():
    @jax.jit
    def rate(value):
        return TrainingSettings().updated("learning_rate", value).optimiser.build().learning_rate

    assert float(rate(0.25)) == 0.25
    assert TrainingSettings().value("learning_rate") == 1e-3


def test_every_short_form_is_a_setting():
    for short, path in SHORT.items():
        assert TrainingSettings().value(short) == TrainingSettings().value(path)


def test_changes_of_nested_settings_keep_what_they_do_not_name():
    base = {"a": {"kind": "x", "p": 1, "q": 2}, "b": 3}
    assert overlay(base, {"a": {"p": 5}}) == {"a": {"kind": "x", "p": 5, "q": 2}, "b": 3}
    assert overlay(base, {"a": "x"}) == base
    assert overlay(base, {"a": "y"})["a"] == {"kind": "y"}
    assert overlay(base, {"a": {"kind": "y", "p": 5}})["a"] == {"kind": "y", "p": 5}
    assert overlay(base, {"a": {"r": 5}})["a"] == {"r": 5}  # of another kind, which has an r
    assert overlay({"vary": {"c": [1]}}, {"vary": {"d": [2]}})["vary"] == {
        "d": [2]
    }  # which has no kind


# Folders


def kept(settings, folder):
    """A run that was not trained."""
    learners = eqx.filter_jit(eqx.filter_vmap(settings.initialise))(
        jax.random.split(KEY, settings.seeds)
    )
    metrics = xr.Dataset(coords={"seed": range(settings.seeds), "step": [0, settings.steps]})
    save_run(folder, settings, Training(learners, metrics))
    return learners


EVERYTHING = {
    "kind": "transformer", "layers": 2, "heads": 2, "attention": "linear", "first_attention": "softmax",
    "tokens": "interleaved", "visibility": "all", "layer_norm": True, "mlp_widening": 2, "biases": True,
    "embedding_size": 5, "input_mlp_widening": 2, "positions": {"entries": 4}, "readout": True, "init_scale": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    "model",
    [
        {"structure": {"kind": "sparse"}, "layers": 2},
        pytest.param(EVERYTHING, marks=pytest.mark.slow),
    ],
)
def test_a_run_is_read_back(tmp_path, model):
    settings = TrainingSettings(
        task={"dim": 2, "noise": "laplace"}, model=model, seeds=2, stop={"kind": "flat"}
    )
    learners = kept(settings, tmp_path)
    read, training = load_run(tmp_path)
    assert read == settings
    same(training.learners, learners)
    content = json.loads((tmp_path / "settings.json").read_text())
    assert content["mesalens"] == mesalens.__version__
    assert TrainingSettings.read({k: v for k, v in content.items() if k != "mesalens"}) == settings
    prediction = compiled(training.learner(1), compiled(settings.sampled_task().sample, KEY)[0])
    assert prediction.shape == (1,) and np.isfinite(prediction).all()


OLD = {
    "dim": 3, "context_length": 4, "outputs": 1, "covariates": "uniform", "scale": 0.5, "covariate_covariance": None,
    "degrees_of_freedom": None, "functions": "linear", "function_scale": 1.0, "weight_covariance": None, "weight_mean": None,
    "hidden": None, "readout_mean": None, "degree": None, "frequency": None, "phase": None, "noise_variance": 0.1,
    "distractors": 0, "layers": 1, "heads": 1, "looped": False, "attention": "linear", "tokens": "joint", "keys": "context",
    "layer_norm": False, "mlp_widening": None, "biases": False, "embedding_size": None, "input_mlp_widening": None,
    "positions": None, "readout": False, "initial_weights": None, "activation_clip": None, "init_scale": 0.002,
    "objective": "sampled", "steps": 20, "batch_size": 16, "condensed": False, "learning_rate": 0.002, "schedule": "constant",
    "warmup": 0, "b2": 0.98, "clip": 0.001, "seeds": 2, "seed": 0, "every": 10, "stop": "never", "tolerance": 0.01,
    "generator": None,
}  # fmt: skip
"""`settings.json` as mesalens 0.1 wrote it."""


def old_folder(folder, arrays, axes=None, **settings):
    """A run folder of mesalens 0.1."""
    axes = axes or {}
    folder.mkdir(exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(OLD | settings))
    safetensors.numpy.save_file(arrays, folder / "weights.safetensors")
    names, shape = [*axes, "seed"], [*map(len, axes.values()), (OLD | settings)["seeds"]]
    endings = {
        "ending": (names, np.full(shape, "all steps")),
        "steps_taken": (names, np.full(shape, 20)),
    }
    loss = ([*names, "step"], np.ones([*shape, 3]))
    metrics = xr.Dataset(
        {"loss": loss}, {**axes, "seed": range(shape[-1]), "step": [0, 10, 20], **endings}
    )
    metrics.to_netcdf(folder / "metrics.nc", engine="netcdf4")
    return folder


def drawn(*shapes):
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in dict(shapes).items()}


def test_a_linear_transformer_of_mesalens_0_1_is_read(tmp_path):
    arrays = drawn(
        *((name, (2, 2, 1, 4, 4)) for name in ("W_Q", "W_K", "W_V", "P")),
        ("initial_weights", (2, 1, 3)),
    )
    old_folder(tmp_path, arrays, layers=2, initial_weights=[[0.5, 0.0, 1.0]], activation_clip=5.0)
    settings, training = load_run(tmp_path)
    assert settings.value("noise_variance") == 0.1 and settings.value("learning_rate") == 0.002
    assert settings.value("covariates").model_dump() == {"kind": "uniform", "scale": 0.5}
    prompt = compiled(settings.sampled_task().sample, KEY)[0]
    learner = training.learner(1)
    assert learner.activation_clip == 5.0 and learner.layers == 2
    # Token by token from the arrays, as they are in the file
    query = np.append(prompt.query, -arrays["initial_weights"][1] @ prompt.query)
    tokens = np.concatenate([np.concatenate([prompt.xs, prompt.ys], axis=1), query[None]])
    for layer in range(2):
        W_Q, W_K, W_V, P = (arrays[name][1, layer, 0] for name in ("W_Q", "W_K", "W_V", "P"))
        scores = (tokens @ W_Q.T) @ (tokens[:-1] @ W_K.T).T
        tokens = np.clip(tokens + scores @ (tokens[:-1] @ W_V.T) @ P.T, -5, 5)
    np.testing.assert_allclose(compiled(learner, prompt), -tokens[-1, 3:], rtol=1e-4)


def test_a_transformer_of_mesalens_0_1_is_read(tmp_path):
    layers = [f"stored_layers.{layer}.attention" for layer in (0, 1)]
    names = ("W_Q", "W_K", "W_V", "P")
    arrays = drawn(*((f"{layer}.{name}", (2, 1, 10, 10)) for layer in layers for name in names))
    options = {"layers": 2, "attention": "softmax-first", "tokens": "interleaved", "positions": 6}
    old_folder(tmp_path, arrays, **options)
    settings, training = load_run(tmp_path)
    model = training.learner(1)
    kinds = [type(layer.attention.kind) for layer in model.stored_layers]
    assert kinds == [SoftmaxAttention, LinearAttention]
    prompt = compiled(settings.sampled_task().sample, KEY)[0]
    rows = np.concatenate([Interleaved()(prompt), Sinusoidal(6)(9)], axis=1)
    for layer in layers:
        W_Q, W_K, W_V, P = (arrays[f"{layer}.{name}"][1, 0] for name in names)
        scores = (rows @ W_Q.T) @ (rows[:-1] @ W_K.T).T
        scores = jax.nn.softmax(scores / 10**0.5) if layer == layers[0] else scores
        rows = rows + scores @ (rows[:-1] @ W_V.T) @ P.T
    np.testing.assert_allclose(compiled(model, prompt), -rows[-1, 3:4], rtol=1e-3)


def test_a_sweep_of_mesalens_0_1_is_read(tmp_path):
    arrays = drawn(*((name, (2, 3, 1, 1, 1, 4, 4)) for name in ("W_Q", "W_K", "W_V", "P")))
    axes = {"b2": [0.9, 0.98], "noise_variance": [0.0, 0.1, 0.2]}
    old_folder(tmp_path, arrays, axes, seeds=1, vary=["b2=0.9,0.98", "noise-variance=0,0.1,0.2"])
    settings, training = load_run(tmp_path)
    assert settings.vary == {"optimiser.b2": ("0.9", "0.98"), "noise_variance": ("0", "0.1", "0.2")}
    assert settings.value("optimiser.b2") == 0.98
    learner = training.learner(0, b2=0.98, noise_variance=0.1)
    np.testing.assert_array_equal(learner.weights.W_Q, arrays["W_Q"][1, 1, 0])
    assert training.metrics.loss.dims == ("b2", "noise_variance", "seed", "step")


@pytest.mark.parametrize(
    ("old", "path", "value"),
    [
        ({"functions": "relu-network", "hidden": 7}, "task.functions.activation", "relu"),
        ({"functions": "monomial", "degree": 5}, "task.functions.degree", 5),
        ({"functions": "polynomial"}, "task.functions.kind", "polynomial"),
        ({"covariates": "gaussian", "covariate_covariance": [[2, 0, 0], [0, 1, 0], [0, 0, 1]]}, "task.covariates.covariance", ((2, 0, 0), (0, 1, 0), (0, 0, 1))),
        ({"covariates": "student-t", "degrees_of_freedom": 9.0}, "task.covariates.degrees_of_freedom", 9.0),
        ({"attention": "softmax", "keys": "all"}, "model.visibility.kind", "all"),
        ({"stop": "near-optimum", "tolerance": 0.2}, "stop.tolerance", 0.2),
        ({"stop": "flat"}, "stop.kind", "flat"),
        ({"objective": "population"}, "objective.kind", "population"),
        ({"schedule": "cosine", "warmup": 3}, "optimiser.warmup", 3),
        ({"condensed": True, "covariates": "gaussian"}, "task.condensed", True),
        ({"looped": True, "layers": 3, "heads": 2}, "model.heads", 2),
    ],
)  # fmt: skip
def test_settings_of_mesalens_0_1_are_the_nested_ones(tmp_path, old, path, value):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(OLD | old))
    settings = load_settings(file)
    assert settings.value(path) == value
    eqx.filter_eval_shape(settings.initialise, KEY)
    settings.sampled_task()


def write(folder, content):
    (folder / "settings.json").write_text(
        content if isinstance(content, str) else json.dumps(content)
    )


@pytest.mark.parametrize(
    ("content", "keywords"),
    [
        ({}, "damaged.*version"),
        ({"steps": 3}, "damaged.*version"),
        ("{", "damaged"),
        ("[]", "damaged.*mapping"),
        (
            {"mesalens": "9.1", "steps": 3, "colour": "blue"},
            f"mesalens {mesalens.__version__}.*colour.*mesalens 9.1 wrote it",
        ),
        ({"mesalens": "9.1", "model": {"kind": "mamba"}}, "mamba.*mesalens 9.1 wrote it"),
        ({**OLD, "dim": "three"}, "dim.*mesalens 0.1 wrote it"),
        ({**OLD, "covariates": "cubes"}, "cubes.*mesalens 0.1 wrote it"),
        ({"study": "von-oswald-2023", "budget": "quick", "seeds": 5}, "report"),
    ],
)
def test_settings_that_cannot_be_read_get_a_sentence_with_their_version(
    tmp_path, content, keywords
):
    """The folder of a report was called damaged, and `{}` was read with today's defaults."""
    write(tmp_path, content)
    for read in (load_settings, load_run):
        with pytest.raises(InputError, match=keywords) as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "keywords"), [("", "missing"), ("nowhere", "no folder"), ("some", "missing")]
)
def test_folders_without_settings_get_a_sentence(tmp_path, monkeypatch, name, keywords):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some").mkdir()
    with pytest.raises(InputError, match=keywords):
        load_run(name)


def test_a_training_that_is_refused_leaves_the_settings_of_the_one_that_is_under_way(tmp_path):
    """It deleted them, so that the other could not be resumed."""
    folder = tmp_path / "run"
    winner = TrainingSettings(task={"dim": 3}, steps=10)
    for loser in (winner, winner.replaced("steps", 20), winner.replaced("dim", 4)):
        with begun(folder, winner):
            before = (folder / "settings.json").read_bytes()
            with pytest.raises(InputError, match="another process"), begun(folder, loser):
                raise AssertionError
            assert (folder / "settings.json").read_bytes() == before
        assert load_settings(folder) == winner
        assert sorted(path.name for path in folder.iterdir()) == ["settings.json"]


def test_a_training_that_fails_before_a_step_leaves_the_folder_as_it_was(tmp_path):
    folder, settings = tmp_path / "run", TrainingSettings(steps=10)
    with pytest.raises(InputError, match="mine"), begun(folder, settings):
        raise InputError("mine")
    assert not folder.exists()
    with begun(folder, settings):
        pass
    with pytest.raises(InputError, match="mine"), begun(folder, settings.replaced("steps", 20)):
        assert load_settings(folder).steps == 20
        raise InputError("mine")
    assert load_settings(folder) == settings
