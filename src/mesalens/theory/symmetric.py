"""Symmetric matrices as vectors."""

from typing import Any

import numpy as np
from jaxtyping import Float


def svec(matrices: Float[Any, "*batch D D"]) -> Float[Any, "*batch p"]:
    """The D(D+1)/2 entries on and above the diagonal, those above times √2.

    The dot product of two such vectors is tr(S T).
    """
    rows, columns = np.triu_indices(matrices.shape[-1])
    scale = np.where(rows == columns, 1, np.sqrt(2)).astype(matrices.dtype)
    return matrices[..., rows, columns] * scale


def smat(vectors: Float[Any, "*batch p"], size: int) -> Float[Any, "*batch D D"]:
    """The symmetric matrices of the given size D that `svec` maps to the vectors."""
    rows, columns = np.triu_indices(size)
    place = np.zeros((size, size), int)
    place[rows, columns] = place[columns, rows] = np.arange(len(rows))
    scale = np.where(np.eye(size, dtype=bool), 1, np.sqrt(0.5)).astype(vectors.dtype)
    return vectors[..., place] * scale


def bilinear(left: Float[Any, "*#batch D"], right: Float[Any, "*#batch D"]) -> Float[Any, "... p"]:
    """The vector g with `g · svec(S) = u^T S v` for every symmetric S."""
    outer = left[..., :, None] * right[..., None, :]
    return svec((outer + outer.swapaxes(-1, -2)) / 2)
