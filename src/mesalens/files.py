"""Folders and files that are written completely or not at all."""

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from mesalens.checks import InputError


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A context with a temporary folder, which is renamed to `folder` if the block succeeds.

    If the block raises an exception, the temporary folder is removed.

    Args:
        folder: The final name; it must not exist, or be an empty folder. Missing parents are
            created.

    Raises:
        InputError: before the block, if `folder` is a file, is not empty or cannot be written;
            after it, if the folder cannot be renamed. The results then stay in the temporary
            folder, which the error names.
    """
    with writing(folder):
        folder = Path(folder).absolute()
        _require_new(folder)
        missing = [parent for parent in folder.parents if not parent.exists()]
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        prefix = f".{folder.name}-{os.getpid()}-"
        unfinished = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        with writing(folder, "free space, or give another folder"):
            yield unfinished
    except BaseException:  # KeyboardInterrupt included
        shutil.rmtree(unfinished, ignore_errors=True)
        remove_empty(missing)
        raise
    with writing(folder, f"the results are in {unfinished}"):
        unfinished.chmod(0o755)  # mkdtemp gives access only to the owner
        unfinished.replace(folder)


def require_new(folder: Path) -> None:
    """Checks that `new_folder` could create a folder, and leaves no trace.

    Raises:
        InputError: if it could not.
    """
    with writing(folder):
        folder = Path(folder).absolute()
        _require_new(folder)
    require_writable(folder.parent)


def _require_new(folder: Path) -> None:
    if folder.is_file():
        raise InputError(f"{folder} is a file; give a new folder.")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; give a new folder.")


def _remove_abandoned(folder: Path) -> None:
    """Removes the temporary folders of killed processes that were writing this folder."""
    for other in folder.parent.glob(f".{folder.name}-*-*"):
        pid = other.name.removeprefix(f".{folder.name}-").split("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(other, ignore_errors=True)


def require_writable(folder: Path) -> None:
    """Checks that files can be written into a folder (it need not exist), and leaves no trace.

    Raises:
        InputError: if they cannot.
    """
    remove_empty(make_folder(folder))


def make_folder(folder: Path) -> list[Path]:
    """Creates a folder into which files can be written.

    Returns:
        The folders that were created, innermost first.

    Raises:
        InputError: if it cannot be created or written.
    """
    with writing(folder):
        folder = Path(folder).absolute()
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    return missing


def remove_empty(folders: list[Path]) -> None:
    """Removes folders, innermost first, up to the first that is not empty."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


@contextmanager
def writing(folder: Path, advice: str = "give another folder") -> Iterator[None]:
    """A context in which an `OSError`, or netCDF's `RuntimeError`, becomes an `InputError`."""
    try:
        os.fspath(folder).encode()  # netCDF and JSON take only names that are valid UTF-8
        yield
    except (OSError, RuntimeError, UnicodeEncodeError) as error:  # netCDF's is a RuntimeError
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, UnicodeEncodeError):
            reason = "the name is not UTF-8"
        raise InputError(f"{folder} cannot be written ({reason}); {advice}.") from None


def replace_file(file: Path, content: bytes) -> None:
    """Replaces the content of a file atomically.

    The file has either its old or its new content, even if the process or the machine stops.
    """
    with replacing(file) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A context with a temporary file, which replaces `file` if the block succeeds."""
    # A different name for each thread, because two may write the same file
    temporary = file.with_name(f".{file.name}.{os.getpid()}{threading.get_ident()}")
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())  # a power failure could otherwise keep the name but no data
        temporary.replace(file)
        _sync_names(file.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_names(folder: Path) -> None:
    """Makes renames in a folder durable. Windows cannot open a folder, so nothing is done there."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Removes the temporary files of processes that were killed while replacing a file.

    No other process may be writing into the folder.
    """
    for temporary in folder.glob(".*.*"):
        if temporary.suffix[1:].isdigit() and temporary.is_file():
            temporary.unlink()
