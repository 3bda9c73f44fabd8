"""`Cores`: does jobs on the cores of this machine."""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

import jax

from mesalens.environment import cores
from mesalens.execution.jobs import TICK, BusyError, Group, Job, Place, Queue, State, StoppingError


def as_here() -> Callable[[], AbstractContextManager[Any]]:
    """What makes another thread compute as this one: where, and in which precision."""
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
    """Does jobs in threads of this process, as many at once as there are cores.

    A job computes on one core. XLA releases Python's lock while it computes, but tracing holds it:
    so half of the threads prefer jobs that compute, and the others those that do not.
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
                        time.sleep(TICK)  # all that is left is being done by another process
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
