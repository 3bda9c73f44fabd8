"""The public names of the package, as the API reference of the site lists them."""

import importlib
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))

import reference

ROOMS = reference.ROOMS


def names_of(room: str) -> list[str]:
    """The public names of a room, with its path: "tasks.Gaussian"."""
    return [f"{reference.path_of(room)}.{name}" for name in reference.names_of(room)]


def source_of(name: str) -> Any:
    """What griffe knows of a public name, at the place where it is defined."""
    found = reference.package()[name.removeprefix("mesalens.")]
    return found.final_target if found.is_alias else found


def value_of(name: str) -> Any:
    """The object that has a public name."""
    module, _, own = name.rpartition(".")
    return getattr(importlib.import_module(module), own)
