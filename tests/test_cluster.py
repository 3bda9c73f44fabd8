"""Units of work on a Dask cluster: the same results, and nothing lost when processes are killed."""

import json
import shutil
import signal
import socket
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from cluster_processes import failing, job, killed, slept, until

import mesalens as ml
from mesalens import InputError
from mesalens.atlas import Session
from mesalens.execution import GivenUpError, Job, connected
from mesalens.execution import cluster as clusters
from mesalens.kinds import load
from mesalens.tasks import Gaussian, LinearFunctions, RegressionTask
from mesalens.training import TrainingSettings
from mesalens.training.checkpoint import steps_done

pytest_plugins = ["cluster_processes"]

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


@pytest.fixture
def unseen(monkeypatch):
    """Workers that see no folder of the client."""
    monkeypatch.setattr(clusters._Run, "_marker", lambda run: None)


# -- The same results -----------------------------------------------------------------------------------------------


def test_a_sweep_has_the_same_bits_on_a_cluster(cluster_of_two, here, tmp_path):
    said, states = Lines(), []
    with connected(cluster_of_two.address, say=said) as cluster:
        there = SETTINGS.train(cluster=cluster, checkpoint=tmp_path, say=said, report=states.append)
    assert_bits_agree(there, here)
    assert "8 runs as 8 units of work, each on one core" in said
    assert steps_done(tmp_path) == 8 * 60 and states[-1].workers == 2 and states[-1].done == 8
    # It goes on without the cluster, of which nothing has to be trained again
    assert_bits_agree(SETTINGS.train(checkpoint=tmp_path, say=said), here)


def test_results_travel_where_no_folder_is_shared(cluster_of_two, here, tmp_path, unseen):
    there = SETTINGS.train(cluster=cluster_of_two.address, checkpoint=tmp_path, say=Lines())
    assert_bits_agree(there, here)
    assert steps_done(tmp_path) == 8 * 60
    folders = [file for file in tmp_path.rglob("*") if file.is_dir() and "run-" in file.name]
    assert len(folders) == 8
    # A worker gets the states that there are
    more = SETTINGS.replaced("steps", 80)
    assert_bits_agree(
        more.train(cluster=cluster_of_two.address, checkpoint=tmp_path, say=Lines()), more.train()
    )


def files_of(store):
    """The weights and tables in a store, by study, name and seed."""
    found = {}
    for folder in sorted((store / "results").glob("*/*")):
        about = json.loads((folder / "manifest.json").read_bytes())
        name = about.get("experiment") or about["result"], about["seed"]
        names = [n for n in about["sha256"] if n.endswith((".safetensors", ".nc", ".txt"))]
        found[name] = {n: about["sha256"][n] for n in names}
    return found


@pytest.mark.parametrize("sees", [True, False])
def test_a_study_has_the_same_results_on_a_cluster(cluster_of_two, tmp_path, monkeypatch, sees):
    if not sees:
        monkeypatch.setattr(clusters._Run, "_marker", lambda run: None)
        monkeypatch.setattr("mesalens.atlas.session.connected", lambda cluster, say, shared: connected(cluster, say=say))
    study = tmp_path / "study_of_mine.py"
    study.write_text((Path(__file__).parent / "small_study.py").read_text())
    said = Lines()
    with Session(tmp_path / "there", cluster=cluster_of_two.address, say=said) as session:
        there = session.reproduce(str(study), budget="full")
    here = Session(tmp_path / "here", say=Lines()).reproduce(str(study), budget="full")
    for a, b in zip(there.verdicts, here.verdicts, strict=True):
        assert a.claim.name == b.claim.name and a.judgement == b.judgement
    mine, theirs = files_of(tmp_path / "here"), files_of(tmp_path / "there")
    assert mine.keys() == theirs.keys() and len(mine) > 10
    for name, digests in mine.items():
        weights = {n: d for n, d in digests.items() if n.endswith(".safetensors")}
        assert weights.items() <= theirs[name].items(), name
    # Everything is taken the next time, wherever
    again = Session(tmp_path / "there", say=Lines()).reproduce(str(study), budget="full")
    assert all(verdict.taken for verdict in again.verdicts)


LEARNER = """
import numpy as np
import mesalens

class Mine(mesalens.Learner):
    shrink: float
    def __call__(self, prompt):
        return self.shrink * mesalens.Ridge(0.5)(prompt)

def predict(xs, ys, queries):
    gram = xs.mT @ xs + 0.7 * np.eye(xs.shape[-1])
    return np.einsum("bd,bdm->bm", queries, np.linalg.solve(gram, xs.mT @ ys))
"""


