"""`ProgressReport`: shows the progress of long work, on standard error or in a notebook."""

import math
import sys
import time
from collections.abc import Callable
from typing import Any

from rich import progress
from rich.console import Console
from rich.text import Text

from mesalens.execution import State

SECONDS_BETWEEN_DRAWINGS = 0.1
"""Between two drawings of bars in a notebook."""


def _is_share(task: progress.Task) -> bool:
    """Whether a bar shows a share of work instead of a number of steps."""
    return isinstance(task.total, float)


class _Rate(progress.ProgressColumn):
    def render(self, task) -> Text:
        counted = task.speed and not _is_share(task)
        return Text(f"{task.speed:,.0f} steps/s" if counted else "")


class _Done(progress.MofNCompleteColumn):
    def render(self, task) -> Text:
        return Text(f"{task.percentage:.0f}%") if _is_share(task) else super().render(task)


class _NotebookBars(progress.Progress):
    """A context manager that shows progress: bars on a terminal, plain lines elsewhere.

    Rich's own way needs ipywidgets, in the kernel and in what shows the notebook.
    """

    _output: Any = None
    _drawn = -math.inf

    def start(self) -> None:
        pass

    def refresh(self) -> None:
        from IPython.display import display

        self._drawn = time.monotonic()
        table = self.make_tasks_table(self.tasks)
        if self._output is None:
            self._output = display(table, display_id=True)
        else:
            self._output.update(table)

    def update(self, task_id: progress.TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        # Each is a message to whoever shows the notebook
        if time.monotonic() - self._drawn >= SECONDS_BETWEEN_DRAWINGS:
            self.refresh()

    def stop(self) -> None:
        if self._output is not None:
            self._output.update({"text/plain": "", "text/html": ""}, raw=True)


class ProgressReport:
    """A context that shows the progress of work: bars, or plain lines elsewhere.

        with ProgressReport() as bars:
            run = train(…, steps=1000, progress=bars.start("training", 1000))
            found = identify(…, progress=bars.stages())
            session = Session(say=bars.say, report=bars.work)

    There are bars on a terminal and in a Jupyter notebook, where they are gone at the end. Nothing
    is shown if standard error is closed.

    Args:
        check: Called after each report; it may raise an exception to stop the work.
        seconds_between_lines: The time between plain lines, in seconds.

    Examples:
        ```python
        with ProgressReport() as progress:
            report = progress.start("training", 1000)
            train(…, steps=1000, progress=report, say=progress.say)
        ```
    """

    def __init__(
        self, check: Callable[[], object] = lambda: None, seconds_between_lines: float = 5.0
    ):
        self._check, self._seconds = check, seconds_between_lines
        self._work_began: tuple[float, float] | None = None
        self._work_bar: progress.TaskID | None = None
        self._work_line = time.monotonic()
        # Titles and lines contain names from the user, in which Rich would read `[…]` as markup
        title = progress.TextColumn("{task.description}", markup=False)
        numbers = (_Done(), _Rate(), progress.TimeRemainingColumn())
        columns = (title, progress.BarColumn(), *numbers)
        terminal = sys.stderr is not None and sys.stderr.isatty()
        console = Console(stderr=True)
        self._notebook = console.is_jupyter
        kind = _NotebookBars if self._notebook else progress.Progress
        bars = self._notebook or terminal
        self._bars = kind(*columns, console=console, auto_refresh=terminal) if bars else None

    def __enter__(self) -> "ProgressReport":
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def say(self, line: str) -> None:
        """Shows a message.

        Args:
            line: One line of text.
        """
        if self._notebook:
            print(line, flush=True)
        elif self._bars is not None:
            self._bars.console.print(Text(line))
        elif sys.stderr is not None:  # print(file=None) would write to standard output
            print(line, file=sys.stderr, flush=True)

    def start(self, title: str, total: int) -> Callable[[int], None]:
        """A function to call with the number of steps done.

        The rate is measured from the first report, so that it does not include compilation.

        Args:
            title: What is being done.
            total: The number of steps.
        """
        if self._bars is None:
            return self._lines(title, total)
        bars, task = self._bars, self._bars.add_task(title, total=total)

        def report(done: int) -> None:
            bars.update(task, completed=done)
            self._check()

        return report

    def stages(self) -> Callable[[str, float], None]:
        """A function to call with what is being done, in words, and the share that is done.

        If there are bars, the words stand next to them. Otherwise a line is printed if the words
        have changed, at most one in `seconds_between_lines`.
        """
        if self._bars is None:
            return self._stage_lines()
        bars, task = self._bars, self._bars.add_task("", total=1.0)

        def report(words: str, share: float) -> None:
            bars.update(task, description=words, completed=share)
            self._check()

        return report

    def close(self) -> None:
        """Restores the terminal, as at the end of the context; for signal handlers."""
        if self._bars is not None:
            self._bars.stop()

    def work(self, state: State) -> None:
        """Shows how many jobs are done, running and waiting, and the time left.

        Args:
            state: The progress of the work.
        """
        now = time.monotonic()
        # Stored or quick jobs at the beginning say nothing about the rest
        self._work_began = self._work_began or (now, state.share)
        began, before = self._work_began
        gained = state.share - before
        known = gained > 0.05 and state.workers != 0
        left = (now - began) / gained * (1 - state.share) if known else None
        ahead = "" if left is None else f", about {left:.0f} s left"
        line = f"{state.done} done, {state.running} running, {state.waiting} waiting"
        if state.lost:
            line += f", {state.lost} lost and rerun"
        if state.workers is not None:
            line += f", {state.workers} worker{'s' * (state.workers != 1)}"
        line += ahead
        if self._bars is not None:
            if self._work_bar is None:
                self._work_bar = self._bars.add_task("", total=1.0)
            self._bars.update(self._work_bar, completed=state.share, description=line)
        elif now - self._work_line >= self._seconds:
            self._work_line = now
            self.say(f"{line}: {'; '.join(state.words)}" if state.words else line)

    def _stage_lines(self) -> Callable[[str, float], None]:
        last_line, last_words = time.monotonic(), ""

        def report(words: str, share: float) -> None:
            nonlocal last_line, last_words
            self._check()
            now = time.monotonic()
            if words != last_words and now - last_line >= self._seconds:
                last_line, last_words = now, words
                self.say(f"{words} ({100 * share:.0f}% done)")

        return report

    def _lines(self, title: str, total: int) -> Callable[[int], None]:
        last_line, last_done, first = time.monotonic(), 0, None

        def report(done: int) -> None:
            nonlocal last_line, last_done, first
            self._check()
            now = time.monotonic()
            # Steps of an earlier run, for example of a resumed sweep, are below 0
            if done <= last_done:
                return
            first = first or (now, done)
            if now - last_line < self._seconds and done < total:
                return
            last_line, last_done = now, done
            rate = (done - first[1]) / max(now - first[0], 1e-9)
            speed = f", {rate:,.0f} steps/s, {(total - done) / rate:.0f} s left" if rate else ""
            self.say(f"{title}: {done}/{total} steps{speed}")

        return report
