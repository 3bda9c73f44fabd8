"""A training whose process is killed twenty times, at random moments and in the middle of writing, ends with the bits of one that was not.

A process that imports JAX takes seconds to start. So one is started, and forks a child for each attempt: JAX can be forked before
anything is computed, as it has no threads until then. Each child is a process of its own, which knows of the others by the folder alone.
"""

import gc
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import jax
import pytest
import xarray as xr
from jax._src import xla_bridge
from small_training import trained

from mesalens.storage import load_dataset, save_arrays, save_dataset
from mesalens.training import checkpoint

pytest_plugins = ["small_training"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no process can be forked here"),
]

EVERY, CHUNKS = 5, 240
MOMENTS = (
    "while it starts",
    "after its first state",
    "in a state",
    "before its name",
    "after its name",
)
"""Moments of the first two kinds are random in time, of the others in the number of the state that is written then: while the file beside is
written, before this takes the name of the state, and right after."""
TIMED = MOMENTS[:2]
TIMES = (5, 9, 2, 2, 2)
"""How often of each kind."""


def attempt(folder=None, steps=EVERY * CHUNKS, **options):
    return trained(folder, every=EVERY, steps=steps, **options)


# The process that forks


def fork(child):
    """The number of a process in which `child(tell)` goes on, and the end of a pipe where what it tells comes out."""
    if xla_bridge.backends_are_initialized() or len(list(Path("/proc/self/task").glob("*"))) > 1:
        raise RuntimeError("JAX computes already, and cannot be forked any more")
    told, tell = os.pipe()
    process = os.fork()
    if process:
        os.close(tell)
        return process, told
    code = 1
    try:
        checkpoint.SECONDS_BETWEEN_SAVES = 0
        child(lambda word: os.write(tell, f"{word}\n".encode()))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(process, told):
    """What a child told, and whether it was killed; raises where it ended with an error."""
    words = b""
    while some := os.read(told, 4096):
        words += some
    os.close(told)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"an attempt ended with code {code}")
    return words.decode().split(), code == -signal.SIGKILL


def keep(training, folder):
    folder.mkdir()
    save_arrays(training.learners, folder / "weights.safetensors")
    save_dataset(training.metrics, folder / "metrics.nc")


def killed_in_writing(how, number, share):
    """Has the process kill itself at the state of this number. For each, two things are synced: the file, and the names in the folder."""
    synced, sync = 0, os.fsync

    def fsync(file):
        nonlocal synced
        synced += 1
        if synced == 2 * number - (how != "after its name"):
            if how == "in a state":
                os.truncate(file, int(share * os.fstat(file).st_size))
            os.kill(os.getpid(), signal.SIGKILL)
        sync(file)

    os.fsync = fsync


def main(folder, seed):
    """Trains without and with interruptions, and leaves both results and a log of all that was killed."""
    chance, states, parent = random.Random(seed), folder / "states", os.getpid()

    def uninterrupted(tell):
        keep(
            attempt(progress=lambda done: done in (EVERY, 26 * EVERY) and tell(time.monotonic())),
            folder / "whole",
        )

    gc.disable()  # it takes a third of the time that children need to start
    begun = time.monotonic()
    first, later = map(float, ended(*fork(uninterrupted))[0])
    seconds = {"while it starts": first - begun, "after its first state": later - first}
    hows = [how for how, times in zip(MOMENTS, TIMES, strict=True) for _ in range(times)]
    chance.shuffle(hows)
    log = []
    for count, how in enumerate(hows, 1):
        number, share, after = (
            chance.randrange(3, 9),
            chance.uniform(0, 0.9),
            chance.uniform(0, seconds.get(how, 0)),
        )
        # On however fast a machine, something is left to do after the last
        most = EVERY * CHUNKS * count // (len(hows) + 4)

        def killed(tell, how=how, number=number, share=share, most=most):
            def progress(done):
                tell(done)
                while how in TIMED and done >= most and os.getppid() == parent:
                    time.sleep(0.1)

            jax.config.update(
                "jax_persistent_cache_min_compile_time_secs", 1e9
            )  # what is written there is not our subject
            if how not in TIMED:
                killed_in_writing(how, number, share)
            attempt(states, progress=progress)
            tell("finished")

        process, told = fork(killed)
        if how in TIMED:
            if how != "while it starts":
                os.read(told, 1)
            time.sleep(after)
            os.kill(process, signal.SIGKILL)
        words, was_killed = ended(process, told)
        names = sorted(path.name for path in states.iterdir()) if states.exists() else []
        log.append(
            {
                "how": how,
                "killed": was_killed and "finished" not in words,
                "steps": checkpoint.steps_done(states),
                "states": [
                    (states / name).stat().st_size
                    for name in names
                    if name.endswith(".safetensors")
                ],
                "unfinished": [
                    (states / name).stat().st_size for name in names if ".safetensors." in name
                ],
            }
        )
    (folder / "log.json").write_text(json.dumps(log))
    ended(*fork(lambda _: keep(attempt(states), folder / "killed")))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))


