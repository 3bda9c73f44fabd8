"""Reads the command line and runs what it asks for."""

import contextlib
import functools
import importlib
import io
import re
import signal
import sys
from collections.abc import Callable

import tyro

from mesalens.checks import InputError
from mesalens.cli.matrices import matrix_file
from mesalens.program_cache import keep_programs_if_possible

COMMANDS = {
    "list": "list_",
    "reproduce": "reproduce",
    "optimum": "optimum",
    "train": "train",
    "sweep": "sweep",
    "compare": "compare",
}
"""Each is a function in the file of its name, or what the `for_arguments` there makes of the command line; only the one that is asked
for is imported, as that takes time."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `mesalens list | head` ends quietly
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(matrix_file)
    arguments = sys.argv[1:] if arguments is None else arguments
    asked = [name for name in arguments[:1] if name in COMMANDS]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            command = tyro.extras.subcommand_cli_from_dict(
                {name: _later(_command(name, arguments)) for name in asked or COMMANDS},
                prog="mesalens",
                description=sys.modules["mesalens"].__doc__,
                args=arguments,
                registry=registry,
            )
    except SystemExit as stop:
        if stop.code not in (0, None):
            print(f"mesalens: {_sentence(said.getvalue())}", file=sys.stderr)
        raise
    except InputError as error:
        return _wrong(error)
    try:
        if asked != ["list"]:
            keep_programs_if_possible()
        return command()
    except InputError as error:
        return _wrong(error)
    except KeyboardInterrupt:
        print("mesalens: interrupted; nothing was kept.", file=sys.stderr)
        return 130


def _wrong(error: InputError) -> int:
    print(f"mesalens: {error}", file=sys.stderr)
    return 2


def _command(name: str, arguments: list[str]) -> Callable[..., int]:
    module = importlib.import_module(f"mesalens.cli.{name}")
    return module.for_arguments(arguments) if hasattr(module, "for_arguments") else getattr(module, COMMANDS[name])


def _later(function: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """The command with the same options that, once they are read, waits to be called."""

    @functools.wraps(function)
    def read(*arguments, **options):
        return functools.partial(function, *arguments, **options)

    return read


def _sentence(box: str) -> str:
    """What tyro says in a box, as one line: without its title, and without the help that follows."""
    lines = [line.strip("│|+─ ╭╮╰╯") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()]
    words = " ".join(" ".join(line for line in lines[1:] if line.strip("-")).split())
    return (
        re.split(r" (?:Got errors|Argument helptext|For full helptext)", words)[0].rstrip(".")
        + "; see mesalens --help."
    )
