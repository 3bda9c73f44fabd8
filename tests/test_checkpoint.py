"""A training that is stopped goes on where it was, and ends with the bits of one that was not."""

import contextlib
import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
import xarray as xr
from small_training import TASK, StoppedError, assert_same, initialise, measure, trained

from mesalens import InputError, random, storage
from mesalens.progress import ProgressReport
from mesalens.tasks import LinearFunctions, RegressionTask, Uniform
from mesalens.training import checkpoint
from mesalens.training.checkpoint import (
    Checkpoint,
    checksum,
    read_state,
    report_rest,
    states,
    steps_done,
)
from mesalens.training.optimisers.adam import clipped_adam

pytest_plugins = ["small_training"]
pytestmark = pytest.mark.usefixtures("compiled_once")


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


# A state with random keys, numbers of 16 bits and counters
NOISY = optax.chain(
    optax.add_noise(1e-4, 0.5, jax.random.key(7)), optax.adam(1e-2, mu_dtype=jnp.bfloat16)
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_training_that_is_stopped_twice_ends_with_the_same_bits(whole, tmp_path):
    done = []
    for stop in (10, 20):
        with pytest.raises(StoppedError):
            trained(tmp_path, stop=stop, done=done)
        assert steps_done(tmp_path) == stop
    assert_same(trained(tmp_path, done=done), whole)
    assert done == [10, 20, 25]
    assert names(tmp_path) == [
        "000000000020.safetensors",
        "000000000025.safetensors",
        "in-use.lock",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"objective": "population"},
        {
            "optimiser": NOISY,
            "seeds": 1,
            "initialise": lambda key: initialise(key, initial_weights=jnp.ones((1, 3))),
        },
    ],
    ids=["population", "one seed, frozen weights, random keys"],
)
def test_so_does_one_of_any_objective_optimiser_and_learner(tmp_path, options):
    options = {"steps": 15, **options}
    with pytest.raises(StoppedError):
        trained(tmp_path, stop=10, **options)
    done = []
    assert_same(trained(tmp_path, done=done, **options), trained(**options))
    assert done == [15]


def test_a_state_of_another_precision_is_refused(kept):
    with jax.enable_x64(True), pytest.raises(InputError, match=r"precision is not set .* float64"):
        trained(kept)


def test_a_finished_training_is_read_again(whole, kept):
    trained(kept)
    assert_same(trained(kept, stop=25), whole)  # no step is taken that could stop it


def test_the_same_seed_gives_the_same_bits_twice(whole):  # and in two processes: test_kill.py
    assert_same(trained(), whole)


def test_more_steps_go_on_from_fewer(tmp_path, whole):
    trained(tmp_path / "a", steps=20)
    assert_same(trained(tmp_path / "a"), whole)
    trained(tmp_path / "b", steps=5)
    longer = trained(tmp_path / "b")
    np.testing.assert_array_equal(longer.learners.weights.P, whole.learners.weights.P)
    assert longer.metrics.step.values.tolist() == [0, 5, 10, 20, 25]
    xr.testing.assert_identical(
        longer.metrics.drop_sel(step=5)[["norm", "draw"]], whole.metrics[["norm", "draw"]]
    )


def test_fewer_steps_than_are_done_get_a_sentence(kept):
    with pytest.raises(InputError, match="20 steps; steps=19"):
        trained(kept, steps=19)


