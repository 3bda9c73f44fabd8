"""Commands as settings, whose fields are the options on the command line.

An option has the name of its field's path, such as `--task.noise.variance`. Where a class is chosen
by name, there are options for the parameters of all classes of that axis, and of classes in files
that the user gives. Values are read as strings here, and checked by the settings.
"""

import argparse
import difflib
import inspect
import textwrap
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic.fields import FieldInfo

from mesalens.checks import InputError, one_of
from mesalens.kinds import Member, Settings, nested, settings_class
from mesalens.names import AXES, SHORT

POSITIONAL = "positional"
"""Marks a field that is a positional argument."""

WORDS = "words"
"""Marks a field that takes several words."""

OWN_CLASSES = (
    "Where an option takes a KIND, a class of yours can be given as file.py:Name or module:Name; "
    "its parameters are then options too."
)
"""The end of the help of commands whose parts are chosen by name."""

Use = tuple[FieldInfo, str]
"""A field of an option, and the name of the class that has it."""


class Command(Settings):
    """A command: its fields are options, and calling it runs it and returns the exit code."""

    json_: bool = False
    """print the result as JSON, and nothing else, on standard output"""

    def __call__(self) -> int:
        """Runs the command; returns the exit code."""
        raise NotImplementedError


def named(value: Any) -> Any:
    """The name of a folder; raises `ValueError` if it is empty (it would mean the current one)."""
    if value == "":
        raise InputError("the name of a folder must not be empty.")
    return value


Folder = Annotated[Path, pydantic.BeforeValidator(named)]


def pairs(words: Any) -> Any:
    """Settings from words such as `dim=20`; anything but a list of words is returned unchanged."""
    if not isinstance(words, list | tuple):
        return words
    settings = {name: value for name, _, value in (str(word).partition("=") for word in words)}
    if bad := [name for name, value in settings.items() if not value]:
        raise InputError(f"settings must be given as NAME=VALUE; got {bad[0]!r}.")
    names = [str(word).partition("=")[0] for word in words]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"the setting {twice[0]!r} is given twice.")
    return settings


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise InputError(f"{message}; see {self.prog} --help.")


class _Help(argparse.HelpFormatter):
    """Breaks lines at spaces only, and leaves indented paragraphs of descriptions as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.split("\n\n")
        return "\n\n".join(p if p[:1] == " " else textwrap.fill(p, width) for p in paragraphs)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)


def read_options(command: type[Command], prog: str, arguments: list[str]) -> Command:
    """The command with the options from the command line.

    Raises:
        ValueError: if an option is unknown, or a value is invalid.
    """
    parser = parser_of(command, prog)
    given, rest = parser.parse_known_args(arguments)
    words = {path: word for path, word in vars(given).items() if isinstance(word, str)}
    foreign = {path: word for path, word in words.items() if ":" in word}
    if foreign:  # classes in the user's files have options too
        parser = parser_of(command, prog, foreign)
        given, rest = parser.parse_known_args(arguments)
    if rest:
        name = rest[0].partition("=")[0]
        if name.startswith("--"):
            _refuse(name, list(parser._option_string_actions))
        raise InputError(f"unexpected argument {rest[0]!r}; see {prog} --help.")
    return command.read(nested(dict(sorted(vars(given).items()))))


def _refuse(name: str, known: list[str]) -> typing.NoReturn:
    """The sentence for an unknown option, with those that were perhaps meant."""
    part, _, last = name.rpartition(".")
    # People remember the last part of a path
    alike = [option for option in known if option.rpartition(".")[2] == name.lstrip("-")]
    of_part = [option for option in known if part and option.rpartition(".")[0] == part]
    ends = {option.rpartition(".")[2]: option for option in of_part}
    near = [*filter(lambda end: _shortens(last, end), ends)]
    near += difflib.get_close_matches(last, [end for end in ends if end not in near], cutoff=0.5)
    if alike or not of_part:
        one_of("option", name, alike or known)
    if near:
        options = " or ".join(ends[end] for end in near)
        raise InputError(f"there is no option {name!r}; did you mean {options}?")
    shown = ", ".join(sorted(ends))
    raise InputError(f"there is no option {name!r}; after {part}. there can be {shown}.")


def _shortens(short: str, name: str) -> bool:
    """Whether these are letters of a name in their order, from its first, as in "df"."""
    letters = iter(name)
    return short[:1] == name[:1] and all(letter in letters for letter in short)


def parser_of(
    command: type[Command], prog: str, foreign: Mapping[str, str] | None = None
) -> argparse.ArgumentParser:
    """The parser of a command's options, also of those of classes in the user's files, by path.

    An action whose value is the name of a class has all `names` of its axis.
    """
    arguments = [_usage(n, f) for n, f in command.model_fields.items() if POSITIONAL in f.metadata]
    parser = _Parser(
        prog=prog,
        usage=" ".join([prog, *arguments, "[OPTIONS]"]),
        description=inspect.getdoc(command),
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=_Help,
    )
    if any(_axis(*field.metadata, field.annotation) for field in command.model_fields.values()):
        parser.epilog = OWN_CLASSES
    options: dict[str, list[Use]] = {}
    for path, use in _fields(command, foreign or {}):
        uses = options.setdefault(path, [])
        if use[1] not in [owner for _, owner in uses]:
            uses.append(use)
    groups: dict[str, Any] = {"": parser}
    for path, uses in options.items():
        title = path.rpartition(".")[0]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        _add(groups[title], path, uses)
    return parser


def _usage(name: str, field: FieldInfo) -> str:
    if WORDS in field.metadata:
        return f"[{name.upper()} ...]"
    return name.upper() if field.is_required() else f"[{name.upper()}]"


def _fields(
    model: type[Settings],
    foreign: Mapping[str, str],
    prefix: str = "",
    owner: str = "",
) -> Iterator[tuple[str, Use]]:
    """The fields of a model and of the settings in it, by their paths."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        if name != "kind":
            yield path, (field, owner)
        if axis := _axis(*field.metadata, field.annotation):
            for kind in filter(None, (foreign.get(path), *AXES[axis].members)):
                yield from _fields(settings_class(axis, kind), foreign, f"{path}.", kind)


