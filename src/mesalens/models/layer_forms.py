r"""A layer of attention on a batch of contexts, in three forms, with their gradients.

Let F be the rows of tokens of a prompt, those of the context C first and then the query's. A layer
of linear self-attention makes of them

$$F' = F + \sum_h F A_h^T S B_h^T, \qquad S = C^T C.$$

- **By scores**, `F A_h^T C^T` times C: O(n² D + n D²). Best if n < D.
- **By sum**, `F A_h^T` times S: O(n D²). Best if tokens are needed and n ≥ D.
- **Of the sum alone**, if no token but the query's is needed: `U = Σ_h B_h S A_h`, `T = I + U`,
  `S' = T S T^T`, `q' = T q`: O(D³), whatever n is.

In softmax attention the scores of each row are replaced by their softmax; only the first form is
then possible. The gradients follow the formulas in the comments, in which δX stands for the
gradient of X. All arrays are stacks of small matrices (see `small_matrices`), A and B of shape
(H, D, D).
"""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens._fenced import fenced
from mesalens.models.small_matrices import (
    Stack,
    lanes_for,
    summed_outer_products,
    summed_products,
    symmetrised_times,
    tiled,
    times,
    times_symmetrised,
    times_transposed,
    times_weights,
    total,
    transposed_times,
    untiled,
    weights_times,
)

Heads = Float[Array, "H _ D"]


class Form(NamedTuple):
    """How the rows of a layer are computed.

    Attributes:
        examples: How many rows, the first ones, are the context's.
        by_sum: Whether by S, or by scores.
        scale: For softmax attention, the factor of its scores; None for linear attention.
        limit: To which absolute value entries are clipped, or None.
    """

    examples: int
    by_sum: bool = False
    scale: float | None = None
    limit: float | None = None


def rows_after(F: Stack, A: Heads, B: Heads, form: Form) -> Stack:
    """F', the rows after a layer."""
    return _rows_after(F, A, B, form)


@functools.partial(jax.jit, static_argnums=3)
def _rows_forward(F, A, B, form):
    reads = [times_weights(F, a.T) for a in A]  # R = F A^T
    if form.by_sum:
        C = F[:, : form.examples]
        seen, attention = fenced(transposed_times(C, C)), None  # S
        attended = [fenced(times(R, seen)) for R in reads]  # Y = R S
    else:
        seen, attention = None, [_attention(R, F, form) for R in reads]
        attended = [fenced(times(K, F)) for K in attention]  # Y = K F
    after = F + sum(times_weights(Y, b.T) for Y, b in zip(attended, B, strict=True))
    if form.limit is not None:
        after = jnp.clip(after, -form.limit, form.limit)
    after = fenced(after)
    kept = None if form.limit is None else after
    return after, (F, A, B, reads, seen, attention, attended, kept)


@functools.partial(jax.jit, static_argnums=0)
def _rows_backward(form, saved, G):
    F, A, B, reads, seen, attention, attended, after = saved
    if form.limit is not None:
        G = jnp.where(jnp.abs(after) < form.limit, G, 0)
    of_rows, of_A, of_B, of_S, of_context = G, [], [], [], []
    for h, (a, b, R, Y) in enumerate(zip(A, B, reads, attended, strict=True)):
        of_B.append(summed_products(G, Y))  # F' = F + Y B^T: δB = Σ G^T Y
        of_Y = times_weights(G, b)
        if form.by_sum:
            of_R = fenced(times(of_Y, seen))  # Y = R S: δR = δY S, δS = R^T δY
            of_S.append(transposed_times(R, of_Y))
        else:
            K = attention[h]
            of_K = _of_scores(K, of_Y, F, form)  # Y = K F: δK = δY F^T, δF += K^T δY
            of_R = fenced(times(of_K, F))  # K = R F^T: δR = δK F, δF += δK^T R
            of_context += [transposed_times(K, of_Y), transposed_times(of_K, R)]
        of_A.append(summed_products(of_R, F))  # R = F A^T: δA = Σ δR^T F, δF += δR A
        of_rows = of_rows + times_weights(of_R, a)
    if form.by_sum:  # S = C^T C: δC = C (δS + δS^T)
        in_context = _context(F, form, 1)
        of_context = [in_context * times_symmetrised(F, fenced(total(of_S)))]
    return fenced(total([of_rows, *of_context])), jnp.stack(of_A), jnp.stack(of_B)


_rows_after: Any = jax.custom_vjp(lambda *given: _rows_forward(*given)[0], nondiff_argnums=(3,))
_rows_after.defvjp(_rows_forward, _rows_backward)


def _attention(R: Stack, seen: Stack, form: Form) -> Stack:
    """K: scores `R C^T`, or for softmax attention what each row's scores give."""
    scores = times_transposed(R, seen)
    in_context = _context(seen, form, 2)
    if form.scale is None:
        return fenced(in_context * scores)
    scores = fenced(jnp.where(in_context > 0, form.scale * scores, -jnp.inf))
    columns = [scores[:, :, k : k + 1] for k in range(form.examples)]
    powers = fenced(jnp.exp(scores - functools.reduce(jnp.maximum, columns)))
    return powers / total(powers[:, :, k : k + 1] for k in range(form.examples))