@pytest.mark.slow
def test_states_follow_each_other_no_faster_than_is_said_and_the_last_is_always_kept(
    tmp_path, monkeypatch
):
    def kept_with(seconds, **options):
        """What is kept after each report, and at the end."""
        monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN_SAVES", seconds)
        folder, seen = tmp_path / f"{seconds}{options}", []
        with contextlib.suppress(StoppedError):
            trained(folder, progress=lambda _: seen.append(steps_done(folder)), every=5, **options)
        return [*seen, steps_done(folder)]

    assert kept_with(1e9) == [5, 5, 5, 5, 25, 25]
    assert kept_with(1e9, stop=15) == [5, 5, 5, 15]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"key": random.key(2)}, "key is [0, 1] in the folder and [0, 2] here"),
        ({"seeds": 3}, "seed is [0, 1] in the folder and [0, 1, 2] here"),
        slow({"seeds": [1, 0]}, "seed is [0, 1] in the folder and [1, 0] here"),
        ({"batch_size": 33, "every": 5}, "batch_size is 32 in the folder and 33 here; every is 10 in the folder and 5 here"),
        slow({"batch_size": 34, "microbatches": 2}, "batch_size is 32 in the folder and 34 here; microbatches is 1 in the folder and 2 here"),
        ({"objective": "population"}, "objective is SquaredError() in the folder and Population() here"),
        ({"key": jax.random.key(1, impl="rbg")}, "generator is threefry in the folder and rbg here"),
        slow({"description": {"learning_rate": 0.01}}, "learning_rate is not set in the folder and 0.01 here"),
        ({"measure": None}, "metrics is ['draw', 'loss', 'norm'] in the folder and ['loss'] here"),
        ({"measure": lambda learner, key: measure(learner, jax.random.fold_in(key, 1))}, "the measure differ"),
        ({"optimiser": clipped_adam(1.1e-2, clip=1e-3)}, "the task, learner or optimiser differ"),
        slow({"initialise": lambda key: initialise(key, init_scale=0.003)}, "the initial weights or learners differ"),
        ({"initialise": lambda key: initialise(key, heads=2)}, "the task, learner or optimiser differ"),
        ({"task": dataclasses.replace(TASK, covariates=Uniform(3, 0.6))}, "the task, learner or optimiser differ"),
        slow(
            {"task": RegressionTask(Uniform(3, 0.5), LinearFunctions(3, mean=np.ones((1, 3))), context_length=5)},
            "the task, learner or optimiser differ",
        ),
    ],
)  # fmt: skip
def test_the_state_of_another_training_is_refused_by_what_differs_and_stays(kept, change, sentence):
    before = {file: file.read_bytes() for file in states(kept)}
    with pytest.raises(InputError, match=rf"20\.safetensors.*{re.escape(sentence)}.*{kept}"):
        trained(kept, **change)
    assert {file: file.read_bytes() for file in states(kept)} == before


def of_other_versions(file, **other):
    """Makes a state one that other versions left."""
    about, arrays = read_state(file)
    about["environment"].update(other)
    text = json.dumps(about)
    file.write_bytes(
        safetensors.numpy.save(arrays, {"about": text, "sha256": checksum(arrays, text)})
    )


def test_a_state_of_another_version_goes_on_with_a_line_that_names_it(whole, kept):
    for file in states(kept):
        of_other_versions(file, JAX="0.0.1")
    said, other = [], {"initialise": lambda key: initialise(key, init_scale=0.003)}
    # Digests of programs are of no use then: that of the initial weights, which are used no more, is another one here
    assert_same(trained(kept, say=said.append, **other), whole)
    assert len(said) == 1 and f"JAX is 0.0.1 in the folder and {jax.__version__} here" in said[0]
    for file in states(kept):
        of_other_versions(file, JAX="0.0.1")
    with pytest.raises(InputError, match="every is 10 in the folder and 5 here"):
        trained(kept, every=5)


def test_a_training_records_what_its_bits_depend_on(whole):
    known = whole.metrics.attrs
    assert known["JAX"] == jax.__version__ and known["generator"] == "threefry"
    assert known["device"].startswith(jax.default_backend())
    assert known.keys() >= {
        "mesalens",
        "jaxlib",
        "Equinox",
        "Optax",
        "machine",
        "cores",
        "XLA_FLAGS",
    }
    rbg = trained(key=jax.random.key(1, impl="rbg"), steps=1, measure=None)
    assert rbg.metrics.generator == "rbg"


