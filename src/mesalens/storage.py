"""Results on disk: weights as safetensors, labelled results as netCDF.

Nothing is pickled.
"""

import threading
from collections.abc import Mapping
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import safetensors
import safetensors.numpy
import xarray as xr
from jaxtyping import PyTree
from xarray.backends import NetCDF4DataStore

from mesalens.checks import InputError
from mesalens.files import replace_file, replacing

_NETCDF = threading.Lock()
"""The netCDF library is not thread-safe."""


def save_arrays(tree: PyTree, file: Path) -> None:
    """Writes the arrays of a pytree to a safetensors file, with the names of `named_arrays`."""
    replace_file(file, safetensors.numpy.save(named_arrays(tree)))


def load_arrays(tree: PyTree, file: Path) -> PyTree:
    """The pytree with its arrays replaced by those of a safetensors file.

    Args:
        tree: Structure and shapes, for example from `eqx.filter_eval_shape`.
        file: A file written by `save_arrays`.

    Raises:
        InputError: if the file is missing or damaged, or its names or shapes differ from the tree.
    """
    arrays = _read(file, safetensors.numpy.load_file)
    try:
        return with_arrays(tree, arrays)
    except ValueError:
        raise InputError(
            f"{file} has the weights of another model than its settings; restore it, or train "
            "again."
        ) from None


def named_arrays(tree: PyTree) -> dict[str, np.ndarray]:
    """The arrays of a pytree by path (`W_Q`, `layers.0.weight`); random keys as integers."""
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
    with replacing(file) as temporary, _NETCDF:
        # In a process of a Dask cluster, `to_netcdf` would lock the file through the cluster
        store = NetCDF4DataStore.open(str(temporary), mode="w", lock=threading.RLock())
        try:
            dataset.dump_to_store(store)
        finally:
            store.close()


def load_dataset(file: Path) -> xr.Dataset:
    """The labelled dataset in a netCDF file.

    Raises:
        InputError: if the file is missing or damaged.
    """
    with _NETCDF:
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
        raise InputError(f"{file} is damaged ({error}); restore it, or run again.") from None


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
