"""Processes of a cluster that are killed, stopped, or wrong: nothing is lost, and no bit changes."""

import shutil
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from cluster_processes import (
    SETTINGS,
    Lines,
    assert_bits_agree,
    failing,
    free_port,
    hide_folders,
    job,
    killed,
    slept,
    until,
)
from small_training import StoppedError

import mesalens as ml
from mesalens import InputError
from mesalens.atlas import Session
from mesalens.execution import GivenUpError, Job, connected
from mesalens.execution import cluster as clusters
from mesalens.training.checkpoint import steps_done

pytest_plugins = ["cluster_processes"]

# -- Faults ---------------------------------------------------------------------------------------------------------


def numbers(log):
    return sorted(map(int, log.read_text().split())) if log.is_file() else []


def test_a_unit_whose_worker_is_killed_is_done_again(processes, tmp_path):
    processes.start_scheduler()
    first, _ = processes.start_worker(), processes.start_worker()
    log, said, states = tmp_path / "log", Lines(), []
    jobs = [job(slept, tmp_path, n, 0.5, log) for n in range(6)]
    waited = []

    def check():
        if not waited and len(numbers(log)) >= 2:
            first.send_signal(signal.SIGKILL)
            waited.append(True)

    with connected(processes.address, say=said) as cluster:
        cluster.run(jobs, check=check, report=states.append)
    assert [each.result for each in jobs] == list(range(6))
    assert (
        "died; the unit will be run again" in said
        and states[-1].lost == 1
        and states[-1].workers == 1
    )
    done = numbers(log)
    assert len(done) == 7 and set(done) == set(range(6))  # one of them twice


@pytest.mark.slow
def test_a_unit_that_waited_for_a_worker_that_died_is_not_lost(processes, tmp_path):
    """Short units are sent ahead; only the one that ran is counted."""
    processes.start_scheduler()
    first, _ = processes.start_worker(), processes.start_worker()
    log, states = tmp_path / "log", []
    jobs = [job(slept, tmp_path, n, 0.3, log) for n in range(40)]

    def check():
        if len(numbers(log)) >= 8 and first.poll() is None:
            first.send_signal(signal.SIGKILL)

    with connected(processes.address, say=Lines()) as cluster:
        cluster.run(jobs, check=check, report=states.append)
    assert [each.result for each in jobs] == list(range(40))
    assert max(state.running for state in states) == 4  # two run, two wait
    assert states[-1].lost == 1 == sum(each.losses for each in jobs)


def test_a_unit_that_kills_its_workers_is_given_up(processes, tmp_path):
    processes.start_scheduler()
    for _ in range(2):
        processes.start_worker(nanny="--nanny")
    log, said = tmp_path / "log", Lines()
    deadly = job(killed, tmp_path, 99, tmp_path / "deadly", cost=2.0)
    after = Job("after it", lambda job: 1 / 0, needs=[deadly])
    jobs = [deadly, after, *(job(slept, tmp_path, n, 0.3, log) for n in range(8))]
    with (
        connected(processes.address, say=said) as cluster,
        pytest.raises(GivenUpError, match=r"unit 99: given up, because 3 workers died"),
    ):
        cluster.run(jobs)
    assert numbers(tmp_path / "deadly") == [99] * 3
    assert [each.result for each in jobs[2:]] == list(range(8)) and not after.done


def test_an_error_of_a_unit_is_raised_and_the_rest_is_cancelled(cluster_of_two, tmp_path):
    log = tmp_path / "log"
    jobs = [
        job(failing, tmp_path, 0, cost=2.0),
        *(job(slept, tmp_path, n, 60.0, log) for n in (1, 2)),
    ]
    began = time.monotonic()
    with (
        connected(cluster_of_two.address, say=Lines()) as cluster,
        pytest.raises(ValueError, match="it fails"),
    ):
        cluster.run(jobs)
    assert time.monotonic() - began < 30


def test_a_session_cancels_what_it_started_and_nothing_else(cluster_of_two, tmp_path):
    log = tmp_path / "log"

    def check():
        if len(numbers(log)) == 1:
            raise StoppedError

    with connected(cluster_of_two.address, say=Lines()) as cluster:
        other = cluster.client.submit(
            time.sleep, 3, key="of-somebody-else", workers=[*cluster.client.nthreads()][:1]
        )
        with pytest.raises(StoppedError):
            cluster.run([job(slept, tmp_path, n, 60.0, log) for n in range(3)], check=check)
        client = cluster.client
        until(
            lambda: (
                not [
                    k for keys in client.processing().values() for k in keys if "mesalens" in str(k)
                ]
            ),
            5,
        )
        assert other.status in ("pending", "finished") and other.result(timeout=10) is None
    # Its worker is free again
    with connected(cluster_of_two.address, say=Lines()) as cluster:
        jobs = [job(slept, tmp_path, n, 0.0, log) for n in range(4)]
        cluster.run(jobs)
        assert all(each.done for each in jobs)


