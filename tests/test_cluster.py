"""Units of work on a Dask cluster: the same results, and nothing lost when processes are killed."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import distributed
import jax
import numpy as np
import psutil
import pytest
from cluster_processes import failing, job, killed, slept, told_cores, until
from small_study import STUDY
from small_training import StoppedError

import mesalens as ml
from mesalens import InputError, cli
from mesalens.atlas import Session
from mesalens.execution import GivenUpError, Job, connected
from mesalens.execution import cluster as clusters
from mesalens.kinds import load
from mesalens.tasks import Gaussian, LinearFunctions, RegressionTask
from mesalens.training import TrainingSettings, load_run
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
        monkeypatch.setattr(
            "mesalens.atlas.session.connected",
            lambda cluster, say, shared: connected(cluster, say=say),
        )
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
    assert without_seconds(there.content()) == without_seconds(here.content())
    assert there.verdict == "named" and one.names == ("ridge",)


def without_seconds(content):
    if isinstance(content, dict):
        return {name: without_seconds(v) for name, v in content.items() if name != "seconds"}
    return [without_seconds(v) for v in content] if isinstance(content, list) else content


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
    assert "died; it runs again" in said and states[-1].lost == 1 and states[-1].workers == 1
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
        pytest.raises(GivenUpError, match=r"unit 99 is given up: 3 workers died while they ran it"),
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


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


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
    assert f"mesalens 9.9 instead of {ml.__version__}" in line and "Install the versions" in line
    assert wrong.poll() is None and all(each.done for each in jobs)


# -- Command line ---------------------------------------------------------------------------------------------------

SMALL = [
    "--dim",
    "2",
    "--context-length",
    "3",
    "--steps",
    "40",
    "--every",
    "20",
    "--batch-size",
    "32",
    "--seeds",
    "2",
    "--vary",
    "learning_rate=1e-3,3e-2",
]


def command(*words, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "mesalens", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_cluster_of_this_machine_can_be_reached_from_it_alone(tmp_path):
    """Its processes listen on loopback, with certificates, and none is left."""
    with command("sweep", *SMALL, "--out", tmp_path / "there", "--cluster", "local:2") as process:
        main, found, seen = psutil.Process(process.pid), set(), []
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                for part in (main, *main.children(recursive=True)):
                    seen.append(part)
                    listening = [c for c in part.net_connections() if c.status == "LISTEN"]
                    found |= {connection.laddr.ip for connection in listening}
            time.sleep(0.05)
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert found == {"127.0.0.1"} and "4 runs as 4 units of work" in err and "learning_rate" in out
    dead = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)  # where nobody collects orphans
    assert not [part for part in set(seen) if part.is_running() and part.status() not in dead]
    assert cli.main(["sweep", *SMALL, "--out", str(tmp_path / "here")]) == 0
    assert_bits_agree(load_run(tmp_path / "there")[1], load_run(tmp_path / "here")[1])


def test_control_c_stops_a_cluster_and_the_rest_goes_on(cluster_of_two, tmp_path):
    out = tmp_path / "out"
    words = ["train", *SMALL, "--steps", 300_000, "--out", out, "--cluster", cluster_of_two.file]
    with command(*words) as process:
        until(lambda: list(out.rglob("*.safetensors")))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130, err
    assert f"go on with: mesalens train --resume {out} --cluster {cluster_of_two.file}" in err
    done = steps_done(out / "state")
    assert 0 < done < 4 * 300_000 and "Traceback" not in err
    with connected(cluster_of_two.address, say=Lines()) as cluster:
        until(lambda: not any(map(len, cluster.client.processing().values())), 5)


@pytest.mark.parametrize(
    ("cluster", "sentence"),
    [
        ("local:0", "local:0 is not a number of processes, as local:4"),
        ("local:two", "local:two is not a number of processes"),
        ("local", "local is not a number of processes"),
        ("nowhere", "nowhere is not a cluster: give local:4, an address"),
        ("", "empty"),
        ("FILE", r"no-scheduler.json is not the file of a scheduler"),
        ("LIST", r"list.json is not the file of a scheduler"),
        ("tcp://127.0.0.1:PORT", "no scheduler answers at tcp://127.0.0.1:"),
        ("http://127.0.0.1:PORT", "no scheduler answers at http://"),
    ],
)
def test_what_is_no_cluster_gets_a_sentence(tmp_path, capsys, cluster, sentence):
    (tmp_path / "no-scheduler.json").write_text("{}")
    (tmp_path / "list.json").write_text("[1]")
    files = {"FILE": tmp_path / "no-scheduler.json", "LIST": tmp_path / "list.json"}
    word = str(files.get(cluster, cluster)).replace("PORT", str(free_port()))
    began = time.monotonic()
    code = cli.main(["sweep", *SMALL, "--out", str(tmp_path / "out"), "--cluster", word])
    err = capsys.readouterr().err
    assert code == 2 and re.search(sentence, err) and len(err.strip().splitlines()) == 1
    assert time.monotonic() - began < 10 and not (tmp_path / "out").exists()


def test_without_dask_the_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(clusters.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs Dask: install mesalens\[cluster\]"):
        SETTINGS.train(cluster="local:2")


def test_something_else_than_a_client_gets_a_sentence():
    with pytest.raises(InputError, match=r"dask.distributed.Client.*got int"):
        SETTINGS.train(cluster=3)


def test_what_is_of_this_machine_is_no_option_of_a_cluster(capsys, tmp_path):
    words = ["sweep", *SMALL, "--out", str(tmp_path / "x"), "--cluster", "local:2", "--memory", "1"]
    assert cli.main(words) == 2
    assert "--memory is for this machine" in capsys.readouterr().err


def test_a_cluster_without_workers_says_how_long_it_waits(processes, tmp_path):
    processes.start_scheduler()
    said, log = Lines(), tmp_path / "log"
    jobs = [job(slept, tmp_path, 1, 0.0, log)]

    def check():
        if len(said) == 2 and not processes.workers:
            processes.start_worker()

    with connected(processes.address, say=said) as cluster:
        cluster.run(jobs, check=check)
    assert f"waiting for workers at {processes.address}: none after 3 s" in said[0]
    assert "none after 6 s" in said[1] and jobs[0].done


def test_a_store_that_workers_do_not_see_is_refused(cluster_of_two, tmp_path, unseen):
    said = Lines()
    with (
        pytest.raises(InputError, match=r"cannot see .*; give a --store on a file system that"),
        Session(tmp_path / "store", cluster=cluster_of_two.address, say=said) as session,
    ):
        session.reproduce(STUDY, budget="full")


# -- Cores, memory and accelerators ---------------------------------------------------------------------------------


def test_a_unit_asks_for_what_its_worker_has(processes, tmp_path):
    """A GPU, and the memory that XLA says; a worker with several threads does as many units."""
    processes.start_scheduler()
    processes.start_worker("--resources", "GPU=1,memory=8e9", threads=2)
    log = tmp_path / "log"
    asked = []
    with connected(processes.address, say=Lines()) as cluster:
        submit = cluster.client.submit
        cluster.client.submit = lambda *a, **k: (asked.append(k.get("resources")), submit(*a, **k))[
            1
        ]
        cluster.run([job(slept, tmp_path, n, 0.2, log) for n in range(3)])
        assert [each for each in asked if each] == [{"GPU": 1.0, "memory": 8e9}] * 3
        asked.clear()
        SETTINGS.train(cluster=cluster, checkpoint=tmp_path / "x", say=Lines())
        needed = [each["memory"] for each in asked if each]
    assert needed[0] == 8e9 and 1e3 < needed[-1] < 1e8


def test_a_worker_with_several_devices_takes_the_seeds_of_a_point_together(
    processes, tmp_path, here
):
    """As one with an accelerator does; the device is the CPU in two parts here."""
    processes.start_scheduler()
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    processes.start_worker(XLA_FLAGS=flags)
    said = Lines()
    there = SETTINGS.train(cluster=processes.address, checkpoint=tmp_path, say=said)
    assert "8 runs as 4 units of work, each in one program" in said
    assert len(list(tmp_path.rglob("point-*"))) == 4
    for a, b in zip(jax.tree.leaves(there.learners), jax.tree.leaves(here.learners), strict=True):
        if hasattr(a, "dtype"):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-4, atol=1e-6)


def test_a_worker_has_one_core_for_each_unit(processes, tmp_path):
    processes.start_scheduler().start_worker(threads=2)
    jobs = [job(told_cores, tmp_path, n) for n in range(2)]
    with connected(processes.address, say=Lines()) as cluster:
        cluster.run(jobs)
    assert [each.result for each in jobs] == [(1, "8")] * 2  # see `mesalens.__init__` on NPROC


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
    """Each program that is on the disk was compiled by one of four workers."""
    cache = {"MESALENS_PROGRAMS": "on", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    processes.start_scheduler()
    for _ in range(4):
        processes.start_worker(**cache)
    with connected(processes.address, say=Lines()) as cluster:
        until(lambda: len(cluster.client.nthreads()) == 4)
        SETTINGS.train(cluster=cluster, checkpoint=tmp_path / "x", say=Lines())
        programs = list((tmp_path / "cache").rglob("*-cache"))
        assert len(programs) == cluster.compiled >= 2


@pytest.mark.slow
def test_certificates_of_dask_are_used(processes, tmp_path, monkeypatch):
    """Where Dask is set to TLS, as its own settings say, nobody answers without a certificate."""
    security = distributed.Security.temporary()
    (tmp_path / "key.pem").write_text(security.tls_client_key)
    (tmp_path / "cert.pem").write_text(security.tls_client_cert)
    settings = {"DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True"}
    for role in ("CLIENT", "SCHEDULER", "WORKER"):
        settings[f"DASK_DISTRIBUTED__COMM__TLS__{role}__KEY"] = str(tmp_path / "key.pem")
        settings[f"DASK_DISTRIBUTED__COMM__TLS__{role}__CERT"] = str(tmp_path / "cert.pem")
    settings["DASK_DISTRIBUTED__COMM__TLS__CA_FILE"] = str(tmp_path / "cert.pem")
    processes.start_scheduler(
        **settings, **{"DASK_DISTRIBUTED__SCHEDULER__DEFAULT_PROTOCOL": "tls"}
    )
    processes.start_worker(**settings)
    words = ["sweep", *SMALL, "--out", tmp_path / "x", "--cluster", processes.file]
    with command(*words, env=os.environ | settings) as process:
        _, err = process.communicate()
        assert process.returncode == 0, err
    with command(*words[:-3], tmp_path / "y", "--cluster", processes.file) as process:
        _, err = process.communicate()
    assert process.returncode == 2 and "no scheduler answers at tls://" in err
