"""Products of many small matrices at full speed, where deep linear transformers spend their time.

XLA's CPU backend computes a batched product of 11 × 11 matrices at a tenth of the speed of a CPU.
Here a stack of matrices has the shape (tiles, rows, columns, lanes): matrix number b of a batch is
in tile b // lanes, at lane b % lanes, and lanes are next to each other in memory.

- A product that is written out as a sum over k,

      (F G)[t, i, j, :] = Σ_k F[t, i, k, :] G[t, k, j, :] ,

  compiles to one loop of vector instructions, whatever the sizes of the matrices.
- A product F W with shared weights W is a product of W^T with the columns × lanes matrix of each
  tile and row, and the gradient of W a sum of products of two of those. XLA computes them near the
  speed of large products.

Two precautions are needed. JAX's derivatives of sums over slices would be sums of padded slices, so
whoever uses these products has to give derivatives by hand. And XLA would compute a sum again for
each of its uses in the next one, so a sum that is used again is `fenced`.

With one lane, as on accelerators and for large matrices, all products are XLA's own.
"""

import functools
import operator
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

from mesalens._fenced import fenced

Stack = Float[Array, "_ _ _ _"]
"""Of shape (tiles, rows, columns, lanes)."""
Matrix = Float[Array, "_ _"]

LANES = 32
"""The number of examples in a tile on a CPU: a few of its vectors, so that the tiles of small
matrices fit in its fastest cache."""
LARGEST = 64
"""Sums of more terms are left to XLA's batched products, which are good at large ones."""
MOST_ROWS = 32
"""Sums over more rows are sums of parts: XLA makes no vectors of much longer sums."""
LARGEST_SUMMED = 16
"""As `LARGEST`, for sums over all matrices."""
GROUP, MOST_TILES = 8, 16
"""More than so many tiles are summed in groups of this size."""


def lanes_for(batch: int, terms: int) -> int:
    """The number of lanes for a batch of matrices whose products are sums of so many terms."""
    written_out = terms <= LARGEST and jax.default_backend() == "cpu"
    return max(1, min(batch, LANES)) if written_out else 1


