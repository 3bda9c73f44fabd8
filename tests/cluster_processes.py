"""Schedulers and workers of Dask as processes of their own, on loopback, and units for them.

Tests name it as a plugin and import it too, before pytest could rewrite its assertions:
PYTEST_DONT_REWRITE.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from mesalens.execution import Job, Unit, cluster
from mesalens.training import TrainingSettings

QUIET = {"DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "critical"}


class Processes:
    """A scheduler and workers, which are killed at the end."""

    def __init__(self, folder):
        self.folder, self.file, self.address = folder, folder / "scheduler.json", ""
        self.scheduler, self.workers = None, []
        self.environment = os.environ | QUIET | {"PYTHONPATH": str(Path(__file__).parent)}

    def start(self, name, *words, log=None, **environment):
        command = [sys.executable, "-m", f"distributed.cli.dask_{name}", "--no-dashboard"]
        with (self.folder / f"{log or name}.log").open("ab") as stream:
            return subprocess.Popen(
                [*command, *map(str, words)],
                cwd=self.folder,
                env=self.environment | environment,
                stdout=stream,
                stderr=stream,
            )

    def start_scheduler(self, port=0, **options):
        self.file.unlink(missing_ok=True)
        at = ("--host", "127.0.0.1", "--port", port, "--scheduler-file", self.file)
        self.scheduler = self.start("scheduler", *at, **options)
        until(lambda: self.file.is_file() and self.file.read_text().endswith("}"))
        self.address = json.loads(self.file.read_text())["address"]
        return self

    def start_worker(self, *words, threads=1, nanny="--no-nanny", **options):
        self.workers.append(
            self.start(
                "worker",
                *("--scheduler-file", self.file, "--host", "127.0.0.1", "--nthreads", threads),
                *("--local-directory", self.folder / "scratch", nanny, *words),
                log=f"worker-{len(self.workers)}",
                **options,
            )
        )
        return self.workers[-1]

    def stop(self):
        for process in (*self.workers, self.scheduler):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


def until(true, seconds=60):
    """Waits until a function gives something true."""
    ends = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < ends
        time.sleep(0.02)
    return found


@pytest.fixture
def processes(tmp_path):
    folder = tmp_path / "dask"
    folder.mkdir()
    processes = Processes(folder)
    yield processes
    processes.stop()


@pytest.fixture(scope="module")
def cluster_of_two(tmp_path_factory):
    """A scheduler with two workers, for tests that kill none."""
    processes = Processes(tmp_path_factory.mktemp("dask")).start_scheduler()
    for _ in range(2):
        processes.start_worker()
    yield processes
    processes.stop()


# -- A small sweep -------------------------------------------------------------------------------------------------

SETTINGS = TrainingSettings(
    task={"dim": 2, "context_length": 3},
    steps=60,
    every=20,
    batch_size=32,
    seeds=2,
    vary={"learning_rate": [1e-3, 3e-2], "context_length": [3, 4]},
)


class Lines(list):
    """Lines that were said."""

    def __call__(self, line):
        self.append(line)

    def __contains__(self, words):
        return any(words in line for line in self)


def assert_bits_agree(one, other):
    for a, b in zip(jax.tree.leaves(one.learners), jax.tree.leaves(other.learners), strict=True):
        if hasattr(a, "dtype"):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert one.metrics.equals(other.metrics)
    for name in ("ending", "steps_taken"):
        assert (one.metrics[name] == other.metrics[name]).all()


@pytest.fixture(scope="module")
def here():
    return SETTINGS.train()


def hide_folders(monkeypatch):
    """Workers that see no folder of the client, and sessions that do not insist that they do."""
    monkeypatch.setattr(cluster._Run, "_marker", lambda run: None)
    monkeypatch.setattr(
        "mesalens.atlas.session.connected",
        lambda where, say, shared: cluster.connected(where, say=say),
    )


@pytest.fixture
def unseen(monkeypatch):
    """Workers that see no folder of the client."""
    monkeypatch.setattr(cluster._Run, "_marker", lambda run: None)


@pytest.fixture
def study_file(tmp_path):
    """A study in a file of a user."""
    file = tmp_path / "study_of_mine.py"
    file.write_text(Path(__file__).with_name("small_study.py").read_text())
    return file


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def command(*words, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "mesalens", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


# -- Units ----------------------------------------------------------------------------------------------------------


def slept(place, number, seconds, log):
    """Sleeps, and notes in a file that it did."""
    with log.open("a") as file:
        file.write(f"{number}\n")
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        place.report(1 - max(ends - time.monotonic(), 0) / max(seconds, 1e-9))
        time.sleep(min(0.02, seconds))
    return number


def killed(place, number, log):
    """Kills the process that does it."""
    with log.open("a") as file:
        file.write(f"{number}\n")
    os.kill(os.getpid(), signal.SIGKILL)


def written(place, number):
    (place.folder / f"{number}.txt").write_text(str(number))
    return number


def failing(place, number):
    raise ValueError("it fails")


def job(function, folder, number, *arguments, keep=lambda files: None, cost=1.0, **options):
    unit = Unit(function, lambda: (number, *arguments), folder, keep=keep)
    return Job(f"unit {number}", lambda value: value, cost=cost, unit=unit, **options)


def told_cores(place, number):
    from mesalens.environment import cores

    return cores(), os.environ["NPROC"]
