"""The pages of the API reference: one a room, with every public name."""

import functools
import importlib
import inspect
from pathlib import Path
from typing import Any

import griffe

import mesalens

ROOMS = (
    "mesalens",
    "prompt",
    "random",
    "tasks",
    "learners",
    "models",
    "adapters",
    "theory",
    "analysis",
    "training",
    "identification",
    "atlas",
    "studies",
    "execution",
    "plots",
    "progress",
    "program_cache",
)
"""The package itself, and its rooms and modules with public names, in the order of the site."""


def write(folder: Path) -> None:
    """Writes a page for each room into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for room in ROOMS:
        (folder / f"{room}.md").write_text(_page(room), encoding="utf-8")


@functools.cache
def package() -> Any:
    """The package as Griffe reads it from its sources."""
    sources = Path(mesalens.__file__).parents[1]
    return griffe.load(
        "mesalens", search_paths=[sources], docstring_parser="google", resolve_aliases=True
    )


def path_of(room: str) -> str:
    """The path of a room for imports."""
    return room if room == "mesalens" else f"mesalens.{room}"


def names_of(room: str) -> list[str]:
    """The public names of a room: those its stub lists, or what its module defines."""
    module = importlib.import_module(path_of(room))
    if Path(module.__file__ or "").with_suffix(".pyi").exists():
        return [name for name in module.__all__ if not inspect.ismodule(getattr(module, name))]
    return [
        name
        for name, member in package()[room].members.items()
        if not (member.is_alias or name.startswith("_")) and (member.is_class or member.is_function)
    ]


def _page(room: str) -> str:
    """What the room is for, a table of its names, and each name's docstring."""
    module = package() if room == "mesalens" else package()[room]
    names = sorted(names_of(room), key=str.lower)
    rows = [f"| [`{n}`][{module.path}.{n}] | {_summary(module[n])} |\n" for n in names]
    entries = [f"\n::: {module.path}.{name}\n" for name in names]
    described = module.docstring.value if module.docstring else ""
    table = "| name | what it is |\n|---|---|\n" + "".join(rows)
    return f"# {module.path}\n\n{described}\n\n{table}{''.join(entries)}"


def _summary(each: griffe.Object | griffe.Alias) -> str:
    """The first paragraph of the docstring, in one line."""
    return " ".join(each.docstring.value.strip().split("\n\n")[0].split()) if each.docstring else ""
