"""Progress of long work on standard error: a bar with rate and time left, or plain lines when nobody watches a terminal."""

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    def render(self, task) -> Text:
        return Text(f"{task.speed:,.0f} steps/s" if task.speed else "")


class ProgressReport:
    """Shows how far long work has come; use it as a context. `start(title, total)` gives the function that takes steps done.

    `check` is called after each report, where a training can be stopped without loss: it raises what should stop it.
    """

    def __init__(self, check: Callable[[], object] = lambda: None, seconds_between_lines: float = 5.0):
        self._check = check
        self._seconds = seconds_between_lines
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
        )
        self._bars = Progress(*columns, console=Console(stderr=True)) if sys.stderr.isatty() else None

    def __enter__(self) -> "ProgressReport":
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_) -> None:
        if self._bars is not None:
            self._bars.stop()

    def say(self, line: str) -> None:
        """One line about what happens now."""
        if self._bars is not None:
            self._bars.console.print(line, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def start(self, title: str, total: int) -> Callable[[int], None]:
        """Begins one piece of work of `total` steps."""
        if self._bars is not None:
            bars, task = self._bars, self._bars.add_task(title, total=total)

            def show(done: int) -> None:
                bars.update(task, completed=done)
                self._check()

            return show
        started = said = time.monotonic()
        most = 0

        def report(done: int) -> None:
            nonlocal said, most
            self._check()
            now = time.monotonic()
            # What was done before this run, as of a sweep that goes on, is below 0
            if done <= most or (now - said < self._seconds and done < total):
                return
            said, most = now, done
            rate = done / (now - started)
            self.say(f"{title}: {done}/{total} steps, {rate:,.0f} steps/s, {(total - done) / rate:.0f} s left")

        return report
