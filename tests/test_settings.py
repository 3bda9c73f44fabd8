"""Settings of a training: which transformer they describe, what does not go together, and runs that are kept."""

import json

import equinox as eqx
import jax
import numpy as np
import pytest
import xarray as xr

from mesalens import InputError, LinearTransformer, random
from mesalens.models import Interleaved, Joint, Sinusoidal, Transformer
from mesalens.training import Training, TrainingSettings, load_run
from mesalens.training.run_folder import save_run
from mesalens.training.settings import PARTS

KEY = random.key(3)
OTHER = {
    "attention": "softmax",
    "tokens": "interleaved",
    "keys": "all",
    "layer_norm": True,
    "mlp_widening": 2,
    "biases": True,
    "embedding_size": 5,
    "input_mlp_widening": 2,
    "positions": 4,
    "readout": True,
}
EVERYTHING = {"dim": 2, "layers": 2, **OTHER, "attention": "softmax-first", "heads": 2}


def same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for one, two in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(one, two) if eqx.is_array(one) else None


def test_without_parts_the_transformer_is_linear_to_the_bit():
    settings = TrainingSettings(dim=2, outputs=2, layers=2, heads=2, activation_clip=10.0)
    assert settings.parts() == []
    same(
        settings.initialise(KEY),
        LinearTransformer.initialise(2, 2, layers=2, heads=2, activation_clip=10.0, key=KEY),
    )


@pytest.mark.parametrize("part", PARTS)
def test_any_part_makes_it_a_transformer_with_that_part_and_no_other(part):
    settings = TrainingSettings(dim=2, layers=2, looped=True, init_scale=0.1, **{part: OTHER[part]})
    assert settings.parts() == [part]
    given = {"tokens": Interleaved(), "positions": Sinusoidal(4)}.get(part, OTHER[part])
    options = {"attention": "linear", part: given}
    expected = Transformer.initialise(2, layers=2, looped=True, init_scale=0.1, key=KEY, **options)
    same(settings.initialise(KEY), expected)


def test_softmax_comes_first_and_linear_attention_after():
    settings = TrainingSettings(dim=2, layers=3, attention="softmax-first")
    kernels = [layer.attention.kernel for layer in settings.initialise(KEY).stored_layers]
    assert kernels == ["softmax", "linear", "linear"]


def test_joint_tokens_hold_the_initial_weights():
    model = TrainingSettings(dim=2, attention="softmax", initial_weights=((1.0, 2.0),)).initialise(KEY)
    assert isinstance(model.tokens, Joint)
    np.testing.assert_array_equal(model.tokens.initial_weights, [[1, 2]])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"readout": True, "activation_clip": 1.0}, "activation_clip is for linear transformers, and this one has readout"),
        ({"keys": "all", "biases": True, "condensed": True}, "condensed is for linear .* keys, biases besides; leave out"),
        ({"attention": "softmax", "objective": "population"}, "the population objective is for linear transformers"),
        ({"attention": "softmax-first", "layers": 2, "looped": True}, "looped layers have one kind of attention; leave"),
        ({"tokens": "interleaved", "initial_weights": ((0.0,) * 10,)}, "interleaved tokens hold no -W_0 x; leave"),
        ({"attention": "softmax", "initial_weights": ((1.0,),)}, r"W_0, .* has shape \(1, 1\); give \(1, 10\)"),
        ({"attention": "softmax-first", "layers": 0}, "layers is 0"),
        ({"positions": 3}, "the size of a sinusoidal encoding is 3; give an even number"),
        ({"mlp_widening": 0}, "the widening of an MLP is 0"),
        ({"embedding_size": 1, "outputs": 2}, "no room for 2 outputs"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together_get_a_sentence(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        eqx.filter_eval_shape(TrainingSettings(**settings).initialise, KEY)


def kept(settings, folder):
    """A run that was not trained."""
    learners = eqx.filter_jit(eqx.filter_vmap(settings.initialise))(jax.random.split(KEY, settings.seeds))
    metrics = xr.Dataset(coords={"seed": range(settings.seeds), "step": [0]})
    save_run(folder, settings, Training(learners, metrics))
    return learners


@pytest.mark.slow
def test_a_run_with_every_part_is_read_back(tmp_path):
    settings = TrainingSettings(seeds=2, init_scale=1.0, **EVERYTHING)
    assert settings.parts() == list(PARTS)
    learners = kept(settings, tmp_path)
    read, training = load_run(tmp_path)
    assert read == settings
    same(training.learners, learners)
    prediction = eqx.filter_jit(training.learner(1))(settings.task().sample(KEY)[0])
    assert prediction.shape == (1,) and np.isfinite(prediction).all()


def test_runs_from_before_there_were_parts_are_still_read(tmp_path):
    settings = TrainingSettings(dim=2, layers=2, initial_weights=((1.0, 2.0),))
    learners = kept(settings, tmp_path)
    file = tmp_path / "settings.json"
    before = {name: value for name, value in json.loads(file.read_text()).items() if name not in PARTS}
    file.write_text(json.dumps(before))
    read, training = load_run(tmp_path)
    assert read == settings
    same(training.learners, learners)