def _axis(*types: Any) -> str | None:
    """The axis whose members a field of these types takes, if there is one."""
    for part in types:
        axis = part.axis if isinstance(part, Member) else _axis(*typing.get_args(part))
        if axis:
            return axis
    return None


def _add(group: Any, path: str, uses: list[Use]) -> None:
    field = uses[0][0]
    axis = _axis(*field.metadata, field.annotation)
    options: dict[str, Any] = {"help": _help(uses, axis).replace("%", "%%")}
    if POSITIONAL in field.metadata:
        number = "*" if WORDS in field.metadata else None if field.is_required() else "?"
        group.add_argument(path, nargs=number, metavar=path.upper(), **options)
        return
    if field.annotation is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif path == "vary" or WORDS in field.metadata:
        options |= {"nargs": "+", "metavar": "WORD"}
    else:
        options["metavar"] = "KIND" if axis else path.rpartition(".")[2].upper()
    short = [name for name, full in SHORT.items() if full == path]
    names = [f"--{name.replace('_', '-')}" for name in (path.rstrip("_"), *short)]
    action = group.add_argument(*names, dest=path, **options)
    action.names = list(AXES[axis].members) if axis else []


def _help(uses: list[Use], axis: str | None) -> str:
    """What an option is, for which classes, its choices and its default."""
    common = next((field.description for field, _ in uses if field.description), "")
    parts = [_by_owner([(owner, _sentence(f.description or common)) for f, owner in uses])]
    if axis:
        parts.append(f"one of {', '.join(AXES[axis].members)}")
    defaults = [(owner, _shown(field)) for field, owner in uses]
    if len({text for _, text in defaults}) == 1:  # the classes are named once
        defaults = [("", defaults[0][1])]
    if shown := _by_owner([each for each in defaults if each[1]], ", "):
        parts.append(shown if shown == "required" else f"default: {shown}")
    return "; ".join(filter(None, parts))


def _by_owner(texts: list[tuple[str, str]], separator: str = "; ") -> str:
    """Each text once, with the classes that have it in brackets."""
    owners: dict[str, list[str]] = {}
    for owner, text in texts:
        owners.setdefault(text, []).append(owner)
    shown = ((text, ", ".join(filter(None, names))) for text, names in owners.items())
    return separator.join(f"{text} ({names})".strip() if names else text for text, names in shown)


def _sentence(text: str) -> str:
    """A description as the text of an option: without a capital or a full stop."""
    head = text[:1].lower() if text[1:2].islower() else text[:1]
    return head + text[1:].rstrip(".")


def _shown(field: FieldInfo) -> str:
    """A default in words; "" if it is None or off, or a positional argument is required."""
    if field.is_required():
        return "" if POSITIONAL in field.metadata else "required"
    default = field.get_default()
    if isinstance(default, bool):
        return "on" if default else ""
    if isinstance(default, tuple) and all(isinstance(word, str) for word in default):
        default = " ".join(default)
    if not isinstance(default, str | int | float) or default == "":
        return ""
    return f"{default:g}" if isinstance(default, float) else str(default)
