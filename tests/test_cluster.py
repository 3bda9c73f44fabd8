"""Units of work on a Dask cluster: the same results as without, by the command line too."""

import contextlib
import json
import logging
import os
import re
import signal
import time

import distributed
import jax
import numpy as np
import psutil
import pytest
import xarray as xr
from cluster_processes import (
    SETTINGS,
    Lines,
    assert_bits_agree,
    command,
    free_port,
    hide_folders,
    job,
    slept,
    told_cores,
    until,
)
from small_study import STUDY

import mesalens as ml
from mesalens import InputError, cli
from mesalens.atlas import Session
from mesalens.atlas.work import keep_files
from mesalens.execution import address, connected
from mesalens.kinds import load
from mesalens.storage import load_dataset, save_dataset
from mesalens.store import Store
from mesalens.tasks import Gaussian, LinearFunctions, RegressionTask
from mesalens.training import load_run, sweeps
from mesalens.training.checkpoint import steps_done

pytest_plugins = ["cluster_processes"]

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
def test_a_study_has_the_same_results_on_a_cluster(
    cluster_of_two, study_file, tmp_path, monkeypatch, sees
):
    if not sees:
        hide_folders(monkeypatch)
    said = Lines()
    with Session(tmp_path / "there", cluster=cluster_of_two.address, say=said) as session:
        there = session.reproduce(str(study_file), budget="full")
    here = Session(tmp_path / "here", say=Lines()).reproduce(str(study_file), budget="full")
    for a, b in zip(there.verdicts, here.verdicts, strict=True):
        assert a.claim.name == b.claim.name and a.judgement == b.judgement
    mine, theirs = files_of(tmp_path / "here"), files_of(tmp_path / "there")
    assert mine.keys() == theirs.keys() and len(mine) > 10
    for name, digests in mine.items():
        weights = {n: d for n, d in digests.items() if n.endswith(".safetensors")}
        assert weights.items() <= theirs[name].items(), name
    # Everything is taken the next time, wherever
    again = Session(tmp_path / "there", say=Lines()).reproduce(str(study_file), budget="full")
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


@pytest.mark.slow
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


# -- Command line ---------------------------------------------------------------------------------------------------

SMALL = ["--dim", "2", "--context-length", "3", "--steps", "40", "--every", "20"]
SMALL += ["--batch-size", "32", "--seeds", "2", "--vary", "learning_rate=1e-3,3e-2"]


def test_the_command_line_reproduces_and_identifies_on_a_cluster(
    cluster_of_two, study_file, tmp_path, capsys
):
    words = ["--cluster", str(cluster_of_two.file)]
    options = ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "page")]
    asked = ["reproduce", str(study_file), "--budget", "full", "--falsify"]
    assert cli.main([*asked, *options, *words]) == 0
    assert "1 FAIL" in capsys.readouterr().out  # as it should
    run = ["--dim", "2", "--context-length", "3", "--steps", "40", "--every", "20", "--seeds", "2"]
    assert cli.main(["train", *run, "--out", str(tmp_path / "run"), *words]) == 0
    capsys.readouterr()
    few = ["--prompts", "1024", "--json"]
    assert cli.main(["identify", str(tmp_path / "run"), *few, *words]) == 0
    there = json.loads(capsys.readouterr().out)
    assert cli.main(["identify", str(tmp_path / "run"), *few]) == 0
    here = json.loads(capsys.readouterr().out)
    assert [seed["verdict"] for seed in there["seeds"]] == [s["verdict"] for s in here["seeds"]]
    assert there["verdict"] == here["verdict"] and len(there["seeds"]) == 2


def test_results_are_written_without_the_cluster(cluster_of_two, tmp_path):
    """xarray locks files through the client of a process that has one, and fails with it."""
    table = xr.Dataset({"value": ("seed", [1.0, 2.0])})
    with distributed.Client(cluster_of_two.address):
        cluster_of_two.scheduler.send_signal(signal.SIGSTOP)
        try:
            save_dataset(table, tmp_path / "table.nc")
        finally:
            cluster_of_two.scheduler.send_signal(signal.SIGCONT)
    assert load_dataset(tmp_path / "table.nc").identical(table)


