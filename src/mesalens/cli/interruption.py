"""Ctrl-C and SIGTERM: work that can save its state stops at the next step, all else at once."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(Exception):
    """A signal asked the work to stop, and it has stopped at a step."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


def leave(number: int, frame: FrameType | None) -> None:
    """Ends the process at once.

    An exception could be raised inside an import or a C++ callback, which would swallow it or
    abort.
    """
    os.write(2, b"mesalens: interrupted.\n")
    os._exit(128 + number)


@contextmanager
def handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """A context in which a handler receives SIGINT and SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
        sys.stderr.flush()


@contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """A context in which a signal is only recorded.

    Yields a function to call where it is safe to stop; it raises `StoppedError` after a signal. A
    second signal of the same kind ends the process at once; a training then keeps its last saved
    state.
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        signal.signal(number, leave)
        os.write(
            2, b"mesalens: stopping after the current steps; interrupt again to stop at once.\n"
        )

    def check() -> None:
        if noted:
            raise StoppedError(noted[0])

    with handled(note):
        yield check
