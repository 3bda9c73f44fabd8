"""What breaks a training's states, or keeps them from being written: nothing is lost, and a line or a sentence says it."""

import json
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from small_training import StoppedError, assert_same, trained

from mesalens import InputError, files
from mesalens.training.checkpoint import (
    LOCK,
    Checkpoint,
    Snapshot,
    checksum,
    read_state,
    states,
    steps_done,
)

pytest_plugins = ["small_training"]
pytestmark = pytest.mark.usefixtures("compiled_once", "kept_at_once")

STATE = {"weights": np.arange(6.0, dtype=np.float32)}


def loss(*values):
    return {"loss": np.array([values])}


@pytest.fixture
def said():
    return []


@pytest.fixture
def keeping(tmp_path, said):
    """A checkpoint with states after 10, 20 and 30 steps, of which the last two are left."""
    keeping = Checkpoint(tmp_path / "kept", {"rate": 0.1, "every": 10}, {"JAX": "1"}, said.append)
    with keeping.held():
        for steps in (10, 20, 30):
            assert keeping.save(
                Snapshot(
                    [0, steps], {"weights": STATE["weights"] * steps}, loss(np.nan, steps), {"a": 2}
                )
            )
    return keeping


def found(keeping):
    """The last point, the weights and the losses that are gone on from."""
    kept = keeping.load(STATE, 100)
    return (
        kept.points[-1],
        np.asarray(kept.state["weights"]).tolist(),
        kept.metrics["loss"].tolist(),
    )


def test_the_last_two_states_are_kept_and_the_newest_is_read(keeping, said):
    assert [file.name for file in states(keeping.folder)] == [
        "000000000030.safetensors",
        "000000000020.safetensors",
    ]
    np.testing.assert_equal(found(keeping), (30, [0, 30, 60, 90, 120, 150], [[np.nan, 30]]))
    assert said == []


@pytest.mark.slow
def test_so_are_those_of_a_training(tmp_path):
    seen = []
    trained(
        tmp_path,
        every=5,
        progress=lambda _: seen.append([int(file.stem) for file in states(tmp_path)]),
    )
    assert seen == [[5], [10, 5], [15, 10], [20, 15], [25, 20]]


# Damage


def rewritten(change):
    """A state that was changed by someone who knows how to make its checksum fit."""

    def rewrite(file):
        about, arrays = read_state(file)
        change(about, arrays)
        text = json.dumps(about)
        file.write_bytes(
            safetensors.numpy.save(arrays, {"about": text, "sha256": checksum(arrays, text)})
        )

    return rewrite


def with_bytes(change):
    return lambda file: file.write_bytes(change(file.read_bytes()))


def flipped(content, place, bit=1):
    return content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]


DAMAGES = {
    "truncated": (with_bytes(lambda content: content[:-9]), "is damaged"),
    "truncated in its header": (with_bytes(lambda content: content[:30]), "is damaged"),
    "empty": (with_bytes(lambda content: b""), "is damaged"),
    "noise": (with_bytes(lambda content: b"x" * 100), "is damaged"),
    "a bit of a tensor": (
        with_bytes(lambda content: flipped(content, len(content) - 1)),
        "checksum",
    ),
    "a bit of the first tensor": (
        with_bytes(
            lambda content: flipped(content, 8 + int.from_bytes(content[:8], "little"), 128)
        ),
        "checksum",
    ),
    "a letter of what is said": (with_bytes(lambda c: c.replace(b"rate", b"rat3")), "checksum"),
    "other arrays": (
        lambda file: safetensors.numpy.save_file({"weights": STATE["weights"]}, file),
        "not the state of a training",
    ),
    "an array less": (rewritten(lambda about, arrays: arrays.pop("state.weights")), "arrays"),
    "no metrics": (rewritten(lambda about, arrays: arrays.pop("metrics.loss")), "is damaged"),
    "no settings": (rewritten(lambda about, arrays: about.pop("training")), "is damaged"),
    "another training": (
        rewritten(lambda about, arrays: about["training"].update(rate=0.2, every=5)),
        "rate is 0.2 in the folder and 0.1 here; every is 5 in the folder and 10 here",
    ),
    "a folder": (lambda file: (file.unlink(), file.mkdir()), "is damaged"),
}


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES.values(), ids=list(DAMAGES))
def test_a_newest_state_that_is_of_no_use_gives_way_to_the_one_before_with_a_line(
    keeping, said, damage, sentence
):
    damage(states(keeping.folder)[0])
    assert found(keeping)[0] == 20
    assert len(said) == 1 and "000000000030.safetensors" in said[0] and sentence in said[0]
    assert "step 20" in said[0]


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES.values(), ids=list(DAMAGES))
def test_two_states_of_no_use_get_a_sentence_and_stay(keeping, said, damage, sentence):
    for file in states(keeping.folder):
        damage(file)
    before = {file.name: file.is_dir() or file.read_bytes() for file in keeping.folder.iterdir()}
    with pytest.raises(InputError) as caught:
        found(keeping)
    words = str(caught.value)
    assert (
        "000000000030.safetensors" in words and sentence in words and str(keeping.folder) in words
    )
    assert {
        file.name: file.is_dir() or file.read_bytes() for file in keeping.folder.iterdir()
    } == before


