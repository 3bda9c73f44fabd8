r"""A layer of linear self-attention on a batch of contexts, in three forms, with their gradients.

Let F be the rows of tokens of a prompt, those of the context C first and then the query's. A layer
makes of them

$$F' = F + \sum_h F A_h^T S B_h^T, \qquad S = C^T C.$$

- **By scores**, `F A_h^T C^T` times C: O(n² D + n D²). Best if n < D.
- **By sum**, `F A_h^T` times S: O(n D²). Best if tokens are needed and n ≥ D.
- **Of the sum alone**, if no token but the query's is needed: `U = Σ_h B_h S A_h`, `T = I + U`,
  `S' = T S T^T`, `q' = T q`: O(D³), whatever n is.

The gradients follow the formulas in the comments, in which δX stands for the gradient of X. All
arrays are stacks of small matrices (see `small_matrices`), A and B of shape (H, D, D).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens._fenced import fenced
from mesalens.models.small_matrices import (
    Stack,
    summed_outer_products,
    summed_products,
    symmetrised_times,
    times,
    times_symmetrised,
    times_transposed,
    times_weights,
    transposed_times,
    weights_times,
)

Heads = Float[Array, "H _ D"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def rows_after(F: Stack, A: Heads, B: Heads, examples: int, by_sum: bool, limit: float | None):
    """F' for rows F of which the first `examples` are the context's, clipped to ± limit."""
    return _rows_forward(F, A, B, examples, by_sum, limit)[0]


@functools.partial(jax.jit, static_argnums=(3, 4, 5), inline=False)
def _rows_forward(F, A, B, examples, by_sum, limit):
    reads = [times_weights(F, a.T) for a in A]  # R = F A^T
    if by_sum:
        seen = fenced(transposed_times(F[:, :examples], F[:, :examples]))  # S
        attended = [fenced(times(R, seen)) for R in reads]  # Y = R S
        scores = None
    else:
        seen = None
        scores = [fenced(_context(F, examples, 2) * times_transposed(R, F)) for R in reads]
        attended = [fenced(times(K, F)) for K in scores]  # Y = K F, K = R C^T
    after = F + sum(times_weights(Y, b.T) for Y, b in zip(attended, B, strict=True))
    if limit is not None:
        after = jnp.clip(after, -limit, limit)
    after = fenced(after)
    return after, (F, A, B, reads, seen, scores, attended, None if limit is None else after)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), inline=False)
def _rows_backward(examples, by_sum, limit, saved, G):
    F, A, B, reads, seen, scores, attended, after = saved
    if limit is not None:
        G = fenced(jnp.where(jnp.abs(after) < limit, G, 0))
    of_rows, of_A, of_B = G, [], []
    mixed, of_context = None, None
    for h, (a, b, R, Y) in enumerate(zip(A, B, reads, attended, strict=True)):
        of_B.append(summed_products(G, Y))  # F' = F + Y B^T: δB = Σ G^T Y
        of_Y = times_weights(G, b)
        if by_sum:
            of_R = fenced(times(of_Y, seen))  # Y = R S: δR = δY S, δS = R^T δY
            of_S = transposed_times(R, of_Y)
            mixed = of_S if mixed is None else mixed + of_S
        else:
            K = scores[h]
            mask = _context(F, examples, 2)
            of_K = fenced(mask * times_transposed(of_Y, F))  # Y = K F: δK = δY F^T, δF += K^T δY
            of_R = fenced(times(of_K, F))  # K = R F^T: δR = δK F, δF += δK^T R
            part = transposed_times(K, of_Y) + transposed_times(of_K, R)
            of_context = part if of_context is None else of_context + part
        of_A.append(summed_products(of_R, F))  # R = F A^T: δA = Σ δR^T F, δF += δR A
        of_rows = of_rows + times_weights(of_R, a)
    if by_sum:  # S = C^T C: δC = C (δS + δS^T)
        of_context = _context(F, examples, 1) * times_symmetrised(F, fenced(mixed))
    return fenced(of_rows + of_context), jnp.stack(of_A), jnp.stack(of_B)


rows_after.defvjp(_rows_forward, _rows_backward)


@jax.custom_vjp
def sum_after(S: Stack, query: Stack, A: Heads, B: Heads):
    """S', the query's row q', and U, through which no gradient flows."""
    return _sum_forward(S, query, A, B)[0]


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


sum_after.defvjp(_sum_forward, _sum_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def label_after(seen: Stack, query: Stack, A: Heads, B: Heads, by_sum: bool):
    """The y-part that the last layer adds to the query's row, `Σ_h q A_h^T S B_h^T`.

    `seen` is S, or the rows of the context; B are the rows of the matrices B_h that give y.
    """
    return _label_forward(seen, query, A, B, by_sum)[0]


@functools.partial(jax.jit, static_argnums=4, inline=False)
def _label_forward(seen, query, A, B, by_sum):
    reads = [times_weights(query, a.T) for a in A]  # r = q A^T
    scores = None if by_sum else [fenced(times_transposed(r, seen)) for r in reads]  # k = r C^T
    attended = [fenced(times(v, seen)) for v in (reads if by_sum else scores)]  # o = r S = k C
    added = sum(times_weights(o, b.T) for o, b in zip(attended, B, strict=True))
    return fenced(added), (seen, query, A, B, reads, scores, attended)


@functools.partial(jax.jit, static_argnums=0, inline=False)
def _label_backward(by_sum, saved, g):
    seen, query, A, B, reads, scores, attended = saved
    of_seen, of_query, of_A, of_B = 0.0, 0.0, [], []
    for h, (a, b, r, o) in enumerate(zip(A, B, reads, attended, strict=True)):
        of_B.append(summed_products(g, o))
        of_o = times_weights(g, b)
        if by_sum:
            of_r = fenced(times(of_o, seen))
            of_seen = of_seen + transposed_times(r, of_o)
        else:
            of_k = fenced(times_transposed(of_o, seen))
            of_r = fenced(times(of_k, seen))
            both = transposed_times(scores[h], of_o) + transposed_times(of_k, r)
            of_seen = of_seen + both
        of_A.append(summed_products(of_r, query))
        of_query = of_query + times_weights(of_r, a)
    return fenced(of_seen), fenced(of_query), jnp.stack(of_A), jnp.stack(of_B)


label_after.defvjp(_label_forward, _label_backward)


def _context(F: Stack, examples: int, axis: int) -> np.ndarray:
    """1 for the rows of the context and 0 for the query's, along an axis of a stack."""
    first = np.arange(F.shape[1]) < examples
    return first.astype(F.dtype).reshape([-1 if i == axis else 1 for i in range(4)])
