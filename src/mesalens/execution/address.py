"""The address of a Dask cluster: the client for a word on the command line."""

import contextlib
import importlib.util
import json
import logging
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mesalens.checks import InputError

ANSWERS_WITHIN = 8.0
"""The seconds within which a scheduler must answer."""

MOST_PROCESSES = 1024
"""The largest number of processes of this machine in one cluster."""

Client = Any
"""A `dask.distributed.Client`, which an extra installs."""


class ClusterError(InputError):
    """A cluster cannot be used; finished results are kept."""


@contextlib.contextmanager
def client_at(word: str) -> Iterator[Client]:
    """A context with a client of Dask; what is started for it ends with the context.

    Args:
        word: `local:N` for N processes of this machine, the address of a scheduler such as
            `tcp://host:8786`, or a scheduler file (with its address).

    Raises:
        ValueError: if it is none of these, Dask is not installed, or no scheduler answers.
    """
    distributed = dask_distributed()
    with _quiet():
        if word.partition(":")[0] == "local":
            with _local(distributed, word) as client:
                yield client
            return
        client = _client(distributed, _scheduler(word))
        try:
            yield client
        finally:
            client.close(timeout=2)


def dask_distributed() -> Any:
    """The module `distributed`; raises `ValueError` if it is not installed."""
    if importlib.util.find_spec("distributed") is None:
        raise InputError("a cluster needs Dask: install mesalens[cluster].")
    return importlib.import_module("distributed")


@contextlib.contextmanager
def _local(distributed: Any, word: str) -> Iterator[Client]:
    """A client of a cluster of processes of this machine, which other users cannot reach."""
    import dask.config
    import psutil

    number = word.partition(":")[2]
    if not number.isdecimal() or not int(number):
        raise InputError(f"the number of processes must be at least 1, as in local:4; got {word}.")
    if int(number) > MOST_PROCESSES:
        raise InputError(f"at most {MOST_PROCESSES} processes are possible; got {word}.")
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # A worker process imports the script that started it, which would start a cluster
        raise SystemExit(1)
    # Ctrl-C would end workers before the client knows of it
    deaf = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    memory = psutil.virtual_memory().total / int(number)
    with contextlib.ExitStack() as stack:
        # Dask makes processes return memory at once, which XLA allocates again in each step; its
        # profiler costs more than it is useful here
        nanny = "distributed.nanny.pre-spawn-environ"
        own = {n: v for n, v in dask.config.get(nanny).items() if not n.startswith("MALLOC")}
        settings = {nanny: own, "distributed.worker.profile.enabled": False}
        stack.enter_context(dask.config.set(settings))
        try:
            started = distributed.LocalCluster(
                n_workers=int(number),
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
                security=distributed.Security.temporary(),
                resources={"memory": memory},
                preload=[deaf],
                env={"DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"},
            )
        except RuntimeError as error:
            raise ClusterError(
                f"{word} could not start its processes ({error}); in a script, put the calls of "
                'mesalens under `if __name__ == "__main__":`.'
            ) from error
        stack.enter_context(started)
        yield stack.enter_context(distributed.Client(started, set_as_default=False))


def _scheduler(word: str) -> str:
    """The address of a scheduler, given directly or by its file."""
    if "://" in word:
        return word
    file = Path(word)
    if not file.is_file():
        raise InputError(
            f"{word!r} is not a cluster, and there is no file of that name; give local:4, an "
            "address such as tcp://host:8786, or a scheduler file."
        )
    try:
        address = json.loads(file.read_text(encoding="utf-8"))["address"]
        if not isinstance(address, str) or "://" not in address:
            raise ValueError("it has no address")
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = "it has no address" if isinstance(error, LookupError | TypeError) else error
        raise InputError(f"{word} is not a scheduler file ({reason}).") from None
    return address


def _client(distributed: Any, address: str) -> Client:
    try:
        return distributed.Client(address, timeout=ANSWERS_WITHIN, set_as_default=False)
    except (OSError, TimeoutError, ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ClusterError(f"no scheduler answers at {address} ({reason}).") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A context in which Dask logs nothing: important events are reported as messages."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("distributed")]
    loggers = [logging.getLogger(name) for name in ("distributed", *names)]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
