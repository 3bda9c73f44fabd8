"""Folders of results: written whole or not at all, and read back with a sentence where something is wrong.

Weights are safetensors, labelled results netCDF, settings JSON: nothing is pickled.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    """A folder to write into, which appears under its name only when the block ends without an error.

    Raises `ValueError` before anything is computed where the name is a file, a folder with something in it, or cannot be written; and
    where this has become so by the end, with the place where the results lie then.
    """
    folder = Path(folder).absolute()
    try:
        if folder.is_file():
            raise InputError(f"{folder} is a file; give the name of a new folder.")
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"{folder} is not empty; give the name of a new folder, so that nothing is lost.")
        missing = [parent for parent in folder.parents if not parent.exists()]
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); give another folder.") from None
    try:
        yield unfinished
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        _remove_empty(missing)
        raise
    try:
        unfinished.chmod(0o755)  # mkdtemp lets only the owner in
        unfinished.replace(folder)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written any more ({error.strerror}); the results lie in {unfinished}, move them from there."
        ) from None


def require_writable(folder: Path) -> None:
    """Raises `ValueError` where nothing can be written into a folder, which need not be there yet; leaves all as it was."""
    folder = Path(folder).absolute()
    try:
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); give another folder.") from None
    _remove_empty(missing)


def _remove_empty(folders: list[Path]) -> None:
    """Removes folders, the innermost first; one that holds anything else by now stays."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            break


def replace_file(file: Path, content: bytes) -> None:
    """Writes a file anew: at whatever moment the process ends, it holds all that it held before or all of the content."""
    with _replacing(file) as beside:
        beside.write_bytes(content)


@contextmanager
def _replacing(file: Path) -> Iterator[Path]:
    """A file beside another to write into, which takes its place when the block ends without an error."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        yield beside
        with beside.open("rb+") as stream:
            os.fsync(stream.fileno())  # or a machine that goes down could keep the new name without the content
        beside.replace(file)
        _keep_names(file.parent)
    finally:
        beside.unlink(missing_ok=True)


def _keep_names(folder: Path) -> None:
    """Has the disk keep the names in a folder, where the system can be asked for it."""
    if hasattr(os, "O_DIRECTORY"):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def remove_unfinished(folder: Path) -> None:
    """Removes what a process that was killed in `replace_file` left beside its file; nobody else may be writing there."""
    for beside in folder.glob(".*.*"):
        if beside.suffix[1:].isdigit() and beside.is_file():
            beside.unlink()


def save_arrays(tree: PyTree, file: Path) -> None:
    """Writes the arrays of a pytree to a safetensors file, each under its path in the tree (`W_Q`, `layers.0.weight`, …)."""
    replace_file(file, safetensors.numpy.save(named_arrays(tree)))


def load_arrays(tree: PyTree, file: Path) -> PyTree:
    """The pytree with its arrays replaced by those of the file; the shapes in `tree` may be those of `eqx.filter_eval_shape`.

    Raises `ValueError` where the file is missing or damaged, or its names or shapes are others.
    """
    stored = _read(file, safetensors.numpy.load_file)
    try:
        return with_arrays(tree, stored)
    except ValueError:
        raise InputError(
            f"{file} holds the weights of another model than its settings describe; restore the file or train again."
        ) from None


def named_arrays(tree: PyTree) -> dict[str, np.ndarray]:
    """The arrays of a pytree by their paths in it; random keys as their data."""
    return {name: np.asarray(_data(leaf), order="C") for name, leaf in _named_leaves(tree)}


def with_arrays(tree: PyTree, arrays: Mapping[str, np.ndarray]) -> PyTree:
    """The pytree with its arrays replaced by those of `named_arrays`; raises `ValueError` where names or shapes are others."""
    leaves = _named_leaves(tree)
    expected = {name: jax.eval_shape(_data, leaf).shape for name, leaf in leaves}
    if {name: array.shape for name, array in arrays.items()} != expected:
        raise ValueError("the arrays are not those of the tree")
    new = iter([_like(leaf, arrays[name]) for name, leaf in leaves])
    return jax.tree.map(lambda leaf: next(new) if _is_array(leaf) else leaf, tree)


def save_dataset(dataset: xr.Dataset, file: Path) -> None:
    """Writes a labelled dataset as netCDF."""
    with _replacing(file) as beside:
        dataset.to_netcdf(beside, engine="netcdf4")


def load_dataset(file: Path) -> xr.Dataset:
    """Reads a labelled dataset; raises `ValueError` where the file is missing or damaged."""
    return _read(file, lambda path: xr.load_dataset(path, engine="netcdf4"))


def load_text(file: Path) -> str:
    """Reads a text; raises `ValueError` where the file is missing or is no text."""
    return _read(file, lambda path: Path(path).read_text(encoding="utf-8"))


def _read(file, reader):
    try:
        return reader(file)
    except FileNotFoundError:
        raise InputError(f"{file} is missing; the folder is not a finished run of mesalens.") from None
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise InputError(f"{file} is damaged ({error}); restore the file or run again.") from None


def _is_array(leaf):
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _named_leaves(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves if _is_array(leaf)]


def _is_key(leaf):
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf):
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _like(leaf, array):
    array = jax.numpy.array(array)
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else array
