"""The public names of the package, with their docstrings as the API reference reads them."""

import functools
import importlib
import inspect
from pathlib import Path
from typing import Any

import griffe

import mesalens

ROOMS = (
    "",
    "prompt",
    "random",
    "tasks",
    "learners",
    "models",
    "adapters",
    "theory",
    "analysis",
    "plots",
    "training",
    "atlas",
    "studies",
    "identification",
    "execution",
    "progress",
    "program_cache",
)
"""The package itself, and its modules with public names."""


@functools.cache
def package() -> Any:
    """The package as griffe reads it from its sources."""
    sources = Path(mesalens.__file__).parent.parent
    return griffe.load("mesalens", search_paths=[sources], docstring_parser="google")


def names_of(room: str) -> list[str]:
    """The public names of a room: those its stub lists, or those its module defines."""
    module = importlib.import_module(f"mesalens.{room}" if room else "mesalens")
    if Path(module.__file__ or "").with_suffix(".pyi").exists():
        values = {name: getattr(module, name) for name in module.__all__}
        public = [name for name, value in values.items() if not inspect.ismodule(value)]
    else:
        members = package()[room].members
        public = [
            name
            for name, member in members.items()
            if not (member.is_alias or member.is_module or name.startswith("_"))
        ]
    return [f"{room}.{name}" if room else name for name in public]


def source_of(name: str) -> Any:
    """What griffe knows of a public name, at the place where it is defined."""
    found = package()[name]
    return found.final_target if found.is_alias else found


def value_of(name: str) -> Any:
    """The object that has a public name."""
    module, _, own = f"mesalens.{name}".rpartition(".")
    return getattr(importlib.import_module(module), own)
