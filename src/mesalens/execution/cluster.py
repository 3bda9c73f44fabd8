"""`Cluster`: runs jobs on the workers of a Dask cluster.

Dask starts processes, finds out which are alive, and transports work and results. Which unit goes
to which worker is decided here, because a unit needs its own core, should run where its programs
are already compiled, and must be distinguished from units that are lost with the same worker.
"""

import contextlib
import itertools
import math
import os
import queue as queues
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from mesalens import user_files
from mesalens.checks import InputError
from mesalens.environment import NUMBERS, cores, environment
from mesalens.execution import worker as workers
from mesalens.execution.address import (
    ANSWERS_WITHIN,
    Client,
    ClusterError,
    client_at,
    dask_distributed,
)
from mesalens.execution.cores import as_here
from mesalens.execution.jobs import (
    TICK,
    BusyError,
    GivenUpError,
    Group,
    Job,
    Queue,
    State,
    Unit,
)
from mesalens.program_cache import Programs, count_elsewhere

SILENT_FOR = 60.0
"""Seconds without an answer after which a connected scheduler counts as gone."""

LOOKS_EVERY = 1.0
"""Seconds between two checks of the list of workers, if no change was reported."""

MOST_LOSSES = 3
"""A unit is given up when this number of workers have died while running it."""

MOST_ASKED = 200
"""The largest number of waiting units shown to a cluster that starts workers on demand."""

SHORT = 5.0
"""Units that take fewer seconds are sent before the worker is free, so that it need not wait."""

STOPS_WITHIN = 20.0
"""Seconds within which units that are asked to stop must return their states."""

TRANSFER = 5.0
"""Seconds after which it is checked whether the worker that has a result still exists."""

VERSIONS = ("mesalens", "code", "JAX", "jaxlib", "Equinox", "Optax", "NumPy")
"""Versions that must be equal here and on a worker."""


@dataclass(eq=False)
class Member:
    """A worker that was asked to join, and what it is doing."""

    address: str
    threads: int
    resources: dict[str, float]
    about: workers.About | None = None
    refused: bool = False
    running: list[Job] = field(default_factory=list)
    programs: set[str] = field(default_factory=set)

    def can_take(self, ahead: int) -> bool:
        """Whether it can take a unit if `ahead` may wait; a unit that was lost twice runs alone."""
        wary = any(job.losses + 1 >= MOST_LOSSES for job in self.running)
        most = self.threads + ahead
        return self.about is not None and len(self.running) < most and not wary