def test_a_stopped_sweep_keeps_what_its_workers_have(cluster_of_two, tmp_path, unseen):
    """States travel home, so that the same command goes on from there."""
    settings = SETTINGS.replaced("steps", 200_000)
    reached = []

    def report(state):
        reached.append(state.share)
        if state.share > 0.001:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        settings.train(
            cluster=cluster_of_two.address, checkpoint=tmp_path, say=Lines(), report=report
        )
    assert 0 < steps_done(tmp_path) < 8 * 200_000
    assert len(list(tmp_path.rglob("*.safetensors"))) >= 2


@pytest.mark.slow
def test_a_scheduler_that_dies_is_said_and_the_rest_is_done_later(
    processes, tmp_path, here, monkeypatch
):
    monkeypatch.setattr(clusters, "ANSWERS_WITHIN", 2.0)
    port = free_port()
    processes.start_scheduler(port)
    processes.start_worker()
    said = Lines()

    def check():
        if steps_done(tmp_path / "x") >= 3 * 60:
            processes.scheduler.kill()

    began = time.monotonic()
    with pytest.raises(
        InputError, match=r"no longer answers; what was finished is kept, and the same"
    ):
        SETTINGS.train(cluster=processes.address, checkpoint=tmp_path / "x", say=said, check=check)
    done = steps_done(tmp_path / "x")
    assert 3 * 60 <= done < 8 * 60 and time.monotonic() - began < 60
    processes.stop()
    processes.start_scheduler(port).start_worker()
    again = SETTINGS.train(cluster=processes.address, checkpoint=tmp_path / "x", say=said)
    assert_bits_agree(again, here)


def test_a_worker_with_another_version_gets_no_work(processes, tmp_path):
    other = tmp_path / "other" / "mesalens"
    shutil.copytree(Path(ml.__file__).parent, other, ignore=shutil.ignore_patterns("__pycache__"))
    init = other / "__init__.py"
    init.write_text(
        init.read_text().replace(f'__version__ = "{ml.__version__}"', '__version__ = "9.9"')
    )
    path = f"{other.parent}:{Path(__file__).parent}"
    processes.start_scheduler()
    wrong = processes.start_worker(PYTHONPATH=path)
    said, log = Lines(), tmp_path / "log"
    jobs = [job(slept, tmp_path, n, 0.1, log) for n in range(3)]

    def check():
        if "is not used" in said and len(processes.workers) == 1:
            assert not numbers(log)
            processes.start_worker()

    with connected(processes.address, say=said) as cluster:
        cluster.run(jobs, check=check)
    line = next(line for line in said if "is not used" in line)
    assert f"mesalens 9.9, not {ml.__version__}" in line and "Install the same versions" in line
    assert wrong.poll() is None and all(each.done for each in jobs)


# -- Longer ---------------------------------------------------------------------------------------------------------

LONGER = SETTINGS.replaced("steps", 3000).replaced("every", 100)


@pytest.fixture(scope="module")
def longer_here():
    return LONGER.train()


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(10))
@pytest.mark.parametrize("sees", [True, False])
def test_a_worker_killed_at_any_moment_changes_no_bit(
    processes, tmp_path, longer_here, monkeypatch, moment, sees
):
    if not sees:
        monkeypatch.setattr(clusters._Run, "_marker", lambda run: None)
    processes.start_scheduler()
    first, _ = processes.start_worker(), processes.start_worker()
    seconds = np.random.default_rng([moment, sees]).uniform(0.0, 8.0)
    began, said = time.monotonic(), Lines()

    def check():
        if time.monotonic() - began > seconds and first.poll() is None:
            first.send_signal(signal.SIGKILL)

    there = LONGER.train(
        cluster=processes.address, checkpoint=tmp_path / "x", say=said, check=check
    )
    assert_bits_agree(there, longer_here)


