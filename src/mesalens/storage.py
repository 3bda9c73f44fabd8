"""Folders and files of results, written completely or not at all.

Weights are stored as safetensors, labelled results as netCDF and settings as JSON. Nothing is
pickled.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import safetensors
import safetensors.numpy
import xarray as xr
from jaxtyping import PyTree

from mesalens.checks import InputError


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A context with a temporary folder, which is renamed to `folder` when the block succeeds.

    If the block raises, the temporary folder is removed.

    Args:
        folder: the final name; it must not exist, or be an empty folder. Missing parents are made.

    Raises:
        InputError: before the block, if `folder` is a file, is not empty or cannot be written;
            after it, if the folder can no longer be renamed. The results stay in the temporary
            folder then, and the error names it.
    """
    with writing(folder):
        folder = Path(folder).absolute()
        if folder.is_file():
            raise InputError(f"{folder} is a file; give a new folder.")
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"{folder} is not empty; give a new folder.")
        missing = [parent for parent in folder.parents if not parent.exists()]
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield unfinished
    except BaseException:  # KeyboardInterrupt included
        shutil.rmtree(unfinished, ignore_errors=True)
        remove_empty(missing)
        raise
    with writing(folder, f"the results are in {unfinished}"):
        unfinished.chmod(0o755)  # mkdtemp gives access to the owner only
        unfinished.replace(folder)


def require_writable(folder: Path) -> None:
    """Checks that files can be written into a folder, which need not exist, and leaves no trace.

    Raises:
        InputError: if they cannot.
    """
    remove_empty(make_folder(folder))


def make_folder(folder: Path) -> list[Path]:
    """Makes a folder into which files can be written; returns what was missing, innermost first.

    Raises:
        InputError: if it cannot be made or written.
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
    """In the block an error of the system becomes an `InputError` that says what to do."""
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

    Whenever the process or the machine stops, the file has either its old or its new content.
    """
    with _replacing(file) as temporary:
        temporary.write_bytes(content)


@contextmanager
def _replacing(file: Path) -> Iterator[Path]:
    """A context with a temporary file, which replaces `file` when the block succeeds."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())  # or a power failure could keep the new name but not the data
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
    """Removes the temporary files of processes that were killed while they replaced a file.

    No other process may be writing into the folder.
    """
    for temporary in folder.glob(".*.*"):
        if temporary.suffix[1:].isdigit() and temporary.is_file():
            temporary.unlink()


def save_arrays(tree: PyTree, file: Path) -> None:
    """Writes the arrays of a pytree to a safetensors file, named as by `named_arrays`."""
    replace_file(file, safetensors.numpy.save(named_arrays(tree)))


def load_arrays(tree: PyTree, file: Path) -> PyTree:
    """The pytree with its arrays replaced by those of a safetensors file.

    Args:
        tree: gives the structure and the shapes, for example by `eqx.filter_eval_shape`.
        file: a file written by `save_arrays`.

    Raises:
        InputError: if the file is missing or damaged, or has other names or shapes than the tree.
    """
    arrays = _read(file, safetensors.numpy.load_file)
    try:
        return with_arrays(tree, arrays)
    except ValueError:
        raise InputError(
            f"{file} has the weights of another model than its settings; restore it or train again."
        ) from None


def named_arrays(tree: PyTree) -> dict[str, np.ndarray]:
    """The arrays of a pytree by their paths (`W_Q`, `layers.0.weight`); random keys as integers."""
    return {name: np.asarray(_data(leaf), order="C") for name, leaf in _named_leaves(tree)}


def with_arrays(tree: PyTree, arrays: Mapping[str, np.ndarray]) -> PyTree:
    """The pytree with its arrays replaced by those of `named_arrays`.

    Raises:
        ValueError: if names or shapes differ.
    """
    leaves = _named_leaves(tree)
    expected = {name: jax.eval_shape(_data, leaf).shape for name, leaf in leaves}
    if {name: array.shape for name, array in arrays.items()} != expected:
        raise ValueError("the arrays are not those of the tree")
    new = iter([_like(leaf, arrays[name]) for name, leaf in leaves])
    return jax.tree.map(lambda leaf: next(new) if _is_array(leaf) else leaf, tree)


def save_dataset(dataset: xr.Dataset, file: Path) -> None:
    """Writes a labelled dataset as netCDF, replacing the file atomically."""
    with _replacing(file) as temporary:
        dataset.to_netcdf(temporary, engine="netcdf4")


def load_dataset(file: Path) -> xr.Dataset:
    """The labelled dataset in a netCDF file.

    Raises:
        InputError: if the file is missing or damaged.
    """
    return _read(file, lambda path: xr.load_dataset(path, engine="netcdf4"))


def load_text(file: Path) -> str:
    """The text in a UTF-8 file.

    Raises:
        InputError: if the file is missing or is not text.
    """
    return _read(file, lambda path: Path(path).read_text(encoding="utf-8"))


def _read(file, reader):
    try:
        return reader(file)
    except FileNotFoundError:
        raise InputError(f"{file} is missing; its folder is not a finished run.") from None
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise InputError(f"{file} is damaged ({error}); restore it or run again.") from None


def _is_array(leaf):
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _named_leaves(tree):
    leaves = jax.tree.leaves_with_path(eqx.filter(tree, _is_array))
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]


def _is_key(leaf):
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf):
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _like(leaf, array):
    array = jax.numpy.array(array)
    if not _is_key(leaf):
        return array
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))