# The tests


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, seed = tmp_path_factory.mktemp("killed"), random.SystemRandom().randrange(2**32)
    own = {
        "JAX_PLATFORMS": jax.default_backend(),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "OPENBLAS_NUM_THREADS": "1",  # or importing NumPy begins threads
    }
    command = [sys.executable, __file__, str(folder), str(seed)]
    answer = subprocess.run(
        command, env=os.environ | own, capture_output=True, text=True, timeout=400, check=False
    )
    assert answer.returncode == 0, f"seed {seed}: {answer.stderr}"
    return folder


def test_twenty_processes_were_killed_before_they_had_finished(folder):
    log = json.loads((folder / "log.json").read_text())
    assert len(log) == 20 and all(kill["killed"] for kill in log), log
    steps = [kill["steps"] for kill in log]
    assert steps == sorted(steps) and steps[-1] < EVERY * CHUNKS, (
        log
    )  # nothing that was kept is lost, and something is left
    assert len(set(steps) - {0}) >= 20 - TIMES[0], log
    in_a_state = [kill for kill in log if kill["how"] == "in a state"]
    before = [kill for kill in log if kill["how"] == "before its name"]
    after = [kill for kill in log if kill["how"] == "after its name"]
    for kill in in_a_state + before:
        assert len(kill["states"]) == 2 and len(kill["unfinished"]) == 1, log
        assert (kill["unfinished"][0] < kill["states"][-1]) == (kill["how"] == "in a state"), log
    assert all(kill["unfinished"] == [] and len(kill["states"]) == 3 for kill in after), log


def test_weights_and_metrics_are_those_of_a_training_that_was_not_killed(folder):
    whole, killed = folder / "whole", folder / "killed"
    assert (killed / "weights.safetensors").read_bytes() == (
        whole / "weights.safetensors"
    ).read_bytes()
    xr.testing.assert_identical(
        load_dataset(killed / "metrics.nc"), load_dataset(whole / "metrics.nc")
    )


def test_two_processes_get_the_same_bits_from_the_same_seed(folder, compiled_once):
    here, there = attempt(steps=10 * EVERY).metrics, load_dataset(folder / "whole" / "metrics.nc")
    xr.testing.assert_identical(
        here.drop_vars("steps_taken"), there.isel(step=slice(11)).drop_vars("steps_taken")
    )


STUDY = Path(__file__).with_name("small_study.py")
CARRY_OUT = """
import sys
from mesalens.training import checkpoint
checkpoint.SECONDS_BETWEEN_SAVES = 0
from mesalens.cli import main
sys.exit(main(sys.argv[1:]))
"""


def carry_out(store, out, programs):
    """A process that carries out a claim about two units."""
    words = f"{STUDY}/risk --seeds 2 --set steps=6000 --store {store} --out {out}".split()
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(programs)}
    command = [sys.executable, "-c", CARRY_OUT, "reproduce", *words]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def weights(store):
    """The bytes of all weights in a store, by the seed."""
    manifests = sorted((store / "results").glob("*/*/manifest.json"))
    about = {file.parent: json.loads(file.read_text()) for file in manifests}
    return {
        each["seed"]: (folder / "weights.safetensors").read_bytes()
        for folder, each in about.items()
        if each["kind"] == "unit"
    }


def test_units_of_a_study_that_is_killed_twenty_times_end_with_the_same_bits(tmp_path):
    chance, programs = random.Random(5), tmp_path / "programs"
    assert carry_out(tmp_path / "whole", tmp_path / "a", programs).wait() in (0, 1)
    killed, states = 0, tmp_path / "store" / "unfinished"

    def newest():
        return sorted(states.glob("*/*.safetensors"))[-1:]

    while killed < 20:
        before, process = newest(), carry_out(tmp_path / "store", tmp_path / "b", programs)
        while newest() == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.05))
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        killed += 1
    assert killed == 20
    assert carry_out(tmp_path / "store", tmp_path / "b", programs).wait() in (0, 1)
    assert weights(tmp_path / "store") == weights(tmp_path / "whole")
    assert len(weights(tmp_path / "whole")) == 2 and list(states.iterdir()) == []
