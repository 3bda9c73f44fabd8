"""`mesalens train` that is stopped, killed or diverges: what it leaves, what it says, and how the run goes on."""

import functools
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_training import assert_same

from mesalens import cli
from mesalens.cli import interruption
from mesalens.cli._main import CRASHED
from mesalens.cli.interruption import StoppedError, stoppable
from mesalens.manifest import write_manifest
from mesalens.storage import load_dataset, save_dataset
from mesalens.training import TrainingSettings, checkpoint, engine, load_run, run_folder
from mesalens.training.checkpoint import Checkpoint, steps_done
from mesalens.training.run_folder import load_settings, states_folder

pytest_plugins = ["small_training"]
pytestmark = pytest.mark.usefixtures("compiled_once", "kept_at_once")

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
    5,
    "--seeds",
    2,
)
SETTINGS = TrainingSettings(
    task={"dim": 2, "context_length": 3}, steps=20, batch_size=16, every=5, seeds=2
)


def run(capsys, *arguments):
    """Exit code and standard error of one command."""
    code = cli.main([str(argument) for argument in arguments])
    return code, capsys.readouterr().err


def names(folder):
    return sorted(path.name for path in folder.iterdir())


FINISHED = ["manifest.json", "metrics.nc", "settings.json", "state", "weights.safetensors"]


