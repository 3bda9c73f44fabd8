"""The manifest of a folder of results: how and when it was made, and a checksum of each file.

The manifest is written last, so a folder that has one is complete.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mesalens.checks import InputError
from mesalens.environment import commit, environment
from mesalens.files import replace_file

MANIFEST = "manifest.json"
FORMAT = 1


class DamagedError(InputError):
    """A file is missing, or its content has changed."""


def write_manifest(
    folder: Path, kind: str, about: Mapping[str, Any], names: Iterable[str] | None = None
) -> dict[str, Any]:
    """Writes the manifest of some files in a folder, by default of all; returns its content."""
    names = sorted(_files(folder) if names is None else names)
    content = {
        "format": FORMAT,
        "kind": kind,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "environment": environment(),
        **about,
        "sha256": {name: _digest(folder / name) for name in names},
    }
    text = json.dumps(content, indent=2, ensure_ascii=False)
    replace_file(folder / MANIFEST, (text + "\n").encode())
    return content


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder, or None if it has none.

    Raises:
        ValueError: if it is damaged, or a newer version of mesalens wrote it.
    """
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
        known, writer = content["format"] <= FORMAT, content["environment"]["mesalens"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DamagedError(f"{folder / MANIFEST} is damaged ({error}).") from None
    if not known:
        raise InputError(
            f"{folder} was written by mesalens {writer}, which is newer; update mesalens."
        )
    return content


def verify(folder: Path, manifest: Mapping[str, Any], names: Iterable[str] | None = None) -> None:
    """Checks files of a folder, by default all, against its manifest.

    Raises:
        DamagedError: if a file is missing or has changed.
    """
    for name in manifest["sha256"] if names is None else names:
        file = folder / name
        if not file.is_file():
            raise DamagedError(f"{file} is missing.")
        if _digest(file) != manifest["sha256"].get(name):
            raise DamagedError(f"{file} is damaged (its checksum does not match).")


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise DamagedError(f"{file} cannot be read ({error.strerror}).") from None


def _files(folder: Path) -> list[str]:
    """All files except the manifest, by their paths in the folder."""
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return [file.as_posix() for file in files if file != Path(MANIFEST)]
