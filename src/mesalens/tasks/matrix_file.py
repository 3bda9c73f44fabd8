"""Matrices in files."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from mesalens.checks import InputError

LARGEST_FILE = 64 * 2**20
"""Bytes."""


def read_matrix(file: Path) -> Float[np.ndarray, "rows columns"]:
    """The matrix in a `.npy` file, or in a text file with one row a line; float64.

    In text, numbers are separated by commas or by white space. A header line, comments after `#`, a
    trailing comma and a byte order mark are skipped. Pickled objects are never loaded.

    Raises:
        ValueError: if there is no regular file of at most 64 MiB, or it does not hold a matrix of
            finite real numbers.
    """
    if not file.is_file():  # reading a pipe or a device may never end
        raise InputError(f"{file} is not a file; give a CSV or .npy file with a matrix.")
    if file.stat().st_size > LARGEST_FILE:
        raise InputError(f"{file} is larger than {LARGEST_FILE:,} bytes; give a smaller matrix.")
    try:
        if file.suffix == ".npy":
            # Mapped, not read: a damaged header may claim more bytes than there is memory
            matrix = np.lib.format.open_memmap(file, mode="r")
        else:
            matrix = _parsed(file.read_text("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}).") from None
    except (ValueError, TypeError, EOFError):
        raise InputError(
            f"{file} is not a matrix; write one row a line, with the same number of entries in "
            "each, separated by commas."
        ) from None
    numbers = matrix.dtype.kind in "iuf" and matrix.size > 0
    if not (numbers and matrix.ndim == 2 and np.isfinite(matrix).all()):
        raise InputError(
            f"{file} must hold a matrix of finite real numbers; it holds {matrix.dtype} values of "
            f"shape {matrix.shape}."
        )
    return np.array(matrix, np.float64)


def _parsed(text: str) -> Float[np.ndarray, "rows columns"]:
    lines = [line.strip().removesuffix(",") for line in text.replace('"', "").splitlines()]
    lines = [line for line in lines if line.partition("#")[0]]
    if not lines:
        raise ValueError
    rows = np.genfromtxt(lines, delimiter="," if "," in text else None, ndmin=2)
    if len(rows) > 1 and np.isnan(rows[0]).all():  # a header, as what is not a number becomes NaN
        return rows[1:]
    return rows
