"""Progress is shown on a terminal, in plain lines elsewhere, and nowhere if standard error is closed."""

import io
import re
import sys
from types import SimpleNamespace

import pytest

from mesalens import progress
from mesalens.execution import State
from mesalens.progress import ProgressReport


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Puts a terminal of 200 columns in the place of standard error when it is called.

    Not before: pytest puts its own there once the fixtures are set up.
    """
    for name, value in {"TERM": "xterm", "COLUMNS": "200", "LINES": "50"}.items():
        monkeypatch.setenv(name, value)

    def open_terminal():
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    return open_terminal


def text(terminal):
    """What was written, without control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is told the time."""
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def at(seconds):
        now[0] = 100.0 + seconds

    return at


MARKUP = (
    "mk[/red]x",
    "[bold]d[/bold]",
    "[link=file:///etc/passwd]here[/link]",
    "a\\[b]",
    ":smile:",
)


@pytest.mark.parametrize("typed", MARKUP)
def test_what_a_user_typed_is_not_markup(terminal, typed):
    screen = terminal()
    with ProgressReport() as shown:
        shown.say(f"said {typed}")
        shown.start(f"title {typed}", 10)(3)
    assert f"said {typed}" in text(screen) and f"title {typed} " in text(screen)
    assert "\x1b]8" not in screen.getvalue()  # no link


def test_a_bar_counts_the_steps_and_calls_the_check(terminal):
    screen, calls = terminal(), []
    with ProgressReport(check=lambda: calls.append(len(calls))) as shown:
        report = shown.start("training", 6)
        for done in (2, 6):
            report(done)
    assert "6/6" in text(screen) and calls == [0, 1]


def test_the_rate_is_measured_from_the_first_report_on_so_that_compilation_is_no_part_of_it(
    capsys, clock
):
    report = ProgressReport(seconds_between_lines=5.0).start("training", 1000)
    for seconds, done in ((60, 10), (63, 40), (66, 70), (160, 1000)):
        clock(seconds)
        report(done)
    assert capsys.readouterr().err.splitlines() == [
        "training: 10/1000 steps",
        "training: 70/1000 steps, 10 steps/s, 93 s left",
        "training: 1000/1000 steps, 10 steps/s, 0 s left",
    ]


def test_steps_of_an_earlier_run_take_no_time_that_is_reported(capsys, clock):
    report = ProgressReport(seconds_between_lines=0.0).start("training", 6)
    for seconds, done in ((0, -3), (0, 0), (50, 3), (53, 6), (54, 6)):
        clock(seconds)
        report(done)
    assert capsys.readouterr().err.splitlines() == [
        "training: 3/6 steps",
        "training: 6/6 steps, 1 steps/s, 0 s left",
    ]


def test_the_first_report_may_come_with_no_time_between_it_and_the_next(capsys, clock):
    report = ProgressReport(seconds_between_lines=0.0).start("training", 6)
    report(3)
    report(6)
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        "training: 3/6 steps",
        "training: 6/6 steps",
    ]


def test_a_closed_standard_error_gets_nothing_and_standard_output_neither(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    calls = []
    with ProgressReport(check=lambda: calls.append(1), seconds_between_lines=0.0) as shown:
        shown.say("a line")
        shown.start("training", 2)(2)
    assert calls == [1] and capsys.readouterr().out == ""


def test_on_a_terminal_stages_are_words_beside_a_bar(terminal):
    screen, calls = terminal(), []
    with ProgressReport(check=lambda: calls.append(1)) as shown:
        report = shown.stages()
        for words, share in (("asking [the] learner", 0.0), ("fitting ridge", 0.4)):
            report(words, share)
    assert re.search(r"fitting ridge .* 40%", text(screen)) and "steps/s" not in text(screen)
    assert calls == [1, 1]


def test_elsewhere_stages_are_lines_when_their_words_change(capsys, clock):
    report = ProgressReport(seconds_between_lines=5.0).stages()
    for seconds, words, share in (
        (0, "asking", 0.0),
        (6, "fitting ridge", 0.2),
        (7, "fitting lasso", 0.4),
        (20, "fitting ridge", 0.5),
        (21, "measuring", 0.6),
        (26, "measuring", 0.7),
    ):
        clock(seconds)
        report(words, share)
    assert capsys.readouterr().err.splitlines() == [
        "fitting ridge (20% done)",
        "measuring (60% done)",
    ]


def test_stages_are_not_shown_if_standard_error_is_closed(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with ProgressReport(seconds_between_lines=0.0) as shown:
        shown.stages()("fitting", 0.5)
    assert capsys.readouterr().out == ""


def test_a_report_may_be_closed_before_its_context_ends(terminal):
    screen = terminal()
    with ProgressReport() as shown:
        shown.stages()("fitting", 0.5)
        shown.close()
    assert "\x1b[?25h" in screen.getvalue()  # the cursor is shown again


def test_the_progress_of_a_cluster_names_workers_losses_and_the_time_left(capsys, clock):
    report = ProgressReport()
    for seconds, share, workers in ((10, 0.1, 3), (40, 0.5, 3), (50, 0.5, 0)):
        clock(seconds)
        report.work(State(5, 2, 3, ["a run"], share, workers=workers, lost=2))
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == "5 done, 2 running, 3 waiting, 2 lost and rerun, 3 workers: a run"
    assert "3 workers, about 38 s left: a run" in second  # 40% in 30 s
    assert third == "5 done, 2 running, 3 waiting, 2 lost and rerun, 0 workers: a run"


def test_in_a_notebook_one_output_changes_in_place_and_is_empty_at_the_end(monkeypatch, clock):
    display = pytest.importorskip("IPython.display")
    shown, updates = [], []

    def show(thing, display_id):
        shown.append(thing)
        return SimpleNamespace(update=lambda thing, raw=False: updates.append(thing))

    monkeypatch.setattr(display, "display", show)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    with ProgressReport() as bars:
        report = bars.start("training", 1000)
        for step in range(500):
            report(step)
        assert len(shown) == 1 and not updates  # no time has passed
        clock(1)
        report(500)
        bars.work(State(0, 1, 3, [], 0.0))
        clock(2)
        bars.work(State(1, 1, 2, [], 0.25))
        html = updates[-1]._repr_mimebundle_([], [])["text/html"]
        assert "training" in html and "500/1000" in html and "1 done" in html and "25%" in html
        assert len(updates) == 3  # for the step, for the new bar, and for what it shows
    assert len(shown) == 1 and not any(updates[-1].values())


def test_in_a_notebook_nothing_is_shown_where_nothing_is_done(monkeypatch):
    display = pytest.importorskip("IPython.display")
    monkeypatch.setattr(display, "display", lambda *_, **__: pytest.fail("an output"))
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    with ProgressReport() as bars:
        assert bars is not None
