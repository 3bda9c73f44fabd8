"""What the workers of a Dask cluster do: they describe themselves, and run units.

A scheduler imports this module too, so it imports JAX only when there is work.
"""

import contextlib
import hashlib
import os
import pickle
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mesalens import user_files
from mesalens.checks import InputError
from mesalens.execution.jobs import Place, StoppingError

TOPIC = "mesalens"
"""The prefix of the topic of a session, to which workers report progress."""

_stopping: set[str] = set()
_listening = threading.Lock()
_compiled = [0]


@dataclass(frozen=True)
class About:
    """The description of a worker."""

    host: str
    one_cpu: bool
    versions: Mapping[str, str]
    sees: bool


@dataclass(frozen=True)
class Order:
    """A unit, as it is sent to a worker.

    Args:
        session: The session that sends it.
        job: The number of the job, for reports.
        work: The pickled function and its arguments.
        sources: Python files of the user that the pickle may need.
        folder: The folder of the unit, if the worker has access to it.
        files: The files that the unit reads, if the worker has no access to the folder.
        programs: Units with equal text share compiled programs.
        double: Whether JAX computes in float64.
        platform: The platform of JAX, if it is not the default.
        seconds: The time between two reports of progress, in seconds.
    """

    session: str
    job: int
    work: bytes
    sources: list[user_files.Source]
    folder: Path | None
    files: Mapping[str, bytes]
    programs: str
    double: bool
    platform: str | None
    seconds: float


@dataclass
class Done:
    """The result of a unit.

    Args:
        value: What its function returned; None if it was stopped.
        stopped: Whether it was asked to stop, and did.
        files: The files that it wrote, if the worker has no access to the folder.
        bytes: The memory that its programs need.
        compiled: The number of programs compiled for it, and stored on the disk of its machine.
        programs: The numbers of `mesalens.program_cache.Programs` for it.
        process: The process of the worker.
        seconds: How long it took.
    """

    value: Any = None
    stopped: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    bytes: float = 0.0
    compiled: int = 0
    programs: tuple[int, float, int] = (0, 0.0, 0)
    process: int = field(default_factory=os.getpid)
    seconds: float = 0.0


def introduce(threads: int, marker: str | None) -> About:
    """Prepares a worker for units, each with one core, and describes it.

    Args:
        threads: The number of units that it runs at once.
        marker: A file in the session's folder, which exists if the worker has access to it.
    """
    # More threads than callers, see `mesalens.__init__`; the number changes no bits
    os.environ["NPROC"] = str(4 * threads)
    import jax

    from mesalens.environment import environment, is_one_cpu, use_cores
    from mesalens.program_cache import keep_programs_if_possible

    use_cores(1)
    keep_programs_if_possible()
    with _listening:
        if not _compiled[0]:
            jax.monitoring.register_event_listener(_count)
            _compiled[0] = 1  # marks that it listens; only differences are reported
    known = environment()
    sees = marker is not None and Path(marker).is_file()
    return About(socket.gethostname(), is_one_cpu(), known | {"code": code()}, sees)


def stop(session: str) -> None:
    """Asks the units of a session to stop; they keep their states."""
    _stopping.add(session)


def perform(order: Order) -> Done:
    """Runs a unit, in its folder if this machine has access to it, else in a temporary one."""
    import jax

    from mesalens.program_cache import counted

    own = Path(sys.modules["distributed"].get_worker().local_directory)  # Dask removes it
    try:
        user_files.receive(order.sources, own)
        function, arguments = pickle.loads(order.work)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(
            f"{socket.gethostname()} cannot load its work ({reason}); install the same packages "
            "there as on this machine."
        ) from error
    began, before = time.monotonic(), _compiled[0]
    done = Done()
    with contextlib.ExitStack() as stack:
        programs = stack.enter_context(counted(thread=True))  # other threads run other units
        stack.enter_context(jax.enable_x64(order.double))
        if order.platform is not None:
            device = jax.local_devices(backend=order.platform)[0]
            stack.enter_context(jax.default_device(device))
        folder = order.folder
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="mesalens-unit-", dir=own))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            write_files(folder, order.files)
        tell, say = _reporter(order)

        def needs(number: float) -> None:
            done.bytes = number

        away = order.folder is None
        place = Place(folder, tell, say, lambda: _compiling(order.programs), needs, away)
        try:
            done.value = function(place, *arguments)
        except StoppingError:
            done.stopped = True
        if order.folder is None:
            done.files = {
                name: content
                for name, content in read_files(folder).items()
                if order.files.get(name) != content
            }
    done.seconds, done.compiled = time.monotonic() - began, _compiled[0] - before
    done.programs = programs.compiled, programs.seconds, programs.loaded
    return done


def read_files(folder: Path) -> dict[str, bytes]:
    """All files in a folder, by their paths in it, except locks and temporary files."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and not file.name.startswith(".") and file.suffix != ".lock"
    }


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files into a folder, by their paths in it.

    Raises:
        ValueError: if a path leads outside of the folder.
    """
    for name, content in files.items():
        file = (folder / name).resolve()
        if not file.is_relative_to(folder.resolve()):
            raise InputError(f"a worker sent a file for {file}, outside of its folder.")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def code() -> str:
    """A digest of the code of this package, which may differ for the same version."""
    root = Path(__file__).parents[1]
    total = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        total.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return total.hexdigest()[:8]


def _reporter(order: Order) -> tuple[Callable[[float], None], Callable[[str], None]]:
    """Functions that report progress to the session, and send it messages."""
    distributed = sys.modules["distributed"]
    worker, key = distributed.get_worker(), distributed.worker.thread_state.key
    topic, told = f"{TOPIC}-{order.session}", time.monotonic()

    def report(share: float) -> None:
        nonlocal told
        task = worker.state.tasks.get(key)
        # If the session has ended or was killed, Dask cancels its tasks
        if order.session in _stopping or task is None or task.state == "cancelled":
            raise StoppingError
        if time.monotonic() - told >= order.seconds:
            told = time.monotonic()
            worker.log_event(topic, {"job": order.job, "share": share})

    def say(line: str) -> None:
        worker.log_event(topic, {"job": order.job, "line": line})

    return report, say


@contextlib.contextmanager
def _compiling(programs: str) -> Any:
    """A context for one process at a time with the same programs; others load what it stored."""
    import filelock

    user = getattr(os, "getuid", lambda: "")()
    folder = Path(tempfile.gettempdir()) / f"mesalens-compiling-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    name = hashlib.sha256(programs.encode()).hexdigest()[:32]
    with filelock.FileLock(folder / f"{name}.lock"):
        yield


def _count(event: str, **_: Any) -> None:
    if event == "/jax/compilation_cache/cache_misses":  # a program is compiled and stored
        _compiled[0] += 1
