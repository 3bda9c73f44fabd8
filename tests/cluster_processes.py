"""Schedulers and workers of Dask as processes of their own, on loopback, and units for them.

Tests name it as a plugin and import it too, before pytest could rewrite its assertions:
PYTEST_DONT_REWRITE.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mesalens.execution import Job, Unit

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
        until(self.file.is_file)
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
