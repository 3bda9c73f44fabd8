"""Matrices that people keep in files."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from mesalens.checks import InputError

Matrix = tuple[tuple[float, ...], ...]
"""A matrix as settings keep it: its rows."""


def read_matrix(file: Path) -> Float[np.ndarray, "rows columns"]:
    """A matrix from a `.npy` file, or from CSV with one row a line; nothing pickled is read.

    Raises `ValueError` where the file is missing or holds no matrix of numbers.
    """
    try:
        if file.suffix == ".npy":
            matrix = np.load(file, allow_pickle=False)
        else:
            matrix = np.loadtxt(file, delimiter=",", ndmin=2)
        matrix = np.asarray(matrix, np.float64)
    except FileNotFoundError:
        raise InputError(f"there is no file {file}; give a CSV or .npy file with the matrix.") from None
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise InputError(f"{file} holds no matrix of numbers ({error}); write it as CSV, one row a line.") from None
    if matrix.ndim != 2:
        raise InputError(f"{file} holds an array of shape {matrix.shape}; a matrix has two dimensions.")
    return matrix
