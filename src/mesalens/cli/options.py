"""Commands as settings: their options on the command line, made from their fields.

An option is named by the path of its field, as `--task.noise.variance`. The fields of what is
chosen by name are those of all members of the axis, and of classes in files that are given. Values
are read as words here, and checked by the settings themselves.
"""

import argparse
import inspect
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
"""Marks a field whose value is given without the name of an option."""

WORDS = "words"
"""Marks a field that takes several words."""


class Command(Settings):
    """A command: its fields are options, and calling it runs it and returns the exit code."""

    json_: bool = False
    """print JSON alone on standard output"""

    def __call__(self) -> int:
        """Runs the command."""
        raise NotImplementedError


def named(value: Any) -> Any:
    """The name of a folder; raises `ValueError` for an empty one, which would be the current."""
    if value == "":
        raise InputError("give the name of a folder; got an empty one.")
    return value


Folder = Annotated[Path, pydantic.BeforeValidator(named)]


def pairs(words: Any) -> Any:
    """Settings from words such as `dim=20`, or as they are."""
    if not isinstance(words, list | tuple):
        return words
    settings = {name: value for name, _, value in (str(word).partition("=") for word in words)}
    if bad := [name for name, value in settings.items() if not value]:
        raise InputError(f"{bad[0]!r} is not a setting with a value, as NAME=20.")
    names = [str(word).partition("=")[0] for word in words]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"the setting {twice[0]!r} is given twice.")
    return settings


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise InputError(f"{message}; see {self.prog} --help.")


def read_options(command: type[Command], prog: str, arguments: list[str]) -> Command:
    """The command with the options that are given.

    Raises:
        ValueError: if an option is unknown, or does not take the value given.
    """
    parser = _parser(command, prog, {})
    given, rest = parser.parse_known_args(arguments)
    words = {path: word for path, word in vars(given).items() if isinstance(word, str)}
    foreign = {path: word for path, word in words.items() if ":" in word}
    if foreign:  # the options of classes in the user's files are known only now
        parser = _parser(command, prog, foreign)
        given, rest = parser.parse_known_args(arguments)
    if rest:
        name = rest[0].partition("=")[0]
        if name.startswith("--"):
            known = parser._option_string_actions
            # The last part of a path is what people remember of it
            alike = [option for option in known if option.rpartition(".")[2] == name.lstrip("-")]
            one_of("option", name, alike or known)
        raise InputError(f"there is nothing to do with {rest[0]!r}; see {prog} --help.")
    return command.read(nested(dict(sorted(vars(given).items()))))


def _parser(command: type[Command], prog: str, foreign: Mapping[str, str]) -> _Parser:
    parser = _Parser(
        prog=prog,
        usage=f"{prog} [OPTIONS]",
        description=inspect.getdoc(command),
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fields: dict[str, tuple[FieldInfo, list[str]]] = {}
    for path, field, owner in _fields(command, foreign):
        fields.setdefault(path, (field, []))[1].append(owner)
    groups: dict[str, Any] = {"": parser}
    for path, (field, owners) in fields.items():
        title = path.rpartition(".")[0]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        _add(groups[title], path, field, ", ".join(filter(None, dict.fromkeys(owners))))
    return parser


def _fields(
    model: type[Settings], foreign: Mapping[str, str], prefix: str = "", owner: str = ""
) -> Iterator[tuple[str, FieldInfo, str]]:
    """The fields of a model and of the settings in it: the path, the field, and whose it is."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        if name != "kind":
            yield path, field, owner
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


def _add(group: Any, path: str, field: FieldInfo, owners: str) -> None:
    default, axis = _shown(field.default), _axis(*field.metadata, field.annotation)
    notes = [f"({note})" for note in (default and f"{default} by default", owners) if note]
    text = " ".join([field.description or "", *notes])
    if axis:
        text = f"{text}: {'|'.join(AXES[axis].members)}"
    options: dict[str, Any] = {"help": text.replace("%", "%%")}
    if POSITIONAL in field.metadata:
        number = "*" if WORDS in field.metadata else None if field.is_required() else "?"
        group.add_argument(path, nargs=number, **options)
        return
    if field.annotation is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif path == "vary" or WORDS in field.metadata:
        options |= {"nargs": "+", "metavar": "WORDS"}
    else:
        options["metavar"] = "KIND" if axis else path.rpartition(".")[2].upper()
    short = [name for name, full in SHORT.items() if full == path]
    names = [f"--{name.replace('_', '-')}" for name in (path.rstrip("_"), *short)]
    action = group.add_argument(*names, dest=path, **options)
    action.names = list(AXES[axis].members) if axis else []  # for completion; others are valid too


def _shown(default: Any) -> str:
    if isinstance(default, Mapping):
        default = default.get("kind")
    if isinstance(default, bool) or not isinstance(default, str | int | float):
        return ""
    return f"{default:g}" if isinstance(default, float) else str(default)
