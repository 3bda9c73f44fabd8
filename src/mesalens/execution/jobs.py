"""`Job` and `Unit`: pieces of work, and the queue of jobs."""

import contextlib
import heapq
import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mesalens.checks import InputError

TICK = 0.2
"""Seconds between two checks of signals and progress."""


class BusyError(Exception):
    """Another process is doing this work; try again later."""


class StoppingError(Exception):
    """The work was asked to stop; the states of trainings are kept."""


class GivenUpError(InputError):
    """Units were given up because workers died while running them; everything else is done."""


@dataclass(frozen=True)
class Place:
    """Where a unit runs: its folder, and how it reports.

    Args:
        folder: The folder in which it reads and writes files.
        report: Called with the share of the work that is done; raises `StoppingError` if the unit
            is to stop.
        say: Called with messages.
        compiling: A context in which programs are compiled: if several processes of a machine need
            the same programs, the others wait for the first, and load what it stored.
        needs: Called with the memory, in bytes, that the compiled programs need.
        away: Whether the folder is not the one of the session, which may have more results.
    """

    folder: Path
    report: Callable[[float], object] = lambda share: None
    say: Callable[[str], object] = print
    compiling: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    needs: Callable[[float], object] = lambda number: None
    away: bool = False


def no_files() -> dict[str, bytes]:
    """The files of a unit that reads none."""
    return {}


@dataclass(frozen=True, eq=False)
class Unit:
    """Work that any machine can do: `function(place, *arguments())`.

    The function must be importable. Arguments are pickled; large ones (compiled programs) as a
    recipe to create them again.

    Args:
        function: The function; its first argument is a `Place`.
        arguments: Returns the other arguments, once all jobs that it needs are done.
        folder: The folder of its `Place` on this machine.
        programs: Units with equal text share compiled programs.
        files: Returns the files that it reads, for a machine without access to the folder.
        keep: Called with the files that it wrote on such a machine.
    """

    function: Callable[..., Any]
    arguments: Callable[[], tuple[Any, ...]]
    folder: Path
    programs: str = ""
    files: Callable[[], Mapping[str, bytes]] = no_files
    keep: Callable[[Mapping[str, bytes]], object] = lambda files: None


@dataclass(eq=False)
class Job:
    """A piece of work, which starts when the jobs that it needs are done.

    Args:
        words: What it is, in words.
        work: Called in this process with the result of its unit, or with the job if it has none;
            returns the result.
        needs: The jobs that must be done before.
        cost: How long it takes relative to other jobs; the longest runs first.
        computes: Whether it mostly computes outside of Python, as a training does; tracing,
            compiling and drawing do not.
        unit: The part of it that other machines can do.
        prepares: Whether it only prepares this process for other jobs, as compiling does.
        share: The share of the work that is done.
        done: Whether it is finished.
        result: What `work` returned.
        losses: How many workers have died while running its unit.
    """

    words: str
    work: Callable[..., Any]
    needs: list["Job"] = field(default_factory=list)
    cost: float = 0.0
    computes: bool = False
    unit: Unit | None = None
    prepares: bool = False
    share: float = 0.0
    done: bool = False
    result: Any = None
    losses: int = 0

    def do(self, place: Callable[[Path], Place]) -> Any:
        """Runs the job in this process, and returns its result.

        Args:
            place: Returns the `Place` for the folder of its unit.
        """
        if self.unit is None:
            return self.work(self)
        return self.work(self.unit.function(place(self.unit.folder), *self.unit.arguments()))


class State(NamedTuple):
    """The progress of the work.

    Attributes:
        done: The number of finished jobs.
        running: The number of running jobs.
        waiting: The number of other jobs.
        words: The running jobs in words.
        share: The share of the total cost that is done.
        workers: On a cluster, the number of workers.
        lost: On a cluster, how often a unit was lost with its worker.
    """

    done: int
    running: int
    waiting: int
    words: list[str]
    share: float
    workers: int | None = None
    lost: int = 0


class Execution(Protocol):
    """Where jobs run: `Cores` or `Cluster`."""

    def run(
        self,
        jobs: Iterable[Job],
        *,
        then: Callable[[Job], Iterable[Job]] = ...,
        check: Callable[[], object] = ...,
        report: Callable[[State], object] = ...,
    ) -> None:
        """Runs jobs, the jobs that they need, and the jobs that follow from them.

        Args:
            jobs: The jobs.
            then: Called with each finished job; returns further jobs.
            check: Called regularly; it may raise an exception to stop the work.
            report: Called regularly with the state of the work.
        """
        ...