def test_models_are_identified_by_workers(cluster_of_two, tmp_path):
    """A class of a user's file travels with the file, and the answers are those of one machine."""
    file = tmp_path / "mine.py"
    file.write_text(LEARNER)
    task = RegressionTask(Gaussian(2), LinearFunctions(2), context_length=6)
    models = [ml.Ridge(0.7), load(f"{file}:Mine")(shrink=1.0)]
    options = {"key": ml.random.key(1), "prompts": 1024}
    with connected(cluster_of_two.address, say=Lines()) as cluster:
        there = ml.identify(models, task, cluster=cluster, **options)
        one = ml.identify(f"{file}:predict", task, cluster=cluster, **options)
    here = ml.identify(models, task, **options)
    assert there.content()["seeds"] == here.content()["seeds"]
    assert str(there).replace(str(there.seconds), "") and there.verdict == here.verdict
    assert one.names == ("ridge",)


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
    assert "died; done again" in said and states[-1].lost == 1 and states[-1].workers == 1
    done = numbers(log)
    assert len(done) == 7 and set(done) == set(range(6))  # one of them twice


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
        pytest.raises(GivenUpError, match=r"unit 99 is given up: 3 workers died with it"),
    ):
        cluster.run(jobs)
    assert numbers(tmp_path / "deadly") == [99] * 3
    assert [each.result for each in jobs[2:]] == list(range(8)) and not after.done


def test_an_error_of_a_unit_is_raised_and_the_rest_is_cancelled(cluster_of_two, tmp_path):
    log = tmp_path / "log"
    jobs = [job(failing, tmp_path, 0, cost=2.0), *(job(slept, tmp_path, n, 5.0, log) for n in (1, 2))]
    began = time.monotonic()
    with (
        connected(cluster_of_two.address, say=Lines()) as cluster,
        pytest.raises(ValueError, match="it fails"),
    ):
        cluster.run(jobs)
    assert time.monotonic() - began < 4.5


def test_a_session_cancels_what_it_started_and_nothing_else(cluster_of_two, tmp_path):
    class Stopped(Exception):
        pass

    log = tmp_path / "log"

    def check():
        if len(numbers(log)) == 1:
            raise Stopped

    with connected(cluster_of_two.address, say=Lines()) as cluster:
        other = cluster.client.submit(time.sleep, 3, key="of-somebody-else", workers=[*cluster.client.nthreads()][:1])
        with pytest.raises(Stopped):
            cluster.run([job(slept, tmp_path, n, 60.0, log) for n in range(3)], check=check)
        client = cluster.client
        until(lambda: not [k for keys in client.processing().values() for k in keys if "mesalens" in str(k)], 5)
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
        settings.train(cluster=cluster_of_two.address, checkpoint=tmp_path, say=Lines(), report=report)
    assert 0 < steps_done(tmp_path) < 8 * 200_000
    assert len(list(tmp_path.rglob("*.safetensors"))) >= 2


def test_a_scheduler_that_dies_is_said_and_the_rest_is_done_later(processes, tmp_path, here):
    port = free_port()
    processes.start_scheduler(port)
    processes.start_worker()
    said = Lines()

    def check():
        if steps_done(tmp_path / "x") >= 3 * 60:
            processes.scheduler.kill()

    began = time.monotonic()
    with pytest.raises(InputError, match=r"no longer answers; what was finished is kept"):
        SETTINGS.train(cluster=processes.address, checkpoint=tmp_path / "x", say=said, check=check)
    done = steps_done(tmp_path / "x")
    assert 3 * 60 <= done < 8 * 60 and time.monotonic() - began < 60
    processes.stop()
    processes.start_scheduler(port).start_worker()
    again = SETTINGS.train(cluster=processes.address, checkpoint=tmp_path / "x", say=said)
    assert_bits_agree(again, here)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_a_worker_with_another_version_gets_no_work(processes, tmp_path):
    other = tmp_path / "other" / "mesalens"
    shutil.copytree(Path(ml.__file__).parent, other, ignore=shutil.ignore_patterns("__pycache__"))
    init = other / "__init__.py"
    init.write_text(init.read_text().replace(f'__version__ = "{ml.__version__}"', '__version__ = "9.9"'))
    path = f"{other.parent}:{Path(__file__).parent}"
    processes.start_scheduler()
    wrong = processes.start_worker(PYTHONPATH=path)
    said, log = Lines(), tmp_path / "log"
    jobs = [job(slept, tmp_path, n, 0.1, log) for n in range(3)]

    def check():
        if "gets no work" in said and len(processes.workers) == 1:
            assert not numbers(log)
            processes.start_worker()

    with connected(processes.address, say=said) as cluster:
        cluster.run(jobs, check=check)
    line = next(line for line in said if "gets no work" in line)
    assert f"mesalens 9.9, here {ml.__version__}" in line and "Install the same there" in line
    assert wrong.poll() is None and all(each.done for each in jobs)