class Cluster:
    """Runs the units of jobs on the workers of a Dask cluster, and the rest in this process.

    A worker runs as many units at once as it has threads, each on one core. If it has access to the
    folder of a unit, it writes there; otherwise files are sent. If a worker dies, its units are run
    again elsewhere, from their last states if these are in a folder to which all have access.

    Args:
        client: A `dask.distributed.Client`.
        say: Called with messages.
        shared: Whether all workers must have access to the folders; by default they need not.

    Attributes:
        address: The address of the scheduler.
        members: The workers, by address.
        lost: How often a unit was lost with its worker.
        compiled: The number of programs that workers have compiled.
        leaving: The addresses of workers that ended as planned.

    Raises:
        ValueError: if Dask is not installed, or the client is unusable.
    """

    def __init__(
        self, client: Client, *, say: Callable[[str], object] = print, shared: bool = False
    ):
        if not isinstance(client, dask_distributed().Client) or client.asynchronous:
            raise InputError(
                "cluster must be a dask.distributed.Client that is not asynchronous, an address, "
                f"local:N or a scheduler file; got {type(client).__name__}."
            )
        if client.status != "running":
            raise ClusterError(f"the client of the cluster is {client.status}; create a new one.")
        self.client, self.say, self.shared = client, say, shared
        self.address = str(client.scheduler.address)
        self.members: dict[str, Member] = {}
        self.lost = self.compiled = 0
        self.leaving: set[str] = set()
        self._bytes: dict[str, float] = {}
        self._changed = threading.Event()
        self._looked = 0.0

    @property
    def one_cpu(self) -> bool:
        """Whether all workers that have joined compute on one CPU only."""
        return all(member.about.one_cpu for member in self.members.values() if member.about)

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
            then: Called with each finished job; returns further jobs.
            check: Called regularly; it may raise an exception to stop the work.
            report: Called regularly with the state of the work.

        Raises:
            ClusterError: if the scheduler no longer answers, or a worker has no access to a folder
                that it needs.
            GivenUpError: at the end, if three workers have died while running the same unit.
            Exception: what `check`, `then` or a job raises; running units are stopped.
        """
        _Run(self, jobs, then, check, report).go()

    def wait_for_workers(self, check: Callable[[], object] = lambda: None) -> None:
        """Waits for the first worker that can take work, and says so.

        Args:
            check: Called regularly; it may raise an exception to stop waiting.
        """
        first = Job("the first worker", lambda job: None)
        run = _Run(self, [first], lambda job: (), check, lambda state: None)
        with run.attended():
            while not any(member.about for member in self.members.values()):
                check()
                run.look()
                run.drain(TICK)


@contextlib.contextmanager
def connected(
    cluster: Any, *, say: Callable[[str], object] = print, shared: bool = False
) -> Iterator[Cluster]:
    """A context manager that connects to a cluster; what it starts ends with the context.

    Args:
        cluster: `local:N` for N processes of this machine; the address of a scheduler, such as
            `tcp://host:8786`; a scheduler file (with its address); or a `dask.distributed.Client`.
        say: Called with messages.
        shared: Whether all workers must have access to the folders of units.

    Returns:
        A context manager, whose value is the `Cluster`.

    Raises:
        ValueError: if it is none of these, Dask is not installed, or no scheduler answers.
    """
    if isinstance(cluster, Cluster):
        yield cluster
    elif isinstance(cluster, str | Path):
        with client_at(str(cluster)) as client:
            yield Cluster(client, say=say, shared=shared)
    else:
        yield Cluster(cluster, say=say, shared=shared)


class _Run:
    """One run of a cluster, until all jobs are done."""

    def __init__(
        self,
        cluster: Cluster,
        jobs: Iterable[Job],
        then: Callable[[Job], Iterable[Job]],
        check: Callable[[], object],
        report: Callable[[State], object],
    ):
        self.cluster, self.client = cluster, cluster.client
        self.session = secrets.token_hex(8)  # stopping a run stops only its own units
        self.then, self.check, self.report = then, check, report
        self.queue = Queue()
        self.queue.add(jobs)
        self.numbers = itertools.count()
        self.jobs: dict[int, Job] = {}
        self.futures: dict[Any, tuple[Any, Any]] = {}
        self.places: dict[Job, tuple[Any, Member]] = {}
        self.local: dict[Any, Job] = {}
        self.finished: queues.SimpleQueue[Any] = queues.SimpleQueue()
        self.programs: set[str] = set()
        self.seconds = math.inf
        self.given_up: list[str] = []
        self.waiting_since = time.monotonic()
        self.said_waiting = 0.0
        self.quiet_since: float | None = None
        self.silent_since: float | None = None
        self.markers: dict[Path, Path] = {}
        self.asked: list[Any] = []

    def go(self) -> None:
        with ThreadPoolExecutor(cores()) as pool, self.attended():
            try:
                reported = 0.0
                while self.queue.left:
                    self.check()
                    self.look()
                    self.give(pool)
                    self.drain(TICK)
                    if time.monotonic() - reported >= TICK or not self.queue.left:
                        self.report(self.state())
                        reported = time.monotonic()
            except BaseException:
                self.stop()
                raise
        if self.given_up:
            raise GivenUpError(
                f"{'; '.join(self.given_up)}: given up, because {MOST_LOSSES} workers died while "
                "running it. Everything else is finished and kept."
            )

    def state(self) -> State:
        running = [*self.places, *self.local.values()]
        able = sum(member.about is not None for member in self.cluster.members.values())
        return self.queue.state(running, workers=able, lost=self.cluster.lost)

    @contextlib.contextmanager
    def attended(self) -> Iterator[None]:
        """A context that records which workers come and go, and what units report."""
        topic = f"{workers.TOPIC}-{self.session}"
        self.cluster.members.clear()  # access to a folder depends on the folder
        self.client.subscribe_topic("all", self._note)
        self.client.subscribe_topic(topic, self._told)
        self.cluster._looked = 0.0
        try:
            yield
        finally:
            for marker in self.markers.values():
                with contextlib.suppress(OSError):
                    marker.unlink(missing_ok=True)
            if self.client.status == "running":
                for future in self.asked:
                    with contextlib.suppress(Exception):
                        future.cancel()
                for name in ("all", topic):
                    with contextlib.suppress(Exception):
                        self.client.unsubscribe_topic(name)

    def _note(self, event: Any) -> None:
        message = event[1] if isinstance(event, tuple) else event
        action = message.get("action") if isinstance(message, dict) else None
        if action == "remove-worker" and message.get("expected"):
            self.cluster.leaving.add(message["worker"])
        if action in ("add-worker", "remove-worker"):
            self.cluster._changed.set()

    def _told(self, event: Any) -> None:
        message = event[1] if isinstance(event, tuple) else event
        job = self.jobs.get(message.get("job"))
        if job is not None and "share" in message:
            job.share = float(message["share"])
        elif job is not None:
            self.cluster.say(f"{job.words}: {message['line']}")

    # Workers

    def look(self) -> None:
        """Updates the list of workers: asks new ones to join, and removes those that have left."""
        cluster, now = self.cluster, time.monotonic()
        self._require_scheduler()
        if not cluster._changed.is_set() and now - cluster._looked < LOOKS_EVERY:
            return
        cluster._changed.clear()
        cluster._looked = now
        try:
            present = self.client.sync(self.client.scheduler.ncores, callback_timeout=3)
        except (OSError, TimeoutError):
            self.silent_since = self.silent_since or now
            if now - self.silent_since > SILENT_FOR:
                raise self._gone() from None
            return  # it may be busy, or gone, which will show
        self.silent_since = None
        for address in cluster.members.keys() - present.keys():
            self._lose(cluster.members.pop(address))
        new = [address for address in present if address not in cluster.members]
        if new:
            self._invite(new, present)
        self._ask_for_workers()
        if any(member.about for member in cluster.members.values()):
            self.waiting_since, self.said_waiting = now, 0.0
        elif now - self.waiting_since >= (self.said_waiting * 2 or 3.0):
            self.said_waiting = now - self.waiting_since
            refused = sum(member.refused for member in cluster.members.values())
            others = f" usable ({refused} are not)" if refused else ""
            cluster.say(
                f"waiting for workers at {cluster.address}: none{others} after "
                f"{self.said_waiting:.0f} s."
            )

    def _ask_for_workers(self) -> None:
        """Shows a cluster that starts workers on demand how many units are waiting.

        Such a cluster counts tasks, but units are sent only to existing workers. So each waiting
        unit has a task that asks for a resource that no worker has, and never runs.
        """
        own = self.client.cluster
        if own is not None and getattr(own, "_adaptive", None) is None:
            return  # its number of workers is fixed
        waiting = min(self.queue.left - len(self.places) - len(self.local), MOST_ASKED)
        while len(self.asked) > waiting:
            self.asked.pop().cancel()
        while len(self.asked) < waiting:
            key = f"mesalens-{self.session}-{len(self.asked)}-waits"
            nobody = {"mesalens: more workers": 1.0}
            self.asked.append(self.client.submit(int, key=key, pure=False, resources=nobody))

    def _invite(self, new: list[str], threads: dict[str, int]) -> None:
        known = self.client.sync(self.client.scheduler.identity, n_workers=-1)["workers"]
        for address in new:
            about = known.get(address, {})
            member = Member(address, threads[address], dict(about.get("resources") or {}))
            self.cluster.members[address] = member
            marker = self._marker()
            future = self.client.submit(
                workers.introduce,
                member.threads,
                None if marker is None else str(marker),
                key=f"mesalens-introduce-{secrets.token_hex(8)}",
                workers=[address],
                pure=False,
            )
            self._expect(future, member)

    def _marker(self) -> Path | None:
        """A file in the folder of the units, by which workers find out whether they see it."""
        folders = {job.unit.folder for job in self.queue.known() if job.unit is not None}
        for folder in folders:
            if folder not in self.markers:
                marker = folder / f".seen-{self.session}"
                with contextlib.suppress(OSError):
                    folder.mkdir(parents=True, exist_ok=True)
                    marker.touch()
                    self.markers[folder] = marker
        return next(iter(self.markers.values()), None)

    def _joined(self, member: Member, about: workers.About) -> None:
        cluster = self.cluster
        known = environment() | {"code": workers.code()}
        where = f"worker {member.address} ({about.host})"
        other = [
            f"{name} {about.versions.get(name)}, not {known[name]}"
            for name in VERSIONS
            if about.versions.get(name) != known[name]
        ]
        if other:
            member.refused = True
            cluster.say(
                f"{where} is not used, because it has {'; '.join(other)}. Install the same "
                "versions there as on this machine."
            )
            return
        if cluster.shared and not about.sees:
            folder = next(iter(self.markers), "the store")
            raise ClusterError(
                f"{where} cannot see {folder}; give a --store on a file system that all workers "
                "share, or omit --store: results are then sent to this machine."
            )
        kind = [n for n in NUMBERS if n not in ("cores", "XLA_FLAGS")]
        differs = [n for n in kind if about.versions[n] != known[n]]
        if differs and member.about is None:
            words = "; ".join(f"{n} {about.versions[n]}" for n in differs)
            cluster.say(f"{where} is a different machine ({words}); the last bits may differ.")
        member.about = about

    def _lose(self, member: Member) -> None:
        """Handles a worker that has gone: its units run again, unless they kill workers."""
        left = member.address in self.cluster.leaving  # as announced
        for place, job in enumerate(member.running):
            future, _ = self.places.pop(job)
            self.futures.pop(future.key, None)
            with contextlib.suppress(Exception):
                future.cancel()
            if place >= member.threads:  # it was waiting
                self.queue.again(job)
                continue
            self.cluster.lost += 1
            job.losses += not left
            if job.losses < MOST_LOSSES:
                how = "left" if left else "died"
                self.cluster.say(
                    f"{job.words}: worker {member.address} {how}; the unit will be run again."
                )
                self.queue.again(job)
            else:
                self.given_up.append(job.words)
                self.queue.give_up(job)

    def _require_scheduler(self) -> None:
        if self.client.status == "running":
            self.quiet_since = None
            return
        self.quiet_since = self.quiet_since or time.monotonic()
        if self.client.status == "closed" or time.monotonic() - self.quiet_since > ANSWERS_WITHIN:
            raise self._gone()

    def _gone(self) -> ClusterError:
        return ClusterError(
            f"the scheduler at {self.cluster.address} no longer answers; what was finished is "
            "kept, and the same command continues with the rest."
        )

    # Work

    def give(self, pool: ThreadPoolExecutor) -> None:
        """Gives units to free workers, and all other jobs to threads of this process."""
        context = as_here()
        while job := self.queue.next(lambda group: 0 if group.prepares else None):
            self.queue.finish(job)  # each worker compiles for itself
        while len(self.local) < cores() and (
            job := self.queue.next(lambda group: None if group.unit else 0)
        ):

            def do(job: Job = job) -> Any:
                with context():
                    return job.work(job)

            future = pool.submit(do)
            self.local[future] = job
            future.add_done_callback(self.finished.put)
        able = [member for member in self.cluster.members.values() if member.about]
        slots = sum(member.threads for member in able)
        # Near the end, no unit should wait for a busy worker while another one is idle
        many = self.seconds < SHORT and self.queue.left - len(self.places) > 2 * slots
        for member in able if self.queue.has_units else ():
            while member.can_take(int(many)) and (job := self.queue.next(self._rank(member))):
                if job.losses + 1 >= MOST_LOSSES and member.running:
                    self.queue.later(job)  # it runs alone
                    break
                self._send(job, member)

    def _rank(self, member: Member) -> Callable[[Group], int | None]:
        """A worker prefers units whose programs it has, then those that no worker has."""

        def rank(group: Group) -> int | None:
            if not group.unit:
                return None
            if not group.programs or group.programs in member.programs:
                return 0
            return 1 + (group.programs in self.programs)

        return rank

    def _send(self, job: Job, member: Member) -> None:
        import cloudpickle

        unit, cluster = job.unit, self.cluster
        assert unit is not None and member.about is not None
        config: Any = jax.config
        device = config.jax_default_device
        number = next(self.numbers)
        sees = member.about.sees
        try:
            work = cloudpickle.dumps((unit.function, unit.arguments()))
        except InputError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ClusterError(f"{job.words} cannot be sent to a worker ({reason}).") from error
        order = workers.Order(
            self.session,
            number,
            work,
            user_files.sources(),
            unit.folder if sees else None,
            {} if sees else unit.files(),
            unit.programs,
            bool(config.jax_enable_x64),
            None if device is None else getattr(device, "platform", device),
            max(2.0, len(cluster.members) / 50),
        )
        future = self.client.submit(
            workers.perform,
            order,
            key=f"mesalens-{self.session}-{number}",
            workers=[member.address],
            resources=self._resources(unit, member) or None,
            pure=False,
        )
        self.jobs[number] = job
        self.places[job] = future, member
        member.running.append(job)
        member.programs.add(unit.programs)
        self.programs.add(unit.programs)
        self._expect(future, (job, number, member))

    def _resources(self, unit: Unit, member: Member) -> dict[str, float]:
        """The resources to ask of Dask, if workers have them: a GPU, and memory (from XLA)."""
        asked: dict[str, float] = {}
        for name, amount in member.resources.items():
            if name.upper() == "GPU":
                asked[name] = min(1.0, amount)
            elif name.lower() == "memory":  # all of it, until the need is known
                asked[name] = min(self.cluster._bytes.get(unit.programs, math.inf), amount)
        return asked

    def _expect(self, future: Any, what: Any) -> None:
        self.futures[future.key] = future, what
        future.add_done_callback(self.finished.put)

    def drain(self, seconds: float) -> None:
        """Processes finished futures; waits for one if there is none."""
        with contextlib.suppress(queues.Empty):
            while True:
                self._take(self.finished.get(timeout=seconds))
                seconds = 0.0

    def _take(self, future: Any) -> None:
        if future in self.local:
            job = self.local.pop(future)
            try:
                self._finish(job, future.result())
            except BusyError:
                self.queue.later(job)
            return
        _, what = self.futures.pop(future.key, (None, None))
        if what is None:
            return  # its worker has gone
        if isinstance(what, Member):
            if future.status in ("cancelled", "lost"):
                return
            if (about := self._result(future, what)) is None:
                return
            try:
                self._joined(what, about())
            except InputError:
                raise
            except Exception as error:
                what.refused = True
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                self.cluster.say(
                    f"worker {what.address} is not used: mesalens cannot start on it ({reason})."
                )
            return
        job, number, member = what
        lost = future.status in ("cancelled", "lost")  # with the scheduler, or by another client
        done = None if lost else self._result(future, what)
        if done is None and not lost:
            return
        del self.jobs[number]
        self.places.pop(job, None)
        member.running.remove(job)
        if done is None:
            self.cluster._changed.set()
            self.queue.later(job)
            return
        try:
            self._receive(job, done())
        except BusyError:
            self.queue.later(job)

    def _result(self, future: Any, what: Any) -> Callable[[], Any] | None:
        """A function that returns the result of a finished future, or raises its error.

        None if its worker went before the result arrived, for which Dask would wait. `look` will
        notice, and until then the future is expected again.
        """
        while future.status == "finished":
            with contextlib.suppress(TimeoutError):
                value = future.result(timeout=TRANSFER)
                return lambda: value
        if future.status == "error":
            return future.result
        self._expect(future, what)
        return None

    def _receive(self, job: Job, done: workers.Done) -> None:
        unit = job.unit
        assert unit is not None
        if done.files:
            unit.keep(done.files)
        if done.bytes:
            self.cluster._bytes[unit.programs] = done.bytes
        self.cluster.compiled += done.compiled
        if done.process != os.getpid():  # in this one they are counted already
            count_elsewhere(Programs(*done.programs))
        self.seconds = done.seconds
        if done.stopped:
            self.queue.later(job)
        else:
            self._finish(job, job.work(done.value))

    def _finish(self, job: Job, result: Any) -> None:
        job.result = result
        self.queue.finish(job)
        self.queue.add(self.then(job))

    def stop(self) -> None:
        """Asks running units to stop and return their states, and cancels those that do not."""
        for future in self.local:
            future.cancel()
        running = [future for future, _ in self.places.values()]
        if running and self.client.status == "running":
            with contextlib.suppress(Exception):
                addresses = [member.address for _, member in self.places.values()]
                self.client.run(workers.stop, self.session, workers=addresses, on_error="ignore")
            ends = time.monotonic() + STOPS_WITHIN
            while self.places and time.monotonic() < ends and self.client.status == "running":
                with contextlib.suppress(Exception):
                    self.drain(TICK)
                    self.look()
        for future, _ in list(self.futures.values()):
            with contextlib.suppress(Exception):
                future.cancel()