def test_a_state_that_was_passed_over_takes_no_place_of_the_last_two(keeping, said):
    damage, _ = DAMAGES["another training"]
    damage(states(keeping.folder)[0])
    kept = keeping.load(STATE, 100)
    for steps in (21, 22, 23):
        keeping.save(kept._replace(points=[0, steps]))
    assert [int(file.stem) for file in states(keeping.folder)] == [30, 23, 22]
    with_bytes(lambda content: b"")(states(keeping.folder)[1])
    assert found(keeping)[0] == 22
    keeping.save(kept._replace(points=[0, 30]))
    assert found(keeping)[0] == 30


def test_a_training_goes_on_from_the_state_before_a_damaged_one_and_ends_with_the_same_bits(
    whole, kept, said
):
    with_bytes(lambda content: flipped(content, len(content) - 1))(states(kept)[0])
    done = []
    assert_same(trained(kept, done=done, say=said.append), whole)
    assert done == [20, 25] and len(said) == 1 and "step 10" in said[0]
    said.clear()
    assert_same(trained(kept, say=said.append), whole)
    assert said == []


# Disks


def without_room(*_):
    raise OSError(28, "No space left on device")


def test_what_cannot_be_written_gets_a_sentence_and_leaves_the_older_states(
    tmp_path, kept, whole, monkeypatch
):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file cannot be written"):
        trained(tmp_path / "file")
    before = sorted(path.name for path in kept.iterdir())
    with monkeypatch.context() as full:
        full.setattr(files.os, "fsync", without_room)
        with pytest.raises(InputError, match=r"cannot be written \(No space left.*whole"):
            trained(kept)
    assert sorted(path.name for path in kept.iterdir()) == before and steps_done(kept) == 20
    assert_same(trained(kept), whole)


@pytest.mark.slow
def test_so_it_does_where_the_system_itself_writes_no_more(tmp_path, whole):
    """A file may have 4096 bytes then, and the state has more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(done):
        if done == 10:
            assert states(tmp_path)[0].stat().st_size > 4096
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))

    try:
        with pytest.raises(InputError, match=r"cannot be written \(File too large\)"):
            trained(tmp_path, progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000000010.safetensors", LOCK]
    done = []
    assert_same(trained(tmp_path, done=done), whole)
    assert done == [20, 25]


def test_an_error_of_any_kind_leaves_the_state_after_the_last_steps(tmp_path, monkeypatch):
    monkeypatch.setattr("mesalens.training.checkpoint.SECONDS_BETWEEN_SAVES", 1e9)
    for error in (StoppedError, KeyboardInterrupt, MemoryError):

        def fail(done, error=error):
            if done == 20:
                raise error

        with pytest.raises(error):
            trained(tmp_path / error.__name__, progress=fail)
        assert steps_done(tmp_path / error.__name__) == 20


# Processes


def test_a_second_training_in_one_folder_gets_a_sentence_and_the_first_ends_well(tmp_path, whole):
    def train_again(done):
        before = {file: file.read_bytes() for file in states(tmp_path)}
        with pytest.raises(InputError, match=r"another process is training in"):
            trained(tmp_path)
        assert {file: file.read_bytes() for file in states(tmp_path)} == before

    assert_same(trained(tmp_path, progress=train_again), whole)
    assert_same(trained(tmp_path), whole)


HOLD = """
import filelock, sys
lock = filelock.FileLock(sys.argv[1])
lock.acquire(timeout=0)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_is_free_again_when_the_process_that_trains_in_it_is_killed(kept, whole):
    """What the other process does is what `Checkpoint.held` does, but for imports that take seconds."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, kept / LOCK], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="another process is training in"):
            trained(kept)
        other.send_signal(signal.SIGKILL)
    assert_same(trained(kept), whole)


def test_what_a_process_that_was_killed_left_beside_a_state_is_removed(keeping):
    (keeping.folder / ".000000000040.safetensors.4711").write_bytes(b"half of it")
    (keeping.folder / "mine.txt").write_text("mine")
    with keeping.held():
        names = sorted(path.name for path in keeping.folder.iterdir())
    assert names == ["000000000020.safetensors", "000000000030.safetensors", LOCK, "mine.txt"]
