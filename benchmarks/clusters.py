"""What a Dask cluster costs: units of a second, a sweep, compiling, and how far it scales.

    python benchmarks/clusters.py [units] [sweep] [compiling] [scaling] [--rounds N] [--out FILE]

Everything runs on this machine. `units` does a thousand units that sleep for a second, on two
threads of one process and on two processes of a cluster. `sweep` times whole commands of 320 runs,
in turns. `compiling` counts programs that are compiled with empty caches. `scaling` lets up to a
thousand threads sleep, and simulates more of what it measured; `--figure` draws
docs/pages/images/clusters.png from the file that `--out` wrote.
"""

import argparse
import heapq
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib
import psutil

from mesalens.environment import environment
from mesalens.execution import Cluster, Cores, Job, Unit, connected

FIGURE = Path(__file__).parent.parent / "docs" / "pages" / "images" / "clusters.png"
PARTS = ("units", "sweep", "compiling", "scaling")


def sleep(place: Any, seconds: float) -> None:
    """A unit of work that leaves the core to others."""
    time.sleep(seconds)


def jobs_of(number: int, seconds: float, folder: Path) -> list[Job]:
    """Units that sleep."""

    def job(place: int) -> Job:
        return Job(f"unit {place}", lambda v: v, unit=Unit(sleep, lambda: (seconds,), folder))

    return [job(place) for place in range(number)]


