"""Where work is done: the cores of this machine.

Work is given as jobs. A job says what has to be done before it; each free core takes the next one.
"""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

from mesalens.environment import cores

TICK = 0.2
"""Seconds between two looks at signals and progress."""


class BusyError(Exception):
    """Another process is doing this work; it is to be tried again."""


@dataclass(eq=False)
class Job:
    """A piece of work, which starts when the jobs that it needs are done.

    `cost` is how long it takes compared to others, and the longest goes first. `share` is how much
    of it is done. `computes` says that it computes without Python for most of its time, as a
    training does; what traces, compiles and draws does not.
    """

    words: str
    work: Callable[["Job"], Any]
    needs: list["Job"] = field(default_factory=list)
    cost: float = 0.0
    computes: bool = False
    share: float = 0.0
    done: bool = False
    result: Any = None


class State(NamedTuple):
    """How far the work is: numbers of jobs, what is running, and the share of all costs done."""

    done: int
    running: int
    waiting: int
    words: list[str]
    share: float


@dataclass
class Cores:
    """Does jobs in threads of this process, as many at once as there are cores.

    A job computes on one core. XLA releases Python's lock while it computes, but tracing holds it:
    so half of the threads prefer jobs that compute, and the others those that do not.
    """

    workers: int = field(default_factory=cores)
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(
        self,
        jobs: Iterable[Job],
        *,
        then: Callable[[Job], Iterable[Job]] = lambda job: (),
        check: Callable[[], object] = lambda: None,
        report: Callable[[State], object] = lambda state: None,
    ) -> None:
        """Does jobs, what they need, and what they lead to.

        Args:
            jobs: What is to be done.
            then: Called in the calling thread with each finished job; gives more jobs.
            check: Called now and then; it may raise an exception to stop the work.
            report: Called now and then with the state.

        Raises:
            Exception: what `check`, `then` or a job raises. Running jobs are asked to stop, by
                `stopping`, and waited for.
        """
        self.stopping.clear()
        queue = _Queue()
        queue.add(jobs)
        running: dict[Future, Job] = {}
        config: Any = jax.config
        double, device = config.jax_enable_x64, config.jax_default_device

        def do(job: Job) -> Any:
            # Both settings are of the calling thread
            with jax.enable_x64(double), jax.default_device(device):
                return job.work(job)

        with ThreadPoolExecutor(self.workers) as pool:
            try:
                while running or queue.left:
                    check()
                    while len(running) < self.workers:
                        python = sum(not job.computes for job in running.values())
                        job = queue.next(prefer_computing=2 * python >= self.workers)
                        if job is None:
                            break
                        running[pool.submit(do, job)] = job
                    finished, _ = wait(running, TICK, FIRST_COMPLETED)
                    if not running:
                        time.sleep(TICK)  # all that is left is being done by another process
                    for future in finished:
                        job = running.pop(future)
                        try:
                            job.result = future.result()
                        except BusyError:
                            queue.later(job)
                            continue
                        job.done, job.share = True, 1.0
                        queue.finish(job)
                        queue.add(then(job))
                    report(queue.state(list(running.values())))
            except BaseException:
                self.stopping.set()
                raise


class _Queue:
    """Jobs that are ready, the longest first, and those that wait."""

    def __init__(self):
        self._ready: dict[bool, list[tuple[float, int, Job]]] = {False: [], True: []}
        self._later: list[tuple[float, Job]] = []
        self._known: set[Job] = set()
        self._followers: dict[Job, list[Job]] = {}
        self._open: dict[Job, int] = {}
        self._numbers = itertools.count()
        self._finished = 0

    @property
    def left(self) -> int:
        return len(self._known) - self._finished

    def add(self, jobs: Iterable[Job]) -> None:
        stack = list(jobs)
        while stack:
            job = stack.pop(0)
            if job in self._known or job.done:
                continue
            self._known.add(job)
            needed = [other for other in dict.fromkeys(job.needs) if not other.done]
            self._open[job] = len(needed)
            for other in needed:
                self._followers.setdefault(other, []).append(job)
            stack.extend(needed)
            if not needed:
                self._push(job)

    def next(self, prefer_computing: bool) -> Job | None:
        now = time.monotonic()
        for entry in [entry for entry in self._later if entry[0] <= now]:
            self._later.remove(entry)
            self._push(entry[1])
        ready = self._ready[prefer_computing] or self._ready[not prefer_computing]
        return heapq.heappop(ready)[2] if ready else None

    def later(self, job: Job) -> None:
        self._later.append((time.monotonic() + 1.0, job))

    def finish(self, job: Job) -> None:
        self._finished += 1
        for follower in self._followers.pop(job, []):
            self._open[follower] -= 1
            if not self._open[follower]:
                self._push(follower)

    def state(self, running: list[Job]) -> State:
        total = sum(job.cost for job in self._known)
        done = sum(job.cost * job.share for job in self._known)
        words = [job.words for job in running]
        waiting = self.left - len(running)
        return State(self._finished, len(running), waiting, words, done / total if total else 1.0)

    def _push(self, job: Job) -> None:
        # The longest first, so that cores end together
        heapq.heappush(self._ready[job.computes], (-job.cost, next(self._numbers), job))
