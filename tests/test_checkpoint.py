"""A training that is stopped goes on where it was, and ends with the bits of one that was not."""

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
import xarray as xr
from jax.experimental.compilation_cache import compilation_cache

from mesalens import InputError, LinearTransformer, cli, random, storage
from mesalens.progress import ProgressReport
from mesalens.studies.mahankali_2023 import laboratory as mahankali
from mesalens.studies.von_oswald_2023 import STUDY, deep_models
from mesalens.studies.von_oswald_2023 import laboratory as von_oswald
from mesalens.tasks import LinearFunctions, RegressionTask, Uniform
from mesalens.training import clipped_adam, load_run, train
from mesalens.training.checkpoint import Checkpoint, report_rest, steps_done

TASK = RegressionTask(Uniform(3, 0.5), LinearFunctions(3), context_length=5)
ADAM = clipped_adam(1e-2, clip=1e-3)
# A state with random keys, numbers of 16 bits and counters
NOISY = optax.chain(optax.add_noise(1e-4, 0.5, jax.random.key(7)), optax.adam(1e-2, mu_dtype=jnp.bfloat16))


class StoppedError(Exception):
    """What stops a training here."""


def initialise(key, **options):
    return LinearTransformer.initialise(3, key=key, **options)


def measure(learner, key):
    return {"norm": jnp.sum(learner.W_Q**2), "draw": jax.random.uniform(key)}


def trained(folder=None, stop=None, said=None, **options):
    def progress(done):
        if said is not None:
            said.append(done)
        if done == stop:
            raise StoppedError

    options = {"initialise": initialise, "task": TASK, "optimiser": ADAM, "seeds": 2, "steps": 25, **options}
    options = {"batch_size": 32, "every": 10, "measure": measure, "key": random.key(1), **options}
    return train(**options, progress=progress, checkpoint=folder)


