"""Python files of users: imported by path, and sent to other machines with the work."""

import ast
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
_siblings: dict[str, list[str]] = {}
"""The files of their folder that files import."""
_others: set[str] = set()
_forget: list[Callable[[], object]] = []


def import_file(path: str | Path, name: str) -> types.ModuleType:
    """The module in a file, imported once under a name.

    It can import files beside it by their names, as if Python ran it.

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
            folder = str(Path(path).parent)
            if folder not in sys.path:  # last, so that it hides no package
                sys.path.append(folder)
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[name]
                raise
            # Before it, so that they are there when it is imported elsewhere
            _siblings[path] = [*_beside(path, content)]
            for other in _siblings[path]:
                _imported.setdefault((other, Path(other).stem), sys.modules[Path(other).stem])
                _contents.setdefault(other, Path(other).read_bytes())
            _imported[path, name], _contents[path] = module, content
        return _imported[path, name]


def files_beside(path: str | Path) -> dict[str, bytes]:
    """The files of the same folder that an imported file imports, by name, as they were then.

    Args:
        path: The file.
    """
    return {
        Path(other).name: _contents[other] for other in _siblings.get(str(Path(path).resolve()), [])
    }


def _beside(path: str, content: bytes, found: dict[str, None] | None = None) -> dict[str, None]:
    """The files of its folder that a file imports, after those that they import themselves."""
    found = {} if found is None else found
    for name in _imports(content):
        file = str(Path(path).with_name(f"{name}.py"))
        if getattr(sys.modules.get(name), "__file__", None) == file and file not in found:
            found[file] = None  # so that files may import each other
            _beside(file, Path(file).read_bytes(), found)
            found[file] = found.pop(file)  # last
    return found


def _imports(content: bytes) -> set[str]:
    """The names of the modules that a file imports, without those in packages."""
    nodes = list(ast.walk(ast.parse(content)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {
        node.module for node in nodes if isinstance(node, ast.ImportFrom) if node.module
    }


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

    If a file that was imported before has changed, all are imported again, as they may import each
    other, and everything that was made from files is forgotten.

    Args:
        files: The files.
        folder: The folder in which to keep them.

    Raises:
        Exception: what a file raises.
    """
    with _IMPORTING:
        files = list(files)
        for path, _, text in files:
            place = folder / hashlib.sha256((path + text).encode()).hexdigest()[:16]
            kept = place / Path(path).name
            if _sent.get(path) != kept:
                place.mkdir(exist_ok=True)
                kept.write_text(text, encoding="utf-8")
                _sent[path], _contents[path] = kept, text.encode()
                if any(known == path for known, _ in _imported):
                    _imported.clear()
                    for forget in _forget:
                        forget()
        for path, name, _ in files:
            if name is not None:  # pickles name the module
                import_file(path, name)


def when_files_change(forget: Callable[[], object]) -> None:
    """Registers a function to call when an imported file has changed."""
    _forget.append(forget)