def test_what_a_worker_sends_stays_in_its_folder(tmp_path):
    """A worker is trusted to run code, and not to name files."""
    store = Store(tmp_path / "store")
    before = sorted(tmp_path.rglob("*"))
    for path in ("results/aa/../../../x", "../x", "/tmp/x", "results/x", "names/x/y"):
        keep_files(store, {path: b"x"})
        assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(InputError, match="without its manifest"):
        keep_files(store, {"results/aa/aab/weights.safetensors": b"x"})
    assert sorted(tmp_path.rglob("*")) == before
    programs = sweeps.Programs(SETTINGS)
    part = sweeps.Part(0, 0, [0], "program-1-of-2/run-0-0", "a run")
    unit = sweeps._job(programs, part, tmp_path / "state").unit
    for path in ("../000.safetensors", "program-1-of-2/run-0-1/000.safetensors", "/tmp/000"):
        with pytest.raises(InputError, match="which is not a state of a run"):
            unit.keep({path: b"x"})
    assert sorted(tmp_path.rglob("*")) == before


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
    # The tracker of multiprocessing's resources ends by itself
    until(lambda: not [p for p in set(seen) if p.is_running() and p.status() not in dead], 10)
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
        ("local:0", "processes must be at least 1, as in local:4; got local:0"),
        ("local:two", "processes.*got local:two"),
        ("local", "processes.*got local\\."),
        ("nowhere", "'nowhere' is not a cluster, and there is no file of that name; give"),
        ("", "'' is not a cluster"),
        ("FILE", r"no-scheduler.json is not a scheduler file"),
        ("LIST", r"list.json is not a scheduler file"),
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
    monkeypatch.setattr(address.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs Dask: install mesalens\[cluster\]"):
        SETTINGS.train(cluster="local:2")


def test_something_else_than_a_client_gets_a_sentence():
    with pytest.raises(InputError, match=r"dask.distributed.Client.*got int"):
        SETTINGS.train(cluster=3)


def test_what_is_of_this_machine_is_no_option_of_a_cluster(capsys, tmp_path):
    words = ["sweep", *SMALL, "--out", str(tmp_path / "x"), "--cluster", "local:2", "--memory", "1"]
    assert cli.main(words) == 2
    assert "--memory is for this machine" in capsys.readouterr().err


@pytest.mark.slow
def test_a_cluster_without_workers_says_how_long_it_waits(processes, tmp_path):
    processes.start_scheduler()
    said, log = Lines(), tmp_path / "log"
    jobs = [job(slept, tmp_path, 1, 0.0, log)]

    def check():
        if len(said) == 2 and not processes.workers:
            processes.start_worker()

    with connected(processes.address, say=said) as cluster:
        cluster.run(jobs, check=check)
    waits = [
        re.fullmatch(r"waiting for workers at (.*): none after (\d+) s.", line) for line in said
    ]
    assert [found[1] for found in waits[:2]] == [processes.address] * 2
    assert int(waits[0][2]) >= 3 and int(waits[1][2]) >= 6 and jobs[0].done


def test_a_cluster_that_starts_workers_as_needed_sees_what_waits(tmp_path):
    """As those of SLURM and Kubernetes do with `adapt`; it has none at first."""
    log = tmp_path / "log"
    with (
        distributed.LocalCluster(
            n_workers=0,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as started,
        distributed.Client(started) as client,
    ):
        started.adapt(minimum=0, maximum=2, interval="200ms", target_duration="1s")
        states = []
        with connected(client, say=Lines()) as cluster:
            jobs = [job(slept, tmp_path, n, 0.5, log) for n in range(12)]
            cluster.run(jobs, report=states.append)
        assert all(each.done for each in jobs)
        assert max(state.workers for state in states) == 2
        until(lambda: not client.scheduler_info()["workers"] or client.nthreads() == {}, 20)


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
        assert [each for each in asked if each and "GPU" in each] == [
            {"GPU": 1.0, "memory": 8e9}
        ] * 3
        asked.clear()
        SETTINGS.train(cluster=cluster, checkpoint=tmp_path / "x", say=Lines())
        needed = [each["memory"] for each in asked if each and "memory" in each]
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