def assert_same(one, other):
    """Bit for bit, weights and metrics."""
    xr.testing.assert_identical(one.metrics, other.metrics)
    for a, b in zip(jax.tree.leaves(one.learners), jax.tree.leaves(other.learners), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Programs are kept, as most trainings here are the same one; that of a process that is killed is compiled anew."""
    options = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def whole():
    return trained()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(StoppedError):
        trained(folder, stop=10)
    return folder


@pytest.fixture
def kept(stopped, tmp_path):
    """The folder of a training that was stopped after 10 of 25 steps."""
    return shutil.copytree(stopped, tmp_path / "kept")


def test_a_training_that_is_stopped_twice_ends_with_the_same_bits(whole, kept):
    said = []
    with pytest.raises(StoppedError):
        trained(kept, stop=20, said=said)
    assert steps_done(kept) == 20
    assert_same(trained(kept, said=said), whole)
    assert said == [20, 25]
    assert [path.name for path in kept.iterdir()] == ["state.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"objective": "population"},
        {"optimiser": NOISY, "seeds": 1, "initialise": lambda key: initialise(key, initial_weights=jnp.ones((1, 3)))},
    ],
    ids=["population", "one seed, frozen weights, random keys"],
)
def test_so_does_one_of_any_objective_optimiser_and_learner(tmp_path, options):
    options = {"steps": 15, **options}
    with pytest.raises(StoppedError):
        trained(tmp_path, stop=10, **options)
    said = []
    assert_same(trained(tmp_path, said=said, **options), trained(**options))
    assert said == [15]


def test_a_finished_training_is_read_again(whole, kept):
    trained(kept)
    assert_same(trained(kept, stop=25), whole)  # no step is taken that could stop it


def test_more_steps_go_on_from_fewer(tmp_path, whole):
    trained(tmp_path / "a", steps=20)
    assert_same(trained(tmp_path / "a"), whole)
    trained(tmp_path / "b", steps=5)
    longer = trained(tmp_path / "b")
    np.testing.assert_array_equal(longer.learners.P, whole.learners.P)
    assert longer.metrics.step.values.tolist() == [0, 5, 10, 20, 25]
    xr.testing.assert_identical(longer.metrics.drop_sel(step=5)[["norm", "draw"]], whole.metrics[["norm", "draw"]])


def test_fewer_steps_than_are_done_get_a_sentence(kept):
    with pytest.raises(InputError, match="keeps a training after 10 steps; give at least as many"):
        trained(kept, steps=9)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"key": random.key(2)}, "key"),
        ({"seeds": 3}, "seeds"),
        ({"seeds": [1, 0]}, "seeds"),
        ({"batch_size": 33}, "batch_size"),
        ({"every": 5}, "every"),
        ({"objective": "population"}, "objective"),
        ({"measure": None}, "metrics"),
        ({"measure": lambda learner, key: measure(learner, jax.random.fold_in(key, 1))}, "measure"),
        ({"optimiser": clipped_adam(1.1e-2, clip=1e-3)}, "optimiser"),
        ({"initialise": lambda key: initialise(key, init_scale=0.003)}, "initial weights"),
        ({"initialise": lambda key: initialise(key, heads=2)}, "learner"),
        ({"task": RegressionTask(Uniform(3, 0.6), LinearFunctions(3), context_length=5)}, "task"),
        ({"task": RegressionTask(Uniform(3, 0.5), LinearFunctions(3, mean=np.ones((1, 3))), context_length=5)}, "task"),
    ],
)
def test_the_state_of_another_training_is_refused_and_stays(kept, change, name):
    before = (kept / "state.safetensors").read_bytes()
    with pytest.raises(InputError, match=rf"another training \(the two differ in .*{name}.*\); ask for that one"):
        trained(kept, **change)
    assert (kept / "state.safetensors").read_bytes() == before


def without_names(content):
    arrays = safetensors.numpy.load(content)
    return safetensors.numpy.save(arrays)


def without_weights(content):
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    arrays = {name: array for name, array in safetensors.numpy.load(content).items() if name != "state.0.P"}
    return safetensors.numpy.save(arrays, header["__metadata__"])


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-9], lambda c: b"", lambda c: b"x" * 100, without_names, without_weights]
)
def test_a_damaged_state_gets_a_sentence(kept, damage):
    file = kept / "state.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match=r"state.safetensors is damaged \(.*; delete .* to begin anew"):
        trained(kept)


def test_single_numbers_and_keys_keep_their_shape_and_type():
    tree = {"count": jnp.array(3), "key": random.key(4), "half": jnp.ones(2, jnp.bfloat16), "name": "kept"}
    again = storage.with_arrays(tree, storage.named_arrays(tree))
    assert again["name"] == "kept" and jax.random.key_impl(again["key"]) == jax.random.key_impl(tree["key"])
    for name in ("count", "key", "half"):
        assert (again[name].shape, again[name].dtype) == (tree[name].shape, tree[name].dtype)
        assert jnp.all(again[name] == tree[name])


def test_what_cannot_be_written_gets_a_sentence_and_leaves_the_older_state(tmp_path, kept, whole, monkeypatch):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file cannot be written"):
        trained(tmp_path / "file")
    with monkeypatch.context() as full:
        full.setattr(storage.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(InputError, match=r"cannot be written \(No space left"):
            trained(kept)
    assert [path.name for path in kept.iterdir()] == ["state.safetensors"] and steps_done(kept) == 10
    assert_same(trained(kept), whole)


@pytest.mark.parametrize("name", ["file", "file/below", "n" * 300])
def test_a_place_for_no_state_gets_a_sentence_before_anything_is_trained(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"(written|read) \(.*\); give another folder"):
        Checkpoint(tmp_path / name, {}).load((), 1)
    assert Checkpoint(tmp_path / "new" / "folder", {}).load((), 1) is None
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(InputError, match="name too long"):
        steps_done(tmp_path / ("n" * 300))


def test_chosen_seeds_are_those_of_a_longer_run(whole):
    turned = trained(seeds=[1, 0])
    assert turned.metrics.seed.values.tolist() == [1, 0]
    np.testing.assert_array_equal(turned.learners.W_Q, whole.learners.W_Q[::-1])
    xr.testing.assert_identical(turned.metrics.sortby("seed"), whole.metrics)


def test_a_seed_has_the_same_bits_in_any_company_that_fills_the_cores(monkeypatch):
    def on_cores(cores, seeds):
        monkeypatch.setattr("mesalens.training.seeds._cores", lambda: cores)
        return trained(seeds=seeds)

    alone, company, parted = on_cores(1, [1]), on_cores(2, [5, 1]), on_cores(3, [1])
    xr.testing.assert_identical(alone.metrics, company.metrics.sel(seed=[1]))
    np.testing.assert_array_equal(alone.learners.W_Q[0], company.learners.W_Q[1])
    # Where cores are left, products are parted among them: sums are rounded differently, and that is all
    np.testing.assert_array_equal(parted.metrics.draw, alone.metrics.draw)
    np.testing.assert_allclose(parted.metrics.loss[0, 1:], alone.metrics.loss[0, 1:], rtol=1e-4)
    np.testing.assert_allclose(parted.learners.W_Q, alone.learners.W_Q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("seeds", "sentence"),
    [
        ([], r"seeds are \[\]; give one or more"),
        ([2, 0, 2], r"seeds are \[2, 0, 2\]; give one or more different"),
        ([0, -1], "a seed is -1; give a whole number that is at least 0"),
        ([2**32 - 1], "whole numbers below 4294967295"),
    ],
)
def test_seeds_that_are_none_get_a_sentence(seeds, sentence):
    with pytest.raises(InputError, match=sentence):
        trained(seeds=seeds)


def test_a_seed_is_named_by_its_number():
    with pytest.raises(InputError, match=r"gradient is 0 at each of the first 10 steps \(seed 5\)"):
        trained(seeds=[5], initialise=lambda key: initialise(key, activation_clip=1e-30))


@pytest.mark.slow
def test_the_report_is_of_the_steps_that_are_left(tmp_path, kept, capsys):
    with ProgressReport() as progress:
        report_rest(progress.start, "whole", 25, tmp_path / "none")(25)
        report_rest(progress.start, "rest", 25, kept)(25)
    assert re.findall(r"(.*): (\d+/\d+) steps", capsys.readouterr().err) == [
        ("whole", "25/25"),
        ("rest, from step 10", "15/15"),
    ]


# The command line

SMALL = ("--dim", 2, "--context-length", 3, "--steps", 20, "--batch-size", 16, "--every", 5, "--seeds", 2)


def run(capsys, *arguments):
    """Exit code and standard error of one command."""
    code = cli.main([str(argument) for argument in arguments])
    return code, capsys.readouterr().err


@pytest.fixture
def interrupt(monkeypatch):
    """`interrupt(n)`: Ctrl-C right after the n-th state was left."""

    def after(states):
        def save(self, *arguments):
            nonlocal states
            original(self, *arguments)
            states -= 1
            if states == 0:
                raise KeyboardInterrupt

        monkeypatch.setattr(Checkpoint, "save", save)

    original = Checkpoint.save
    yield after


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert cli.main([str(a) for a in ("train", *SMALL, "--out", folder)]) == 0
    assert [path.name for path in folder.parent.iterdir()] == ["run"]  # no state is left
    return load_run(folder)[1]


def test_train_goes_on_after_an_interruption(tmp_path, capsys, interrupt, finished):
    out = tmp_path / "runs" / "x"
    interrupt(2)
    code, err = run(capsys, "train", *SMALL, "--out", out)
    assert code == 130 and "mesalens: interrupted; run the same command again to go on from step 10.\n" in err
    assert [path.name for path in out.parent.iterdir()] == [".x.unfinished"]
    code, err = run(capsys, "train", *SMALL, "--learning-rate", 2e-3, "--out", out)
    assert (
        code == 2 and ".x.unfinished keeps the state of another training (the two differ in task, learner, opt" in err
    )
    code, err = run(capsys, "train", *SMALL, "--out", out)
    assert code == 0 and "going on from step 10 of 20" in err and "from step 10: 10/10 steps" in err
    assert [path.name for path in out.parent.iterdir()] == ["x"]
    assert_same(load_run(out)[1], finished)


def test_an_interruption_before_anything_is_kept_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Checkpoint, "load", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    code, err = run(capsys, "train", *SMALL, "--out", tmp_path / "x")
    assert code == 130 and err.endswith("mesalens: interrupted; nothing was kept.\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_train_goes_on_after_it_was_killed_in_the_middle_of_writing(tmp_path, capsys, finished):
    killed_at_third_state = """
import os, signal, sys
states = 0
def fsync(file):
    global states
    states += 1
    if states == 3:
        os.truncate(file, 100)
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = fsync
from mesalens import cli
cli.main(sys.argv[1:])
"""
    arguments = [str(argument) for argument in ("train", *SMALL, "--out", tmp_path / "x")]
    killed = subprocess.run([sys.executable, "-c", killed_at_third_state, *arguments], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert any(path.stat().st_size == 100 for path in (tmp_path / ".x.unfinished").iterdir())
    code, err = run(capsys, *arguments)
    assert code == 0 and "going on from step 10 of 20" in err
    assert_same(load_run(tmp_path / "x")[1], finished)
    assert not (tmp_path / ".x.unfinished").exists()


@pytest.mark.slow
def test_a_run_that_diverges_keeps_no_state(tmp_path, capsys):
    rate = ("--learning-rate", 1e30, "--every", 1)
    code, err = run(capsys, "train", *SMALL, *rate, "--out", tmp_path / "x")
    assert code == 2 and "not finite at step" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_reproduce_goes_on_with_the_trainings_of_a_study(tmp_path, capsys, interrupt, monkeypatch):
    tiny = von_oswald.Budget(steps=200, batch_size=8, seeds=2, prompts=100, sizes=())
    monkeypatch.setitem(STUDY.budgets, "quick", tiny)
    asked = ("reproduce", "von-oswald-2023/training", "--checkpoints", tmp_path / "kept", "--out", tmp_path / "report")
    interrupt(1)
    code, err = run(capsys, *asked)
    assert code == 130 and "interrupted; run the same command again to go on with its trainings." in err
    state = tmp_path / "kept" / "von-oswald-2023" / "quick" / "one-layer-d10-n10"
    assert steps_done(state) == 100 and not (tmp_path / "report").exists()
    code, err = run(capsys, *asked)
    assert code in (0, 1) and "2 seeds, from step 100: 100/100 steps" in err
    assert steps_done(state) == 200 and (tmp_path / "report" / "index.html").exists()


def left_and_taken_up(make, budget, folder, train):
    """What a laboratory trained, and another one after it, which takes no step any more."""
    said = []
    trainings = []
    for _ in range(2):
        said.clear()
        laboratory = make(budget, seeds=1, checkpoints=folder, progress=lambda *_: said.append)
        trainings.append(train(laboratory))
        assert bool(said) == (len(trainings) == 1)
    return trainings


@pytest.mark.slow
def test_the_laboratory_of_mahankali_2023_takes_up_what_another_left(tmp_path):
    budget = dataclasses.replace(mahankali.BUDGETS["quick"], population_steps=20, dim=2)

    def train(laboratory):
        return laboratory.population("x ~ N(0, Σ), w ~ N(0, Σ⁻¹)", laboratory.isotropic()).training

    assert_same(*left_and_taken_up(mahankali.Laboratory, budget, tmp_path, train))
    assert [path.name for path in tmp_path.iterdir()] == ["population-x-N-0-Σ-w-N-0-Σ⁻¹-"]


@pytest.mark.slow
def test_the_laboratory_of_von_oswald_2023_takes_up_deep_models_that_another_left(tmp_path):
    tiny = deep_models.DeepSettings(
        2, True, 20, 64, seeds=1, plus_plus_steps=20, dim=2, context_length=3, prompts_for_rates=200, prompts=100
    )
    budget = von_oswald.Budget(20, 8, 1, 100, (), {"tiny": tiny})
    left, taken_up = left_and_taken_up(
        von_oswald.Laboratory, budget, tmp_path, lambda laboratory: laboratory.deep("tiny")
    )
    assert_same(left.training, taken_up.training)
    np.testing.assert_array_equal(left.references["plus_plus"].step_size, taken_up.references["plus_plus"].step_size)
    assert steps_done(tmp_path / "tiny") == steps_done(tmp_path / "tiny" / "plus-plus") == 20
