"""Matrices in files."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from mesalens.checks import InputError, matrix

LARGEST_FILE = 64 * 2**20
"""The largest size of a file, in bytes."""


def read_matrix(file: Path) -> Float[np.ndarray, "rows columns"]:
    """The matrix in a `.npy` file, or in a text file with one matrix row per line.

    In text, numbers are separated by commas or white space. A header line, comments after `#`, a
    trailing comma and a byte order mark are skipped. Pickled objects are never loaded.

    Args:
        file: The path of the file.

    Returns:
        The matrix, in float64.

    Raises:
        ValueError: If it is not a regular file of at most 64 MiB, or does not hold a matrix of
            finite real numbers.
    """
    if not file.is_file():  # reading a pipe or a device may never end
        raise InputError(f"{file} is not a file; give a CSV or .npy file with a matrix.")
    if file.stat().st_size > LARGEST_FILE:
        raise InputError(f"{file} is larger than {LARGEST_FILE:,} bytes; give a smaller matrix.")
    try:
        if file.suffix == ".npy":
            # Mapped, not read: a damaged header may claim more bytes than there is memory
            array = np.lib.format.open_memmap(file, mode="r")
        else:
            array = _parsed(file.read_text("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}).") from None
    except (ValueError, TypeError, EOFError):
        raise InputError(
            f"{file} is not a matrix of finite numbers; write one row per line, with the same "
            "number of entries in each, separated by commas."
        ) from None
    if array.ndim != 2 or not array.size:
        raise InputError(f"{file} must hold a matrix; its array has shape {array.shape}.")
    return matrix(str(file), array, array.shape)


def _parsed(text: str) -> Float[np.ndarray, "rows columns"]:
    lines = [line.strip().removesuffix(",") for line in text.replace('"', "").splitlines()]
    lines = [line for line in lines if line.partition("#")[0]]
    if not lines:
        raise ValueError
    rows = np.genfromtxt(lines, delimiter="," if "," in text else None, ndmin=2)
    # What is not a number, as in a header, becomes NaN
    return rows[1:] if np.isnan(rows[0]).all() else rows
