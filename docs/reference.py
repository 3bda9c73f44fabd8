"""The pages of the API reference: one a room, with every public name."""

import importlib
import inspect
from pathlib import Path

import griffe

ROOMS = (
    "mesalens",
    "tasks",
    "learners",
    "models",
    "adapters",
    "theory",
    "analysis",
    "training",
    "identification",
    "atlas",
    "execution",
    "plots",
)
"""The package itself, and its rooms with public names, in the order of the site."""

SOURCE = Path(__file__).parents[1] / "src"


def write(folder: Path) -> None:
    """Writes a page for each room into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    package = griffe.load("mesalens", search_paths=[SOURCE], resolve_aliases=True)
    for room in ROOMS:
        module = package if room == "mesalens" else package[room]
        (folder / f"{room}.md").write_text(_page(module), encoding="utf-8")


def public_names(path: str) -> list[str]:
    """The names that a room exports, without the rooms in it, in alphabetical order."""
    room = importlib.import_module(path)
    names = [name for name in room.__all__ if not inspect.ismodule(getattr(room, name))]
    return sorted(names, key=str.lower)


def _page(module: griffe.Object | griffe.Alias) -> str:
    """What the room is for, a table of its names, and each name's docstring."""
    names = public_names(module.path)
    rows = [f"| [`{n}`][{module.path}.{n}] | {_summary(module[n])} |\n" for n in names]
    entries = [f"\n::: {module.path}.{name}\n" for name in names]
    described = module.docstring.value if module.docstring else ""
    table = "| name | what it is |\n|---|---|\n" + "".join(rows)
    return f"# {module.path}\n\n{described}\n\n{table}{''.join(entries)}"


def _summary(each: griffe.Object | griffe.Alias) -> str:
    """The first paragraph of the docstring, in one line."""
    return " ".join(each.docstring.value.strip().split("\n\n")[0].split()) if each.docstring else ""
