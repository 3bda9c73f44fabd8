"""`Store`: results, addressed by what was computed, so that nothing is computed twice."""

import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import psutil

from mesalens.checks import InputError
from mesalens.files import make_folder, replace_file, writing
from mesalens.manifest import DamagedError, read_manifest, verify, write_manifest

FORMAT = 1
ADVICE = "finished results are kept; free space, or give another --store, and run it again"


@dataclass(frozen=True)
class Entry:
    """A result in a store: its address, its folder, and its manifest."""

    address: str
    folder: Path
    about: Mapping[str, Any]

    @property
    def bytes(self) -> int:
        """The size of its files."""
        return sum(file.stat().st_size for file in self.folder.iterdir())


class Store:
    """A folder of results, each in its own subfolder, which is written atomically.

    An *address* is a digest of what is computed. A *name* is a digest of how it was requested
    (settings, code and versions), which is known without tracing a program; it points to an
    address. Several processes may use a store at the same time.

    Args:
        folder: By default `store` in the user's cache folder for mesalens.
        say: Called with a message if a damaged result is removed.

    Raises:
        ValueError: if the folder cannot be written, is not a store, or is from a newer version.
    """

    def __init__(self, folder: Path | None = None, say: Callable[[str], object] = print):
        self.folder = Path(folder or platformdirs.user_cache_path("mesalens") / "store").absolute()
        self.say = say
        if self.folder.is_file():
            raise InputError(f"{self.folder} is a file; give a folder for the store.")
        about = self.folder / "store.json"
        if not about.exists():
            files = self.folder.iterdir() if self.folder.is_dir() else ()
            # Another process may be creating the store
            other = any(not file.name.startswith(".") for file in files)
            if other and not about.exists():
                raise InputError(f"{self.folder} is not a store, and not empty; give a new folder.")
            make_folder(self.folder)
            with writing(self.folder):
                replace_file(about, json.dumps({"format": FORMAT}).encode())
        try:
            version = int(json.loads(about.read_bytes())["format"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise InputError(f"{about} is damaged ({error}); give another --store.") from None
        if version > FORMAT:
            raise InputError(
                f"{self.folder} was made by a newer mesalens; update mesalens, or give another "
                "--store."
            )
        for name in ("results", "names", "unfinished"):
            with writing(self.folder):
                (self.folder / name).mkdir(exist_ok=True)
        self._remove_abandoned()

    def find(self, name: str) -> Entry | None:
        """The result that a name points to, or None."""
        address = self.address(name)
        with suppress(OSError, ValueError):
            return None if address is None else self.get(address)
        return None

    def address(self, name: str) -> str | None:
        """The address that a name points to, or None; it may have only states."""
        with suppress(OSError, ValueError):
            return (self.folder / "names" / name).read_text().strip()
        return None

    def get(self, address: str) -> Entry | None:
        """The result at an address, or None; a damaged result is removed, with a message."""
        folder = self._results(address)
        try:
            about = read_manifest(folder)
            if about is None:
                return None
            verify(folder, about)
        except DamagedError as error:
            self.say(f"{error} The result will be computed again.")
            shutil.rmtree(folder, ignore_errors=True)
            return None
        return Entry(address, folder, about)

    def keep(
        self,
        address: str,
        kind: str,
        write: Callable[[Path], object],
        about: Mapping[str, Any],
        name: str | None = None,
    ) -> Entry:
        """Stores a result.

        Args:
            address: Its address.
            kind: The kind of result.
            write: `write(folder)` writes the files into an empty folder.
            about: Further entries of the manifest.
            name: A name that will point to it.

        Raises:
            ValueError: if it cannot be written.
        """
        content: dict[str, Any] = {}

        def fill(folder: Path) -> None:
            write(folder)
            content.update(write_manifest(folder, kind, about))

        final = self._place(address, fill)
        if name is not None:
            self.name(name, address)
        return Entry(address, final, content)

    def adopt(self, address: str, files: Mapping[str, bytes]) -> None:
        """Stores a result from another store, given by its files (with the manifest) by name.

        Raises:
            ValueError: if it is damaged or cannot be written.
        """

        def fill(folder: Path) -> None:
            for name, content in files.items():
                (folder / Path(name).name).write_bytes(content)
            about = read_manifest(folder)
            if about is None:
                raise DamagedError(f"the result {address[:12]} came without its manifest.")
            verify(folder, about)

        self._place(address, fill)

    def _place(self, address: str, fill: Callable[[Path], object]) -> Path:
        """The folder of a result, which is created once a function has written its files."""
        final = self._results(address)
        with writing(self.folder, ADVICE):
            prefix = f".{os.getpid()}@{socket.gethostname()}-"
            temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=self.folder))
            try:
                fill(temporary)
                temporary.chmod(0o755)  # mkdtemp gives access only to the owner
                final.parent.mkdir(exist_ok=True)
                with suppress(OSError):  # another process has stored the same result
                    temporary.rename(final)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            if not final.is_dir():
                raise InputError(f"{final} cannot be written; {ADVICE}.")
        return final

    def name(self, name: str, address: str) -> None:
        """Makes a name point to an address."""
        with writing(self.folder, ADVICE):
            replace_file(self.folder / "names" / name, address.encode())

    def unfinished(self, address: str) -> Path:
        """The folder for states of unfinished work on an address."""
        return self.folder / "unfinished" / address

    def keep_state(self, address: str, name: str, content: bytes) -> None:
        """Stores a state of unfinished work from another store."""
        folder = self.unfinished(Path(address).name)
        with writing(self.folder, ADVICE):
            folder.mkdir(exist_ok=True)
            replace_file(folder / Path(name).name, content)

    def addresses(self) -> frozenset[str]:
        """The addresses of all results."""
        return frozenset(folder.name for folder in (self.folder / "results").glob("*/*"))

    def forget_unfinished(self, address: str) -> None:
        """Removes the states of an address."""
        shutil.rmtree(self.unfinished(address), ignore_errors=True)

    def entries(self) -> Iterator[Entry]:
        """All results that have a manifest; their files are not verified."""
        for folder in sorted((self.folder / "results").glob("*/*")):
            with suppress(InputError):
                if about := read_manifest(folder):
                    yield Entry(folder.name, folder, about)

    def entry(self, start: str) -> Entry:
        """The result whose address begins with the given letters.

        Raises:
            ValueError: if there is none, or more than one.
        """
        found = [entry for entry in self.entries() if entry.address.startswith(start)]
        if len(found) != 1:
            many = f"{len(found)} results have" if found else "no result has"
            raise InputError(
                f"{many} an address that begins with {start!r}; `mesalens store` lists them."
            )
        return found[0]

    def remove(self, entry: Entry) -> None:
        """Removes a result."""
        shutil.rmtree(entry.folder, ignore_errors=True)

    def _results(self, address: str) -> Path:
        return self.folder / "results" / address[:2] / address

    def _remove_abandoned(self) -> None:
        """Removes the temporary folders of processes of this machine that no longer exist."""
        for folder in self.folder.glob(f".*@{socket.gethostname()}-*"):
            pid = folder.name[1:].partition("@")[0]
            if pid.isdigit() and not psutil.pid_exists(int(pid)):
                shutil.rmtree(folder, ignore_errors=True)


def digest(value: Any) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