def test_single_numbers_and_keys_keep_their_shape_and_type():
    tree = {
        "count": jnp.array(3),
        "key": random.key(4),
        "half": jnp.ones(2, jnp.bfloat16),
        "name": "kept",
    }
    again = storage.with_arrays(tree, storage.named_arrays(tree))
    assert again["name"] == "kept" and jax.random.key_impl(again["key"]) == jax.random.key_impl(
        tree["key"]
    )
    for name in ("count", "key", "half"):
        assert (again[name].shape, again[name].dtype) == (tree[name].shape, tree[name].dtype)
        assert jnp.all(again[name] == tree[name])


@pytest.mark.parametrize("name", ["file", "file/below", "n" * 300])
def test_a_place_for_no_state_gets_a_sentence_before_anything_is_trained(tmp_path, name):
    def hold(place):
        with Checkpoint(place, {}).held():
            assert Checkpoint(place, {}).load((), 1) is None

    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"(written|read) \("):
        hold(tmp_path / name)
    hold(tmp_path / "new" / "folder")
    assert names(tmp_path) == ["file"]
    with pytest.raises(InputError, match=r"(?i)name too long"):
        steps_done(tmp_path / ("n" * 300))


def test_chosen_seeds_are_those_of_a_longer_run(whole):
    turned = trained(seeds=[1, 0])
    assert turned.metrics.seed.values.tolist() == [1, 0]
    np.testing.assert_array_equal(turned.learners.weights.W_Q, whole.learners.weights.W_Q[::-1])
    xr.testing.assert_identical(turned.metrics.sortby("seed"), whole.metrics)


@pytest.mark.slow
def test_a_seed_is_independent_of_the_others_if_they_fill_the_cores(monkeypatch):
    def on_cores(cores, seeds):
        monkeypatch.setattr("mesalens.training.parallel.cores", lambda: cores)
        return trained(seeds=seeds)

    alone, company, parted = on_cores(1, [1]), on_cores(2, [5, 1]), on_cores(3, [1])
    xr.testing.assert_identical(alone.metrics, company.metrics.sel(seed=[1]))
    np.testing.assert_array_equal(alone.learners.weights.W_Q[0], company.learners.weights.W_Q[1])
    # Where cores are left, products are parted among them: sums are rounded differently, and that is all
    np.testing.assert_array_equal(parted.metrics.draw, alone.metrics.draw)
    np.testing.assert_allclose(parted.metrics.loss[0, 1:], alone.metrics.loss[0, 1:], rtol=1e-4)
    np.testing.assert_allclose(
        parted.learners.weights.W_Q, alone.learners.weights.W_Q, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ("seeds", "sentence"),
    [
        ([], r"seeds.*\[\]"),
        ([2, 0, 2], r"seeds.*\[2, 0, 2\]"),
        ([0, -1], "seeds.*-1"),
        ([2**32 - 1], "seeds.*4294967294.*4294967295"),
    ],
)
def test_seeds_that_are_none_get_a_sentence(seeds, sentence):
    with pytest.raises(InputError, match=sentence):
        trained(seeds=seeds)


def test_a_seed_is_named_by_its_number():
    with pytest.raises(InputError, match=r"gradient is 0 .* 10 steps .*seed 5"):
        trained(seeds=[5], initialise=lambda key: initialise(key, activation_clip=1e-30))


@pytest.mark.slow
def test_the_report_is_of_the_steps_that_are_left(tmp_path, kept, capsys):
    with ProgressReport() as progress:
        report_rest(progress.start, "whole", 25, tmp_path / "none")(25)
        report_rest(progress.start, "rest", 25, kept)(25)
    assert re.findall(r"(.*): (\d+/\d+) steps", capsys.readouterr().err) == [
        ("whole", "25/25"),
        ("rest, from step 20", "5/5"),
    ]
