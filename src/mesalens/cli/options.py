"""Commands as settings: their options on the command line, made from their fields.

An option is named by the path of its field, as `--task.noise.variance`. The fields of what is
chosen by name are those of all members of the axis, and of classes in files that are given. Values
are read as words here, and checked by the settings themselves.
"""

import argparse
import inspect
import itertools
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic_core import PydanticUndefined

from mesalens.checks import InputError, one_of
from mesalens.kinds import Member, Settings, settings_class
from mesalens.names import AXES, SHORT


class Positional:
    """Marks a field whose value is given without the name of an option."""


class Words:
    """Marks a field that takes several words."""


class Inline:
    """Marks a field with settings whose options have no prefix."""


class Command(Settings):
    """A command: its fields are options, and calling it runs it and returns the exit code."""

    def __call__(self) -> int:
        """Runs the command."""
        raise NotImplementedError

    @classmethod
    def completed(cls, content: dict[str, Any]) -> dict[str, Any]:
        """The options with what other options imply; as they are, by default."""
        return content


def named(value: Any) -> Any:
    """The name of a folder; raises `ValueError` for an empty one, which would be the current."""
    if value == "":
        raise InputError("give the name of a folder; got an empty one.")
    return value


Folder = Annotated[Path, pydantic.BeforeValidator(named)]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise InputError(f"{message}; see {self.prog} --help.")


class _Field(typing.NamedTuple):
    """A field as an option: its path in the command, its name there, and how it is described."""

    path: str
    name: str
    annotation: Any
    default: Any
    help: str
    owner: str

    def marked(self, mark: type) -> Any:
        """The first annotation of a kind in the field's type, or None."""
        parts = [self.annotation]
        while parts:
            part = parts.pop()
            if isinstance(part, mark):
                return part
            parts += [*typing.get_args(part), *getattr(part, "__metadata__", ())]
        return None


def read_options(command: type[Command], prog: str, arguments: list[str]) -> Command:
    """The command with the options that are given.

    Raises:
        ValueError: if there is no such option, or a value is not one that it takes.
    """
    parser = _parser(command, prog, {})
    given, rest = parser.parse_known_args(arguments)
    foreign = {path: kind for path, kind in vars(given).items() if _is_place(kind)}
    if foreign:  # the options of classes in the user's files are known only now
        parser = _parser(command, prog, foreign)
        given, rest = parser.parse_known_args(arguments)
    for word in rest:
        name = word.partition("=")[0]
        if name.startswith("--"):
            known = parser._option_string_actions
            # The last part of a path is what people remember of it
            alike = [option for option in known if option.rpartition(".")[2] == name.lstrip("-")]
            one_of("option", name, alike or known)
        raise InputError(f"there is nothing to do with {word!r}; see {prog} --help.")
    content: dict[str, Any] = {}
    for path, value in vars(given).items():
        _put(content, path.split("."), value)
    try:
        return command.read(command.completed(content))
    except InputError as error:  # options of inline settings have no prefix
        raise InputError(str(error).removeprefix("settings.")) from None


def _is_place(kind: Any) -> bool:
    return isinstance(kind, str) and ":" in kind


def _put(content: dict[str, Any], path: list[str], value: Any) -> None:
    """Puts a value at a path; that of a mapping with a name already is the name's parameter."""
    *parents, name = path
    for parent in parents:
        inner = content.setdefault(parent, {})
        if isinstance(inner, str):
            inner = content[parent] = {"kind": inner}
        content = inner
    if isinstance(content.get(name), dict):
        content[name]["kind"] = value
    else:
        content[name] = value


def _parser(command: type[Command], prog: str, foreign: Mapping[str, str]) -> _Parser:
    parser = _Parser(
        prog=prog,
        usage=f"{prog} [OPTIONS]",
        description=inspect.getdoc(command),
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    short = {full: name for name, full in SHORT.items()}
    fields: dict[str, list[_Field]] = {}
    for field in _fields(command, "", "", foreign):
        fields.setdefault(field.path, []).append(field)
    groups: dict[str, Any] = {"": parser}
    for alike in fields.values():
        field = alike[0]
        group = groups.get(prefix := field.name.rpartition(".")[0])
        if group is None:
            group = groups[prefix] = parser.add_argument_group(prefix)
        names = [f"--{_kebab(field.name)}"]
        names += [f"--{_kebab(short[field.name])}"] if field.name in short else []
        owners = ", ".join(dict.fromkeys(f.owner for f in alike if f.owner))
        text = " ".join(part for part in (field.help, owners and f"({owners})") if part)
        _add(group, field, names, text.replace("%", "%%"))
    return parser


def _add(group: Any, field: _Field, names: list[str], text: str) -> None:
    options: dict[str, Any] = {"dest": field.path, "help": text}
    if field.marked(Positional):
        required = field.default is PydanticUndefined
        group.add_argument(field.path, help=text, nargs=None if required else "?")
    elif field.annotation is bool and field.default is False and "." not in field.path:
        group.add_argument(*names, action="store_true", **options)
    elif field.annotation is bool:
        group.add_argument(*names, action=argparse.BooleanOptionalAction, **options)
    elif field.name == "vary" or field.marked(Words):
        group.add_argument(*names, nargs="+", metavar="WORDS", **options)
    elif member := field.marked(Member):
        known = "|".join(AXES[member.axis].members)
        group.add_argument(*names, metavar="KIND", **options | {"help": f"{text}: {known}"})
    else:
        group.add_argument(*names, metavar=field.name.rpartition(".")[2].upper(), **options)


def _fields(
    model: type[Settings], path: str, name: str, foreign: Mapping[str, str], owner: str = ""
) -> Iterator[_Field]:
    """The options of a model, those of nested settings included."""
    for key, info in model.model_fields.items():
        annotation = (
            Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
        )
        place, words = f"{path}{key}", f"{name}{key.rstrip('_')}"
        field = _Field(place, words, annotation, info.default, info.description or "", owner)
        if field.marked(Inline):
            yield from _fields(info.annotation, f"{place}.", name, foreign)  # pyright: ignore
            continue
        if key == "kind":
            continue
        default = _shown(info.default)
        shown = field.help + (f" ({default} by default)" if default else "")
        yield field._replace(help=shown, annotation=_bare(info.annotation, annotation))
        if member := field.marked(Member):
            chosen = [foreign[place]] if place in foreign else []
            for kind in itertools.chain(chosen, AXES[member.axis].members):
                nested = settings_class(member.axis, kind)
                yield from _fields(nested, f"{place}.", f"{words}.", foreign, kind)


def _bare(plain: Any, annotation: Any) -> Any:
    return plain if plain is bool else annotation


def _shown(default: Any) -> str:
    if isinstance(default, Mapping):
        return str(default.get("kind", ""))
    plain = isinstance(default, str | int | float) and not isinstance(default, bool)
    return f"{default:g}" if isinstance(default, float) else str(default) if plain else ""


def _kebab(name: str) -> str:
    return name.replace("_", "-")