@pytest.fixture(scope="module")
def finished_folder(compiled_once, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert cli.main([str(a) for a in ("train", *SMALL, "--out", folder)]) == 0
    assert names(folder) == FINISHED
    return folder


@pytest.fixture(scope="module")
def finished(finished_folder):
    return load_run(finished_folder)[1]


@pytest.fixture
def after_states(monkeypatch):
    """`after_states(n, act)`: `act()` right after the n-th state was left, and no more."""

    def after(states, act):
        def save(self, *arguments, **options):
            nonlocal states
            saved = original(self, *arguments, **options)
            states -= 1
            if states == 0:
                act()
            return saved

        monkeypatch.setattr(Checkpoint, "save", save)

    original = Checkpoint.save
    yield after


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_run_whose_state_is_kept_and_going_on_gives_the_same_bits(
    tmp_path, capsys, after_states, finished, number, code
):
    out, handlers = (
        tmp_path / "x",
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
    )
    after_states(2, lambda: signal.raise_signal(number))
    got, err = run(capsys, "train", *SMALL, "--out", out)
    assert got == code
    assert err.endswith(
        f"mesalens: stopped after step 10 of 20; go on with: mesalens train --resume {out}\n"
    )
    assert names(out) == ["settings.json", "state"] and steps_done(states_folder(out)) == 10
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    got, err = run(capsys, "compare", out)
    assert got == 2 and "step 10 of 20" in err and f"mesalens train --resume {out}" in err
    # Either way of going on
    again = ("--resume", out) if number == signal.SIGINT else (*SMALL, "--out", out)
    got, err = run(capsys, "train", *again)
    assert got == 0 and "going on from step 10 of 20" in err and "from step 10: 10/10 steps" in err
    assert_same(load_run(out)[1], finished)
    assert names(out) == FINISHED


class LeftError(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def leaving(monkeypatch):
    """The end of the process at once is an exception, as it would end the tests."""

    def leave(number, frame):
        raise LeftError(number)

    monkeypatch.setattr(interruption, "leave", leave)


def test_a_second_signal_stops_at_once_and_the_last_state_is_gone_on_from(
    tmp_path, capsys, monkeypatch, finished, leaving
):
    """It comes before a chunk is computed, and this is computed no more."""
    chunks = []

    def following(self, snapshot):
        chunks.append(snapshot.points[-1])
        if snapshot.points[-1] == 10:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("the second signal was only noted")
        return original(self, snapshot)

    with monkeypatch.context() as patch:
        original = engine.Loop.next
        patch.setattr(engine.Loop, "next", following)
        code, _ = run(capsys, "train", *SMALL, "--out", tmp_path / "x")
    assert code == CRASHED and chunks == [0, 5, 10]
    assert run(capsys, "train", "--resume", tmp_path / "x")[0] == 0
    assert_same(load_run(tmp_path / "x")[1], finished)


def test_a_signal_is_noted_the_first_time_and_ends_the_process_the_second_time(leaving):
    had = []
    before = signal.signal(signal.SIGTERM, lambda number, _: had.append(number))
    try:
        with stoppable() as check:
            check()
            signal.raise_signal(signal.SIGTERM)
            with pytest.raises(StoppedError) as caught:
                check()
            with pytest.raises(LeftError):
                signal.raise_signal(signal.SIGTERM)
        assert caught.value.exit_code == 143 and had == []
        signal.raise_signal(signal.SIGTERM)
        assert had == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


LEFT = """
import os, signal
from mesalens.cli.interruption import handled, leave
with handled(leave):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except BaseException:
        print("an exception")
    print("went on")
"""


def test_a_signal_while_modules_are_imported_ends_the_process_with_a_line():
    """It was an exception, which callbacks of C++ swallow."""
    answer = subprocess.run(
        [sys.executable, "-c", LEFT], capture_output=True, text=True, check=False
    )
    assert (answer.returncode, answer.stdout) == (143, "")
    assert answer.stderr.startswith("mesalens: ") and answer.stderr.count("\n") == 1


@pytest.mark.slow
def test_an_interruption_before_anything_is_kept_leaves_a_run_that_begins(
    tmp_path, capsys, monkeypatch, finished
):
    out = tmp_path / "x"
    with monkeypatch.context() as patch:
        patch.setattr(
            Checkpoint, "load", lambda *_: (_ for _ in ()).throw(StoppedError(signal.SIGINT))
        )
        code, err = run(capsys, "train", *SMALL, "--out", out)
    assert (
        code == 130
        and f"stopped after step 0 of 20; go on with: mesalens train --resume {out}\n" in err
    )
    assert names(out) == ["settings.json"]
    assert run(capsys, "train", "--resume", out)[0] == 0
    assert_same(load_run(out)[1], finished)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_train_goes_on_after_it_was_killed_in_the_middle_of_writing(tmp_path, capsys, finished):
    """At the third state, whose write syncs the settings, and each of two states, twice before: the file and its name."""
    killed_at_third_state = """
import os, signal, sys
syncs = 0
def fsync(file):
    global syncs
    syncs += 1
    if syncs == 7:
        os.truncate(file, 100)
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = fsync
from mesalens import cli
from mesalens.training import checkpoint
checkpoint.SECONDS_BETWEEN_SAVES = 0
cli.main(sys.argv[1:])
"""
    arguments = [str(argument) for argument in ("train", *SMALL, "--out", tmp_path / "x")]
    killed = subprocess.run(
        [sys.executable, "-c", killed_at_third_state, *arguments], capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    state = states_folder(tmp_path / "x")
    assert any(path.stat().st_size == 100 for path in state.glob(".*.safetensors.*"))
    code, err = run(capsys, *arguments)
    assert code == 0 and "going on from step 10 of 20" in err
    assert_same(load_run(tmp_path / "x")[1], finished)
    assert names(state) == ["000000000015.safetensors", "000000000020.safetensors", checkpoint.LOCK]


# Runs that are finished, and more steps


@pytest.fixture
def again(finished_folder, tmp_path):
    return shutil.copytree(finished_folder, tmp_path / "again")


def test_a_finished_run_is_not_trained_again_and_goes_on_with_more_steps(again, tmp_path, capsys):
    before = {path: path.read_bytes() for path in again.iterdir() if path.is_file()}
    code, err = run(capsys, "train", "--resume", again)
    assert code == 0 and f"{again} is finished" in err and "steps/s" not in err
    assert {path: path.read_bytes() for path in again.iterdir() if path.is_file()} == before
    code, err = run(capsys, "train", "--resume", again, "--steps", 30)
    assert code == 0 and "from step 20: 10/10 steps" in err
    assert run(capsys, "train", *SMALL, "--steps", 30, "--out", tmp_path / "longer")[0] == 0
    assert load_settings(again).steps == 30
    assert_same(load_run(again)[1], load_run(tmp_path / "longer")[1])


@pytest.mark.parametrize("name", ["weights.safetensors", "metrics.nc"])
def test_results_that_are_missing_are_made_again_from_the_state(again, capsys, finished, name):
    (again / name).unlink()
    code, err = run(capsys, "compare", again)
    assert code == 2 and f"mesalens train --resume {again}" in err
    assert run(capsys, "train", "--resume", again)[0] == 0
    assert_same(load_run(again)[1], finished)


@pytest.mark.slow
def test_a_run_that_is_stopped_between_its_results_is_not_finished(again, capsys, monkeypatch):
    """Weights of 25 steps beside metrics of 20, and never taken for results of either."""
    written = []

    def write(original, value, file):
        if written:
            raise StoppedError(signal.SIGINT)
        original(value, file)
        written.append(file.name)

    with monkeypatch.context() as patch:
        for name in ("save_arrays", "save_dataset"):
            patch.setattr(run_folder, name, functools.partial(write, getattr(run_folder, name)))
        code, err = run(capsys, "train", "--resume", again, "--steps", 25)
    assert code == 130 and "stopped after step 25 of 25; go on with" in err and len(written) == 1
    code, err = run(capsys, "compare", again)
    assert code == 2 and "step 25 of 25" in err
    assert run(capsys, "train", "--resume", again)[0] == 0
    assert load_run(again)[1].metrics.step.values[-1] == 25


@pytest.mark.slow
def test_a_run_of_which_results_cannot_be_written_gets_a_sentence_and_is_finished_later(
    tmp_path, capsys, monkeypatch, finished
):
    out = tmp_path / "x"
    for name in ("save_arrays", "save_dataset"):
        with monkeypatch.context() as full:
            full.setattr(
                run_folder,
                name,
                lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")),
            )
            code, err = run(capsys, "train", *SMALL, "--out", out)
        assert code == 2 and f"{out} cannot be written (No space left on device)" in err
        assert steps_done(states_folder(out)) == 20
    assert run(capsys, "train", "--resume", out)[0] == 0
    assert_same(load_run(out)[1], finished)


def test_a_run_keeps_what_its_bits_depend_on(finished, finished_folder):
    assert finished.metrics.generator == "threefry" and finished.metrics.device
    assert finished.metrics.attrs.keys() >= {
        "mesalens",
        "JAX",
        "jaxlib",
        "Equinox",
        "Optax",
        "machine",
        "cores",
    }
    assert finished.metrics.ending.values.tolist() == ["all steps"] * 2
    assert finished.metrics.steps_taken.values.tolist() == [20, 20]


# Settings that differ


@pytest.fixture
def begun(tmp_path):
    """A run with other settings than the defaults, of which nothing was trained yet."""
    settings = SETTINGS.replaced("learning_rate", 2e-3).replaced("optimiser.clip", 1e-2)
    with run_folder.begun(tmp_path / "x", settings):
        pass
    return tmp_path / "x"


@pytest.mark.parametrize(
    ("given", "differences"),
    [
        (("--learning-rate", 3e-3), ["optimiser.learning_rate is 0.002 in the folder and 0.003 here"]),
        (("--learning-rate", 1e-3), ["optimiser.learning_rate is 0.002 in the folder and 0.001 here"]),  # the default
        (("--steps", 19), ["steps is 20 in the folder and 19 here"]),
        (
            ("--optimiser.clip", 1e-3, "--seed=1", "--layers", 2),
            [
                "model.layers is 1 in the folder and 2 here",
                "optimiser.clip is 0.01 in the folder and 0.001 here",
                "seed is 0 in the folder and 1 here",
            ],
        ),
    ],
)  # fmt: skip
def test_settings_other_than_those_of_the_run_are_named_one_by_one(
    begun, capsys, given, differences
):
    settings = (begun / "settings.json").read_bytes()
    same = (*SMALL, "--learning-rate", 2e-3, "--optimiser.clip", 1e-2)
    for again in (("--resume", begun), (*same, "--out", begun)):
        code, err = run(capsys, "train", *again, *given)
        assert code == 2 and f"({'; '.join(differences)})" in err
    assert names(begun) == ["settings.json"] and (begun / "settings.json").read_bytes() == settings


def test_without_a_folder_or_with_two_or_with_none_of_a_run_there_is_a_sentence(
    begun, tmp_path, capsys
):
    for given, sentence in (
        ((), "--out"),
        (("--resume", begun, "--out", tmp_path / "y"), "--out"),
        (("--out", ""), "empty"),
        (("--resume", ""), "empty"),
        (("--resume", tmp_path / "nowhere"), "there is no folder"),
        (("--resume", tmp_path), "settings.json is missing"),
    ):
        code, err = run(capsys, "train", *given)
        assert code == 2 and sentence in err
    assert names(tmp_path) == ["x"]


def test_a_run_that_cannot_go_on_so_is_as_it_was(again, capsys):
    """With a schedule over the steps, more of them make another optimiser."""
    settings = json.loads((again / "settings.json").read_text())
    settings["optimiser"]["schedule"] = "cosine"
    (again / "settings.json").write_text(json.dumps(settings))
    shutil.rmtree(states_folder(again))
    (again / "metrics.nc").unlink()
    assert run(capsys, "train", "--resume", again)[0] == 0
    before = {path: path.read_bytes() for path in again.rglob("*") if path.is_file()}
    code, err = run(capsys, "train", "--resume", again, "--steps", 30)
    assert code == 2 and "the task, learner or optimiser differ" in err
    assert {path: path.read_bytes() for path in again.rglob("*") if path.is_file()} == before


# Divergence

FAR_TOO_LARGE = (*SMALL, "--learning-rate", 1e30)


def test_a_run_of_which_every_seed_diverges_says_so_is_kept_and_exits_with_1(tmp_path, capsys):
    out = tmp_path / "x"
    code = cli.main([str(a) for a in ("train", *FAR_TOO_LARGE, "--json", "--out", out)])
    printed = capsys.readouterr()
    assert code == 1 and names(out) == FINISHED
    summary = json.loads(printed.out)
    assert summary["ending"] == ["diverged", "diverged"] and summary["loss"] == [None, None]
    for seed, taken in enumerate(summary["steps_taken"]):
        assert f"seed {seed}: diverged" in printed.err and f"step {taken}," in printed.err
    training = load_run(out)[1]
    assert (
        np.isfinite(training.learners.weights.W_Q).all()
        and np.isnan(training.metrics.loss[:, -1]).all()
    )
    assert run(capsys, "train", "--resume", out)[0] == 1  # and nothing is left to train


def test_a_run_of_which_one_seed_has_diverged_names_it_and_exits_with_0(again, capsys):
    metrics = load_dataset(again / "metrics.nc")
    metrics["ending"][1], metrics["steps_taken"][1] = "diverged", 16
    save_dataset(metrics, again / "metrics.nc")
    write_manifest(again, "run", {}, ("settings.json", "weights.safetensors", "metrics.nc"))
    assert cli.main(["train", "--resume", str(again)]) == 0
    assert "diverged: 1 of 2 seeds, after steps [16]" in capsys.readouterr().out


def test_a_study_that_is_stopped_goes_on_with_its_trainings(
    tmp_path, capsys, after_states, monkeypatch
):
    study = Path(__file__).with_name("small_study.py")
    words = f"reproduce {study}/risk --set steps=4000 --store {tmp_path / 'store'}".split()
    asked = (*words, "--out", tmp_path / "r")
    after_states(1, lambda: signal.raise_signal(signal.SIGINT))
    code, err = run(capsys, *asked)
    assert code == 130 and "interrupted" in err and "the same command goes on" in err
    (state, *_) = sorted((tmp_path / "store" / "unfinished").iterdir())
    assert 0 < steps_done(state) < 4000 and not (tmp_path / "r").exists()
    code, err = run(capsys, *asked)
    assert code in (0, 1) and (tmp_path / "r" / "index.html").exists()
    assert list((tmp_path / "store" / "unfinished").iterdir()) == []


def test_no_thread_is_the_first_to_import_dask():
    """SciPy in another thread would find a module that is half imported."""
    pytest.importorskip("dask")
    code = (
        "import sys\n"
        "from mesalens.execution import Cores\n"
        "print('dask.array' in sys.modules)\n"
        "Cores().run([])\n"
        "print('dask.array' in sys.modules)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "True"]