def _of_scores(K: Stack, of_Y: Stack, seen: Stack, form: Form) -> Stack:
    """The gradient of `R C^T`. Of softmax attention it is `scale K (δK - Σ_k K δK)`."""
    of_K = fenced(_context(seen, form, 2) * times_transposed(of_Y, seen))
    if form.scale is None:
        return of_K
    products = K * of_K
    mean = total(products[:, :, k : k + 1] for k in range(form.examples))
    return fenced(form.scale * K * (of_K - fenced(mean)))


def _context(seen: Stack, form: Form, axis: int) -> Any:
    """1 for the rows of the context and 0 for others, along an axis of a stack."""
    first = np.arange(seen.shape[1]) < form.examples
    return first.astype(seen.dtype).reshape([-1 if i == axis else 1 for i in range(4)])


def sum_after(S: Stack, query: Stack, A: Heads, B: Heads) -> tuple[Stack, Stack, Stack]:
    """S', the query's row q', and U, through which no gradient flows."""
    return _sum_after(S, query, A, B)


@jax.jit
def _sum_forward(S, query, A, B):
    reads = [times_weights(S, a) for a in A]  # N = S A
    U = fenced(sum(weights_times(b, N) for b, N in zip(B, reads, strict=True)))  # U = Σ B N
    Z = fenced(S + times(U, S))  # Z = T S
    after = fenced(Z + times_transposed(Z, U))  # S' = Z T^T
    query_after = fenced(query + times_transposed(query, U))
    return (after, query_after, U), (S, query, A, B, reads, U, Z)


@jax.jit
def _sum_backward(saved, gradients):
    (S, query, A, B, reads, U, Z), (G, g, _) = saved, gradients
    # S' = T S T^T for a symmetric S: δT = (G + G^T) Z, δS = T^T G T; q' = q T^T: δT += g^T q
    of_U = fenced(symmetrised_times(G, Z) + transposed_times(g, query))
    of_Z = fenced(G + times(G, U))
    of_S, of_A, of_B = of_Z + transposed_times(U, of_Z), [], []
    for a, b, N in zip(A, B, reads, strict=True):
        of_B.append(summed_outer_products(of_U, N))  # U = B N: δB = Σ δU N^T, δN = B^T δU
        of_N = fenced(weights_times(b.T, of_U))
        of_A.append(summed_products(S, of_N))  # N = S A: δA = Σ S^T δN, δS += δN A^T
        of_S = of_S + times_weights(of_N, a.T)
    return fenced(of_S), fenced(g + times(g, U)), jnp.stack(of_A), jnp.stack(of_B)


_sum_after: Any = jax.custom_vjp(lambda *given: _sum_forward(*given)[0])
_sum_after.defvjp(_sum_forward, _sum_backward)


def query_after(seen: Stack, query: Stack, A: Heads, B: Heads, form: Form) -> Stack:
    """What the last layer adds to the query's row, `Σ_h q A_h^T S B_h^T` for linear attention.

    `seen` is S, or the rows of the context. B may be the rows of the matrices B_h that give y.
    """
    return _query_after(seen, query, A, B, form)


@functools.partial(jax.jit, static_argnums=4)
def _query_forward(seen, query, A, B, form):
    reads = [times_weights(query, a.T) for a in A]  # r = q A^T
    attention = None if form.by_sum else [_attention(r, seen, form) for r in reads]
    attended = [fenced(times(v, seen)) for v in (attention or reads)]  # o = r S = k C
    added = fenced(sum(times_weights(o, b.T) for o, b in zip(attended, B, strict=True)))
    return added, (seen, query, A, B, reads, attention, attended)


@functools.partial(jax.jit, static_argnums=0)
def _query_backward(form, saved, g):
    seen, query, A, B, reads, attention, attended = saved
    of_seen, of_query, of_A, of_B = [], [], [], []
    for h, (a, b, r, o) in enumerate(zip(A, B, reads, attended, strict=True)):
        of_B.append(summed_products(g, o))
        of_o = times_weights(g, b)
        if form.by_sum:
            of_r = fenced(times(of_o, seen))
            of_seen.append(transposed_times(r, of_o))
        else:
            of_k = _of_scores(attention[h], of_o, seen, form)
            of_r = fenced(times(of_k, seen))
            of_seen += [transposed_times(attention[h], of_o), transposed_times(of_k, r)]
        of_A.append(summed_products(of_r, query))
        of_query.append(times_weights(of_r, a))
    of_arrays = fenced(total(of_seen)), fenced(total(of_query))
    return *of_arrays, jnp.stack(of_A), jnp.stack(of_B)


_query_after: Any = jax.custom_vjp(lambda *given: _query_forward(*given)[0], nondiff_argnums=(4,))
_query_after.defvjp(_query_forward, _query_backward)


def last_rows(
    rows: Float[Array, "batch rows D"], layers: Iterable[tuple[Heads, Heads, float | None]]
) -> Float[Array, "batch D"]:
    """The query's row after all layers, each of which has A, B and the scale of a softmax or None.

    The query's row is the last one, and all rows see the others.
    """
    size, examples = len(rows), rows.shape[1] - 1
    F = tiled(rows, lanes_for(size, max(rows.shape[1:])))
    *before, (A, B, scale) = layers
    for matrices in before:
        F = rows_after(F, *matrices[:2], Form(examples, scale=matrices[2]))
    query = F[:, examples:]
    added = query_after(F[:, :examples], query, A, B, Form(examples, scale=scale))
    return untiled(query + added, size)[:, 0]
