"""Ctrl-C and SIGTERM: the work stops where its state can be kept."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(Exception):
    """A signal asked the work to stop, and it has stopped at a step; `exit_code` is what a shell expects then."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


@contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """In the block a signal is only noted; the function that it gives, called where it is safe to stop, raises `StoppedError` then.

    A second signal of the kind ends the work at once: a training then keeps the state that it kept last.
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        signal.signal(number, before[signal.Signals(number)])
        print(
            "mesalens: stopping after the steps that are being computed; once more to stop at once.",
            file=sys.stderr,
            flush=True,
        )

    def check() -> None:
        if noted:
            raise StoppedError(noted[0])

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
