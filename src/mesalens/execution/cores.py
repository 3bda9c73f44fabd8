"""`Cores`: runs jobs on the cores of this machine."""

import importlib
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import jax

from mesalens.environment import cores
from mesalens.execution.jobs import TICK, BusyError, Group, Job, Place, Queue, State, StoppingError


def as_here() -> Callable[[], AbstractContextManager[Any]]:
    """A context in which another thread uses the device and precision of this one."""
    config: Any = jax.config
    double, device = config.jax_enable_x64, config.jax_default_device

    def context() -> AbstractContextManager[Any]:
        stack = ExitStack()
        stack.enter_context(jax.enable_x64(double))
        stack.enter_context(jax.default_device(device))
        return stack

    return context


@dataclass
class Cores:
    """Runs jobs in threads of this process, each on one core.

    XLA releases Python's lock while it computes, but tracing holds it. So half of the threads
    prefer jobs that compute, and the others jobs that do not.

    Attributes:
        workers: The number of jobs that run at once; by default the number of cores.
        say: Called with messages.
        stopping: Set when running jobs are to stop.
    """

    workers: int = field(default_factory=cores)
    say: Callable[[str], object] = print
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(
        self,
        jobs: Iterable[Job],
        *,
        then: Callable[[Job], Iterable[Job]] = lambda job: (),
        check: Callable[[], object] = lambda: None,
        report: Callable[[State], object] = lambda state: None,
    ) -> None:
        """Runs jobs, the jobs that they need, and the jobs that follow from them.

        Args:
            jobs: The jobs.
            then: Called in the calling thread with each finished job; returns further jobs.
            check: Called regularly; it may raise an exception to stop the work.
            report: Called regularly with the state of the work.

        Raises:
            Exception: what `check`, `then` or a job raises; running jobs are asked to stop, and
                waited for.
        """
        self.stopping.clear()
        queue = Queue()
        queue.add(jobs)
        running: dict[Future, Job] = {}
        here = as_here()

        def do(job: Job) -> Any:
            def tell(share: float) -> None:
                job.share = share
                if self.stopping.is_set():
                    raise StoppingError

            def say(line: str) -> None:
                self.say(f"{job.words}: {line}")

            with here():
                return job.do(lambda folder: Place(folder, tell, say))

        _import_dask()
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                while running or queue.left:
                    check()
                    while len(running) < self.workers:
                        python = sum(not job.computes for job in running.values())
                        computing = 2 * python >= self.workers

                        def rank(group: Group, computing: bool = computing) -> int:
                            return int(group.computes != computing)

                        job = queue.next(rank)
                        if job is None:
                            break
                        running[pool.submit(do, job)] = job
                    finished, _ = wait(running, TICK, FIRST_COMPLETED)
                    if not running:
                        time.sleep(TICK)  # another process is doing all that is left
                    for future in finished:
                        job = running.pop(future)
                        try:
                            job.result = future.result()
                        except BusyError:
                            queue.later(job)
                            continue
                        queue.finish(job)
                        queue.add(then(job))
                    report(queue.state(running.values()))
            except BaseException:
                self.stopping.set()
                raise


def _import_dask() -> None:
    """Imports Dask's arrays where they are installed, as xarray does when it is first used.

    If xarray did so in a thread, SciPy could fail in another: it looks into modules that are only
    half imported.
    """
    with suppress(ImportError):
        importlib.import_module("dask.array")