class Group(NamedTuple):
    """Jobs of the same kind, with the same programs."""

    computes: bool
    unit: bool
    prepares: bool
    programs: str


class Queue:
    """Jobs that are ready (the longest of a group first), and jobs that wait for others."""

    def __init__(self):
        self._ready: dict[Group, list[tuple[float, int, Job]]] = {}
        self._later: list[tuple[float, Job]] = []
        self._known: set[Job] = set()
        self._dropped: set[Job] = set()
        self._followers: dict[Job, list[Job]] = {}
        self._open: dict[Job, int] = {}
        self._numbers = itertools.count()
        self._finished = 0
        self._cost = 0.0
        self._spent = 0.0

    @property
    def left(self) -> int:
        """How many jobs are not done."""
        return len(self._known) - self._finished

    @property
    def has_units(self) -> bool:
        """Whether a unit is ready, or may soon be ready."""
        return bool(self._later) or any(group.unit for group in self._ready)

    def known(self) -> list[Job]:
        """All jobs."""
        return list(self._known)

    def add(self, jobs: Iterable[Job]) -> None:
        """Adds jobs, and the jobs that they need."""
        stack = list(jobs)[::-1]
        while stack:
            job = stack.pop()
            if job in self._known or job in self._dropped or job.done:
                continue
            self._known.add(job)
            self._cost += job.cost
            needed = [other for other in dict.fromkeys(job.needs) if not other.done]
            self._open[job] = len(needed)
            for other in needed:
                self._followers.setdefault(other, []).append(job)
            if not self._dropped.isdisjoint(needed):
                self.give_up(job)
                continue
            stack.extend(needed[::-1])
            if not needed:
                self._push(job)

    def next(self, rank: Callable[[Group], int | None]) -> Job | None:
        """The longest job of the groups of the lowest rank; None if all ranks are None."""
        now = time.monotonic()
        for entry in [entry for entry in self._later if entry[0] <= now]:
            self._later.remove(entry)
            self._push(entry[1])
        best: tuple[Any, Group] | None = None
        for group, jobs in self._ready.items():
            if (place := rank(group)) is not None and (
                best is None or (place, jobs[0][:2]) < best[0]
            ):
                best = (place, jobs[0][:2]), group
        if best is None:
            return None
        jobs = self._ready[best[1]]
        job = heapq.heappop(jobs)[2]
        if not jobs:
            del self._ready[best[1]]
        return job

    def later(self, job: Job) -> None:
        """Puts back a job that another process is doing."""
        self._later.append((time.monotonic() + 1.0, job))

    def again(self, job: Job) -> None:
        """Puts back a job that was lost."""
        job.share = 0.0
        self._push(job)

    def finish(self, job: Job) -> None:
        """Marks a job as done; jobs that only waited for it are then ready."""
        job.done, job.share = True, 1.0
        self._finished += 1
        self._spent += job.cost
        self._open.pop(job, None)
        for follower in self._followers.pop(job, []):
            self._open[follower] -= 1
            if not self._open[follower]:
                self._push(follower)

    def give_up(self, job: Job) -> None:
        """Drops a job, and all jobs that need it."""
        dropped = [job]
        while dropped:
            job = dropped.pop()
            if job in self._known:
                self._known.remove(job)
                self._dropped.add(job)
                self._cost -= job.cost
                dropped += self._followers.pop(job, [])

    def state(self, running: Iterable[Job], **others: Any) -> State:
        """The progress of the work."""
        running = list(running)
        spent = self._spent + sum(job.cost * job.share for job in running)
        share = spent / self._cost if self._cost else 1.0
        words = [job.words for job in running]
        waiting = self.left - len(running)
        return State(self._finished, len(running), waiting, words, share, **others)

    def _push(self, job: Job) -> None:
        programs = "" if job.unit is None else job.unit.programs
        group = Group(job.computes, job.unit is not None, job.prepares, programs)
        # The longest job first, so that all cores finish at about the same time
        entry = (-job.cost, next(self._numbers), job)
        heapq.heappush(self._ready.setdefault(group, []), entry)
