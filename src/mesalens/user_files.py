"""Python files of users: imported by path, and sent to other machines with the work."""

import hashlib
import importlib.util
import sys
import threading
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

_IMPORTING = threading.RLock()
_imported: dict[tuple[str, str], types.ModuleType] = {}
_sent: dict[str, Path] = {}
_contents: dict[str, bytes] = {}
"""What files had in them when they were imported; they may be gone when they are sent."""
_others: set[str] = set()
_forget: list[Callable[[], object]] = []


def import_file(path: str | Path, name: str) -> types.ModuleType:
    """The module in a file, imported once under a name.

    Raises:
        FileNotFoundError: if there is no such file.
        Exception: what the file raises; it can then be imported again.
    """
    path = str(Path(path).resolve())
    with _IMPORTING:
        if (path, name) not in _imported:
            # A file that was sent has precedence over a local file with the same path
            place = _sent.get(path, Path(path))
            content = place.read_bytes()
            spec = importlib.util.spec_from_file_location(name, place)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module  # dataclasses look their module up by name
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[name]
                raise
            _imported[path, name], _contents[path] = module, content
        return _imported[path, name]


def is_there(path: str | Path) -> bool:
    """Whether a file is on this machine, or was sent to it."""
    return str(Path(path).resolve()) in _sent or Path(path).is_file()


class Source(NamedTuple):
    """A file to be sent: its path, the name of its module, and its text."""

    path: str
    module: str | None
    text: str


def send(path: str | Path) -> None:
    """Makes `sources` contain a file that was imported in another way."""
    with _IMPORTING:
        path = str(Path(path).resolve())
        _others.add(path)
        _contents[path] = _sent.get(path, Path(path)).read_bytes()


def sources() -> list[Source]:
    """The files that have been imported, to be sent with work that may need them."""
    with _IMPORTING:
        modules: list[tuple[str, str | None]] = [*_imported, *((path, None) for path in _others)]
        return [Source(path, name, _contents[path].decode()) for path, name in modules]


def receive(files: Iterable[Source], folder: Path) -> None:
    """Receives files from another machine, and imports those that were imported there.

    If a file that was imported before has changed, everything that was made from files is
    forgotten.

    Args:
        files: The files.
        folder: The folder in which to keep them.

    Raises:
        Exception: what a file raises.
    """
    with _IMPORTING:
        for path, name, text in files:
            place = folder / hashlib.sha256((path + text).encode()).hexdigest()[:16]
            kept = place / Path(path).name
            if _sent.get(path) != kept:
                place.mkdir(exist_ok=True)
                kept.write_text(text, encoding="utf-8")
                _sent[path], _contents[path] = kept, text.encode()
                if old := [key for key in _imported if key[0] == path]:
                    for key in old:
                        del _imported[key]
                    for forget in _forget:
                        forget()
            if name is not None:  # pickles name the module
                import_file(path, name)


def when_files_change(forget: Callable[[], object]) -> None:
    """Registers a function to call when an imported file has changed."""
    _forget.append(forget)