@pytest.mark.slow
@pytest.mark.parametrize("sees", [True, False])
def test_a_study_whose_worker_is_killed_has_the_same_verdicts(
    processes, study_file, tmp_path, monkeypatch, sees
):
    if not sees:
        hide_folders(monkeypatch)
    processes.start_scheduler()
    first, _ = processes.start_worker(), processes.start_worker()

    def report(state):
        if state.done >= 4:
            first.send_signal(signal.SIGKILL)

    with Session(
        tmp_path / "there", cluster=processes.address, say=Lines(), report=report
    ) as session:
        there = session.reproduce(str(study_file), budget="full")
    here = Session(tmp_path / "here", say=Lines()).reproduce(str(study_file), budget="full")
    assert first.poll() is not None
    for a, b in zip(there.verdicts, here.verdicts, strict=True):
        assert a.claim.name == b.claim.name and a.judgement == b.judgement


@pytest.mark.slow
def test_a_unit_goes_on_from_its_last_state_where_all_see_the_folder(processes, tmp_path):
    processes.start_scheduler()
    first, _ = processes.start_worker(), processes.start_worker()
    settings = SETTINGS.replaced("vary", {}).replaced("seeds", 1).replaced("steps", 200_000)
    states = tmp_path / "run-0-0"
    kept = []

    def check():
        if not kept and steps_done(states) > 0:
            kept.append(steps_done(states))
            for process in processes.workers:  # the one that has it
                if psutil.Process(process.pid).cpu_percent(0.3) > 50:
                    process.send_signal(signal.SIGKILL)

    shares = []
    there = settings.train(
        cluster=processes.address,
        checkpoint=tmp_path,
        say=Lines(),
        check=check,
        report=lambda state: shares.append((state.lost, state.share)),
    )
    after = [share for lost, share in shares if lost and share > 0]
    assert kept and after[0] >= kept[0] / 200_000  # it was not begun anew
    assert first is not None and np.isfinite(there.metrics.loss[0, -1])


@pytest.mark.slow
def test_a_thousand_units_need_no_memory_of_the_client(tmp_path):
    log, sizes = tmp_path / "log", []
    jobs = [job(slept, tmp_path, n, 0.02, log) for n in range(1000)]

    def report(state):
        sizes.append((state.done, psutil.Process().memory_info().rss))

    with connected("local:2", say=Lines()) as cluster:
        cluster.run(jobs, report=report)
    assert [each.result for each in jobs] == list(range(1000))
    early = max(size for done, size in sizes if done < 300)
    assert max(size for _, size in sizes) < early + 30e6


@pytest.mark.slow
def test_programs_are_compiled_once_for_each_machine(processes, tmp_path):
    """Each program of the trainings is compiled by one of four workers, and loaded by others."""
    cache = {"MESALENS_PROGRAMS": "on", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    cache["JAX_LOGGING_LEVEL"] = "DEBUG"
    processes.start_scheduler()
    for _ in range(4):
        processes.start_worker(**cache)
    with connected(processes.address, say=Lines()) as cluster:
        until(lambda: len(cluster.client.nthreads()) == 4)
        SETTINGS.train(cluster=cluster, checkpoint=tmp_path / "x", say=Lines())
        assert cluster.compiled >= 2
    logs = [log.read_text() for log in processes.folder.glob("worker-*.log")]
    lines = [line for log in logs for line in log.splitlines()]
    programs = ("jit_advance", "jit_measure")  # what draws initial weights is small, and shared
    kept = [line.split()[-1] for line in lines if "Writing jit_" in line]
    kept = [key for key in kept if key.strip("'").startswith(programs)]
    users = [log for log in logs if "jit_advance" in log]
    assert 2 <= len(kept) == len(set(kept)) and len(users) == 4


class Lost:
    """A future of Dask that was done, and whose worker goes before its result has come."""

    key, status, timeouts = "a key", "finished", 0

    def __init__(self, comes):
        self.comes, self.callbacks = comes, []

    def result(self, timeout=None):
        assert timeout is not None  # or it would be waited for without end
        self.timeouts += 1
        if self.comes and self.timeouts > 1:
            return "the result"
        self.status = "finished" if self.comes else "lost"
        raise TimeoutError

    def add_done_callback(self, callback):
        self.callbacks.append(callback)


def test_a_result_whose_worker_goes_before_it_comes_is_not_waited_for():
    run = object.__new__(clusters._Run)
    run.futures, run.local, run.finished, run.jobs = {}, {}, None, {7: "a job"}
    run.finished = type("Queue", (), {"put": print})()
    gone, member = Lost(comes=False), object()
    run.futures[gone.key] = gone, ("a job", 7, member)
    run._take(gone)
    assert run.futures[gone.key] == (gone, ("a job", 7, member)) and run.jobs == {7: "a job"}
    assert len(gone.callbacks) == 1  # it is taken when it is done again, or `look` takes it away
    slow = Lost(comes=True)
    assert run._result(slow, None)() == "the result" and slow.timeouts == 2
