"""The script with which a shell completes `mesalens`."""

import argparse
import pkgutil
from collections.abc import Mapping

import shtab

from mesalens.checks import one_of
from mesalens.cli.options import parser_of

SHELLS = ("bash", "zsh", "fish")


def script(shell: str, commands: Mapping[str, tuple[str, str]]) -> str:
    """The completion of all commands, their options and the names of members of axes.

    Args:
        shell: bash, zsh or fish.
        commands: the place and the purpose of each command, by name.

    Raises:
        ValueError: for another shell.
    """
    one_of("shell", shell, SHELLS)
    parser = argparse.ArgumentParser(prog="mesalens")
    parser.add_argument("--version", action="store_true", help="print the version")
    parsers = parser.add_subparsers()
    for name, (place, purpose) in commands.items():
        command = parser_of(pkgutil.resolve_name(f"mesalens.cli.{place}"), f"mesalens {name}")
        for action in command._actions:
            action.choices = getattr(action, "names", None) or action.choices
            if action.nargs != 0 and not action.choices:
                action.complete = shtab.FILE  # pyright: ignore
        parsers.add_parser(name, help=purpose, parents=[command], add_help=False)
    return shtab.complete(parser, shell)
