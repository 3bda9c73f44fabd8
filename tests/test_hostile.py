"""Random bad calls of the command line: each gets an exit code and a sentence, and none a traceback."""

import os
import random
import signal
import time

import pytest

from mesalens import cli
from mesalens.cli import _main
from mesalens.cli.options import parser_of

SEED = 20261128
CALLS, FAST = 300, 60
SECONDS = 10.0

SMALL = {
    "train": ["--dim", "2", "--context-length", "3", "--steps", "2", "--batch-size", "4"],
    "sweep": ["--dim", "2", "--context-length", "3", "--steps", "2", "--batch-size", "4"],
    "optimum": ["--dim", "2", "--context-length", "3"],
    "compare": ["nowhere"],
    "identify": ["broken.py:predict", "--dim", "2", "--context-length", "3"],
    "reproduce": ["von-oswald-2023/no-claim"],
    "list": [],
}
NUMBERS = ["-1", "0", "nan", "inf", "-inf", "1e400", "1e-320", "1e300", "9" * 30, "-9" * 20, "1.5"]
WORDS = [
    "",
    " ",
    "two",
    "None",
    "[1",
    "[[1,2],[3]]",
    "{}",
    "true",
    "∞",
    "🦉",
    "a" * 5000,
    "%s",
    "--",
]
FILES = [
    "fifo",
    "folder",
    "empty.csv",
    "ragged.csv",
    "text.csv",
    "/dev/zero",
    "/proc/self/mem",
    "no.csv",
]
PLACES = [
    "no.py:Law",
    "broken.py:Law",
    "os:system",
    "mesalens.learners:Ridge",
    ":",
    "a:b:c",
    "../x",
]
AXES = ["learning_rate=", "=1", "foo=1,2", "seeds=1,2", "learning_rate=1,1", "task.dim=2,nan", "x"]
HOSTILE = NUMBERS + WORDS + FILES + PLACES
PATIENT = {"--steps", "--seeds", "--every", "--batch-size", "--microbatches", "--prompts", "--help"}
"""Options that a large number makes slow, which is as asked; they get words only."""


def options(command):
    """The options of a command that take a value."""
    module, _, name = _main.COMMANDS[command][0].partition(":")
    imported = __import__(f"mesalens.cli.{module}", fromlist=[name])
    parser = parser_of(getattr(imported, name), command)
    return sorted(
        option
        for option, action in parser._option_string_actions.items()
        if action.nargs != 0 and action.option_strings[0] == option
    )


def call(number):
    """The arguments of one call, the same in every run: a small one with one to three bad options."""
    choose = random.Random(f"{SEED}-{number}")
    command = choose.choice(list(SMALL))
    arguments = [command, *SMALL[command]]
    if command in ("train", "sweep") and choose.random() < 0.9:
        arguments += ["--out", choose.choice(["out", "folder", "fifo", "/proc/out", "x" * 300, ""])]
    known = options(command)
    for _ in range(choose.randint(1, 3)):
        kind = choose.random()
        if kind < 0.1 or not known:
            arguments.append(choose.choice(["--no-such-option", "--dmi", "word", "-x", "--=", "—"]))
        elif kind < 0.2:
            arguments.append(choose.choice(known))
        else:
            option = choose.choice(known)
            pool = AXES if option == "--vary" else WORDS if option in PATIENT else HOSTILE
            arguments += [option, choose.choice(pool)]
    return arguments


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current directory with files that are not what they should be."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    for name, text in {"empty": "", "ragged": "1,2\n3\n", "text": "one,two\n"}.items():
        (tmp_path / f"{name}.csv").write_text(text)
    (tmp_path / "broken.py").write_text("raise RuntimeError('broken')\n")
    return tmp_path


def interrupt(signal_number, frame):
    raise TimeoutError


@pytest.mark.parametrize(
    "number",
    [n if n < FAST else pytest.param(n, marks=pytest.mark.slow) for n in range(CALLS)],
)
def test_a_bad_call_gets_an_exit_code_and_no_traceback(number, folder, capsys):
    arguments = call(number)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 60)
    started = time.monotonic()
    try:
        code = cli.main(arguments)
    except SystemExit as stop:
        code = stop.code
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    seconds = time.monotonic() - started
    _, error = capsys.readouterr()
    assert code in (0, 1, 2), (arguments, error)
    assert "Traceback" not in error, (arguments, error)
    if code == 2:  # refused: at once, in one sentence behind what was said of the progress
        assert seconds < SECONDS, (arguments, seconds)
        assert error.rstrip("\n").splitlines()[-1].startswith("mesalens: "), (arguments, error)
    assert (folder / "folder" / "mine").read_text() == "mine"
    assert sorted(path.name for path in (folder / "folder").iterdir()) == ["mine"]