def tiled(matrices: Float[Array, "batch rows columns"], lanes: int) -> Stack:
    """A batch of matrices as a stack; the last tiles are filled up with zeros.

    More than `MOST_TILES` tiles are a multiple of `GROUP`.
    """
    batch, *shape = matrices.shape
    tiles = -(-batch // lanes)
    if tiles > MOST_TILES and lanes > 1:
        tiles = GROUP * -(-tiles // GROUP)
    padded = jnp.pad(matrices, ((0, tiles * lanes - batch), (0, 0), (0, 0)))
    stack = jnp.moveaxis(padded.reshape(tiles, lanes, *shape), 1, -1)
    if lanes == 1:
        return stack
    # Otherwise XLA leaves the examples as they are in memory, and only renames the axes
    return with_layout_constraint(fenced(stack), Layout((0, 1, 2, 3)))


def untiled(stack: Stack, batch: int) -> Float[Array, "batch rows columns"]:
    """The matrices of a stack."""
    return jnp.moveaxis(stack, -1, 1).reshape(-1, *stack.shape[1:3])[:batch]


def times(F: Stack, G: Stack) -> Stack:
    """F G."""
    if F.shape[-1] == 1:
        return jnp.einsum("trkl,tkcl->trcl", F, G)
    if F.shape[1] == 1:
        return transposed_times(_flipped(F), G)  # whose sums may have any number of terms
    return total(_column(F, k) * _row(G, k) for k in range(F.shape[2]))


def times_transposed(F: Stack, G: Stack) -> Stack:
    """F G^T."""
    if F.shape[-1] == 1:
        return jnp.einsum("trkl,tckl->trcl", F, G)
    return total(_column(F, k) * _flipped(_column(G, k)) for k in range(F.shape[2]))


def transposed_times(F: Stack, G: Stack) -> Stack:
    """F^T G."""
    tiles, rows, _, lanes = F.shape
    if lanes == 1:
        return jnp.einsum("tkrl,tkcl->trcl", F, G)
    if rows > MOST_ROWS:
        parts = fenced(transposed_times(_in_parts(F), _in_parts(G)))
        return parts.reshape(tiles, -1, *parts.shape[1:]).sum(1)
    return total(_flipped(_row(F, k)) * _row(G, k) for k in range(rows))


def symmetrised_times(F: Stack, G: Stack) -> Stack:
    """(F + F^T) G."""
    if F.shape[-1] == 1:
        return times(F + jnp.swapaxes(F, 1, 2), G)
    both = ((_column(F, k) + _flipped(_row(F, k))) * _row(G, k) for k in range(F.shape[2]))
    return total(both)


def times_symmetrised(F: Stack, G: Stack) -> Stack:
    """F (G + G^T)."""
    if F.shape[-1] == 1:
        return times(F, G + jnp.swapaxes(G, 1, 2))
    both = (_column(F, k) * (_row(G, k) + _flipped(_column(G, k))) for k in range(F.shape[2]))
    return total(both)


def times_weights(F: Stack, W: Matrix) -> Stack:
    """F W, with a W that all matrices share."""
    # As one factor, W would make XLA transpose F
    of_each = jnp.broadcast_to(W.T, (*F.shape[:2], *W.T.shape))
    return jnp.einsum("trck,trkl->trcl", of_each, F)


def weights_times(W: Matrix, G: Stack) -> Stack:
    """W G, with a W that all matrices share."""
    if G.shape[-1] == 1:
        return jnp.einsum("rk,tkcl->trcl", W, G)
    return total(W[:, k, None, None] * _row(G, k) for k in range(W.shape[1]))


def summed_products(F: Stack, G: Stack) -> Matrix:
    """Σ F^T G over all matrices, as in the gradient of weights on the right."""
    if F.shape[-1] == 1 or F.shape[2] > LARGEST_SUMMED:
        return jnp.einsum("tkrl,tkcl->tkrc", F, G).sum((0, 1))
    return summed(fenced(transposed_times(F, G)))


def summed_outer_products(F: Stack, G: Stack) -> Matrix:
    """Σ F G^T over all matrices, as in the gradient of weights on the left."""
    return summed(fenced(times_transposed(F, G)))


def summed(F: Stack) -> Matrix:
    """The sum of all matrices."""
    *shape, lanes = F.shape[1:]
    if lanes == 1:
        return F.sum((0, 3))
    while len(F) > 1:
        group = GROUP if len(F) > MOST_TILES and len(F) % GROUP == 0 else len(F)
        grouped = F.reshape(-1, group, *F.shape[1:])
        F = fenced(total(grouped[:, i] for i in range(group)))
    return (F.reshape(-1, lanes) @ jnp.ones(lanes, F.dtype)).reshape(shape)


def _in_parts(F: Stack) -> Stack:
    """The rows of each matrix as those of several, filled up with zeros."""
    tiles, rows, columns, lanes = F.shape
    sizes = range(MOST_ROWS, MOST_ROWS // 2, -1)
    size = next((size for size in sizes if rows % size == 0), MOST_ROWS)
    parts = -(-rows // size)
    padded = jnp.pad(F, ((0, 0), (0, parts * size - rows), (0, 0), (0, 0)))
    return padded.reshape(tiles * parts, size, columns, lanes)


def _row(F: Stack, k: int) -> Stack:
    return jax.lax.slice_in_dim(F, k, k + 1, axis=1)


def _column(F: Stack, k: int) -> Stack:
    return jax.lax.slice_in_dim(F, k, k + 1, axis=2)


def _flipped(vector: Stack) -> Stack:
    """A row as a column, or a column as a row. (A transpose would be a copy.)"""
    tiles, rows, columns, lanes = vector.shape
    return vector.reshape(tiles, columns, rows, lanes)


def total(terms: Iterable[Array]) -> Array:
    """The sum of the terms, without the 0 that `sum` begins with."""
    return functools.reduce(operator.add, terms)