def timed(where: Any, number: int, seconds: float) -> dict[str, float]:
    """The seconds that units take, and the memory of this process in MB before and after."""
    memory: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        jobs = jobs_of(number, seconds, Path(folder))
        began = time.perf_counter()
        where.run(jobs, report=lambda state: memory.append(psutil.Process().memory_info().rss))
        taken = time.perf_counter() - began
    tenth = max(len(memory) // 10, 1)
    return {"seconds": taken, "MB early": memory[tenth] / 1e6, "MB most": max(memory) / 1e6}


def units(rounds: int) -> dict[str, Any]:
    """A thousand units of a second, on two workers, with Dask and without."""
    number, seconds, workers = 1000, 1.0, 2
    found: dict[str, Any] = {}
    with connected("local:2") as cluster:
        cluster.run(jobs_of(4, 0.0, Path(tempfile.gettempdir())))  # workers have joined
        for name, where in (("two threads", Cores(workers)), ("local:2", cluster)):
            one = timed(where, number, seconds)
            one["ms over"] = 1e3 * (one["seconds"] * workers / number - seconds)
            found[name] = one
            print(name, {key: round(value, 2) for key, value in one.items()}, flush=True)
    return found


def sweep(rounds: int) -> dict[str, Any]:
    """320 runs as whole commands: on the cores of this machine, and on as many workers."""
    runs = ["--vary", "learning_rate=1e-4,3e-4,1e-3,3e-3,1e-2", "--seeds", "64", "--steps", "400"]
    seconds: dict[str, list[float]] = {"here": [], "local:2": []}
    for _ in range(rounds):
        for name, found in seconds.items():
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-m", "mesalens", "sweep", *runs]
                command += ["--out", str(Path(folder) / "out"), "--json"]
                command += ["--cluster", name] if name != "here" else []
                began = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                found.append(time.perf_counter() - began)
                print(f"320 runs, {name}: {found[-1]:.1f} s", flush=True)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    ratios = [b / a for a, b in zip(seconds["here"], seconds["local:2"], strict=True)]
    print(f"ratio {statistics.median(ratios):.3f} [{min(ratios):.3f}..{max(ratios):.3f}]")
    return {"seconds": seconds, "medians": medians, "ratios": ratios}


COMPILING = """
import json, sys, time
from mesalens.execution import connected
from mesalens.training import TrainingSettings

if __name__ == "__main__":
    settings = TrainingSettings(
        steps=100, batch_size=256, seeds=8, vary={"context_length": [5, 10, 20]}
    )
    began = time.perf_counter()
    with connected(sys.argv[1], say=lambda line: None) as cluster:
        settings.train(cluster=cluster, say=lambda line: None)
        print(json.dumps({"programs": cluster.compiled, "seconds": time.perf_counter() - began}))
"""


def compiling(rounds: int) -> dict[str, Any]:
    """How many programs are compiled for 24 runs in three programs, on 1, 2 and 8 workers."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "compiling.py"
        script.write_text(COMPILING)
        for workers in (1, 2, 8):
            cache = Path(folder) / "cache"
            for state in ("empty", "filled"):
                output = subprocess.run(
                    [sys.executable, str(script), f"local:{workers}"],
                    env=os.environ | {"XDG_CACHE_HOME": str(cache)},
                    check=True,
                    capture_output=True,
                ).stdout
                found[f"{workers} workers, {state} cache"] = json.loads(output)
                print(workers, state, json.loads(output), flush=True)
            shutil.rmtree(cache)
    return found


def scaling(rounds: int) -> dict[str, Any]:
    """How busy workers are that sleep, and what a unit costs the client."""
    import distributed

    found: dict[str, Any] = {"points": []}
    with connected("local:1") as cluster:
        cluster.run(jobs_of(2, 0.0, Path(tempfile.gettempdir())))
        found["latency"] = timed(cluster, 500, 0.0)["seconds"] / 500
    for workers in (8, 32, 128, 512, 1000):
        processes = min(workers, 8)
        with (
            distributed.LocalCluster(
                n_workers=processes,
                threads_per_worker=workers // processes,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs=50,
            ) as started,
            distributed.Client(started) as client,
        ):
            cluster = Cluster(client, say=lambda line: None)
            cluster.run(jobs_of(workers, 0.0, Path(tempfile.gettempdir())))
            busy = timed(cluster, 3000, 0.0)["seconds"] / 3000
            for seconds in (1.0, 10.0):
                number = workers * (10 if seconds == 1 else 3)
                taken = timed(cluster, number, seconds)["seconds"]
                point = {"workers": workers, "unit": seconds, "units": number, "seconds": taken}
                point |= {"cost": busy, "busy": number * seconds / workers / taken}
                found["points"].append(point)
                print({k: round(v, 4) for k, v in point.items()}, flush=True)
    found["cost"] = statistics.median(point["cost"] for point in found["points"])
    return found


def simulated(workers: int, unit: float, cost: float, latency: float, turns: int = 20) -> float:
    """The share of time in which workers work, where one client gives them units.

    The client does one thing at a time: it takes all results that have come, and then sends a unit
    to each of these workers. A unit begins half a latency after it was sent, and its result comes
    half a latency after its end.

    Args:
        workers: Their number.
        unit: Seconds of work in a unit.
        cost: Seconds of the client for each unit, half of it to take the result.
        latency: Seconds between a result and the next unit, where nobody else waits.
        turns: Units for each worker.
    """
    heard = [(0.0, place) for place in range(workers)]
    client, end, left = 0.0, 0.0, workers * turns
    while left:
        client, taken = max(client, heard[0][0]), []
        while heard and heard[0][0] <= client and len(taken) < left:
            taken.append(heapq.heappop(heard)[1])
            client += cost / 2
        for place in taken:
            client += cost / 2
            end = max(end, client + latency / 2 + unit)
            heapq.heappush(heard, (client + latency + unit, place))
            left -= 1
    return turns * unit / end


def draw(found: dict[str, Any], file: Path) -> None:
    """The share of time in which workers work, simulated and measured."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    from mesalens import plots

    cost, latency = found["cost"], max(found["latency"] - found["cost"], 0.0)
    numbers = [round(10 ** (k / 8)) for k in range(4, 8 * 4 + 1)]
    with plots.style():
        figure, axes = plt.subplots(figsize=(6.4, 3.8))
        for unit in (1.0, 10.0, 60.0, 600.0):
            shares = [simulated(w, unit, cost, latency, 12) for w in numbers]
            (line,) = axes.plot(numbers, shares, label=f"units of {unit:g} s")
            points = [point for point in found["points"] if point["unit"] == unit]
            axes.plot(
                [point["workers"] for point in points],
                [point["busy"] for point in points],
                "o",
                color=line.get_color(),
            )
        axes.plot([], [], "o", color="grey", label="measured")
        axes.axvline(1000, color="grey", linewidth=0.8, linestyle=":")
        axes.set(
            xscale="log",
            xlabel="workers",
            ylabel="share of time at work",
            ylim=(0, 1.05),
            xlim=(numbers[0], numbers[-1]),
        )
        axes.legend(loc="lower left")
        figure.savefig(file, bbox_inches="tight", dpi=150)
    plt.close(figure)


def main() -> None:
    """Measures what is asked for, prints it, and keeps it in a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path, help="only draw, from the file of --out")
    options = parser.parse_args()
    if options.figure is not None:
        draw(json.loads(options.out.read_text())["scaling"], options.figure)
        return
    known = environment()
    print(", ".join(f"{name}: {value}" for name, value in known.items()))
    before = json.loads(options.out.read_text()) if options.out and options.out.is_file() else {}
    found: dict[str, Any] = before | {"environment": known}
    for name in options.parts:
        measure = {"units": units, "sweep": sweep, "compiling": compiling, "scaling": scaling}
        found[name] = measure[name](options.rounds)
        if options.out is not None:
            options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
