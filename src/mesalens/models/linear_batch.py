"""The query's token after all layers of linear self-attention, for a batch of prompts.

Of the forms of a layer in `layer_forms` the one with the fewest products is taken. With
activations clipped to ± c after each layer, tokens are needed only if an entry can reach c. If n ≥
D, S is carried, with `M_l = T_l … T_1`, which gives the tokens `M_l e_i` after layer l. Their
entries are below c if

- those of the query and of labels are, which are computed;
- for each covariate a, `√S_aa` or `Σ_k |(M_l)_ak| max_i |(e_i)_k|` is below c, which bound
  `max_i |(M_l e_i)_a|`.

If so for the whole batch, no token is clipped before the last layer. Otherwise tokens are carried.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens._fenced import fenced
from mesalens.models.layer_forms import Form, Heads, query_after, rows_after, sum_after
from mesalens.models.small_matrices import lanes_for, tiled, times, untiled

FEW_LAYERS = 13
"""Up to this many layers are written out, which runs faster (twelve on a CPU: 1.6 times). More
layers are a loop, which compiles faster.
"""

BY_SUM = Form(0, by_sum=True)

Layers = Sequence[tuple[Heads, Heads]]
Contexts = Float[Array, "batch n D"]
Queries = Float[Array, "batch D"]
Labels = Float[Array, "batch m"]


def labels_after(
    layers: Layers, contexts: Contexts, queries: Queries, dim: int, limit: float | None
) -> Labels:
    """The y-parts of the queries' tokens after all layers.

    Args:
        layers: A and B of each layer, of shape (H, D, D).
        contexts: The tokens of the contexts.
        queries: The tokens of the queries.
        dim: d, the number of entries of a covariate.
        limit: To which absolute value entries of tokens are clipped after a layer, or None.
    """
    examples, width = contexts.shape[1:]
    if examples < width or len(layers) == 1:
        return _by_tokens(layers, contexts, queries, dim, limit)
    if limit is None:
        return _by_sum(layers, contexts, queries, dim)
    return _clipped(layers, contexts, queries, dim, limit)


def _by_tokens(layers, contexts, queries, dim, limit) -> Labels:
    """From the tokens after each layer."""
    size, examples, width = contexts.shape
    by_sum = examples >= width
    rows = jnp.concatenate([contexts, queries[:, None]], axis=1)
    F = tiled(rows, lanes_for(size, width if by_sum else max(examples + 1, width)))

    form = Form(examples, by_sum, limit=limit)

    def layer(F, matrices):
        A, B = matrices
        return rows_after(F, A, B, form), None

    *before, last = layers
    F, _ = through(layer, F, before)
    F, query = F[:, :examples], F[:, examples:]
    return _last(F, query, last, size, dim, limit, Form(examples))


def _by_sum(layers, contexts, queries, dim) -> Labels:
    """From S after each layer."""
    *before, last = layers

    def layer(carry, matrices):
        return sum_after(*carry, *matrices)[:2], None

    (S, query), _ = through(layer, _sums(contexts, queries), before)
    return _last(S, query, last, len(contexts), dim, None, BY_SUM)


def _last(seen, query, matrices, size, dim, limit, form) -> Labels:
    A, B = matrices
    labels = query[:, :, dim:] + query_after(seen, query, A, B[:, dim:], form)
    return clipped(untiled(labels, size)[:, 0], limit)


def _clipped(layers, contexts, queries, dim, limit) -> Labels:
    """From S if no token is clipped before the last layer, or else from tokens."""

    def by_sum(layers, contexts, queries):
        *before, last = layers
        size, width = queries.shape
        start = _sums(contexts, queries)
        lanes = start[0].shape[-1]
        largest = tiled(jnp.abs(contexts).max(axis=1, keepdims=True), lanes)
        M = jnp.broadcast_to(jnp.eye(width)[:, :, None], start[0].shape).astype(contexts.dtype)

        def layer(carry, matrices):
            S, query, M = carry
            S, query, U = sum_after(S, query, *matrices)
            M = fenced(M + times(U, M))
            squares = jnp.stack([S[:, a, a] for a in range(dim)], axis=1)
            bounds = jnp.sum(jnp.abs(M[:, :dim]) * largest, axis=2)
            small = ((squares < limit**2) | (bounds < limit)).all()
            return (S, query, M), (small & (jnp.abs(query) < limit).all(), M[:, dim:])

        (S, query, _), (small, maps) = through(layer, (*start, M), before)
        every = jnp.concatenate([untiled(rows, size) for rows in maps], axis=1)
        labels = jnp.einsum("brk,bnk->brn", jax.lax.stop_gradient(every), contexts)
        safe = jnp.all(small) & (jnp.abs(labels) < limit).all()
        return _last(S, query, last, size, dim, limit, BY_SUM), safe

    def by_tokens(layers, contexts, queries):
        return _by_tokens(layers, contexts, queries, dim, limit)

    return either(by_sum, by_tokens, layers, contexts, queries)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def either(fast, always, *arguments):
    """`value` if `fast(*arguments) = value, True`, or else `always(*arguments)`.

    JAX's own derivative would store what both need.
    """
    value, valid = fast(*arguments)
    return jax.lax.cond(valid, lambda: value, lambda: always(*arguments))


def _either_forward(fast, always, *arguments):
    value, pull_back, valid = jax.vjp(fast, *arguments, has_aux=True)
    chosen = jax.lax.cond(valid, lambda: value, lambda: always(*arguments))
    return chosen, (pull_back, valid, arguments)


def _either_backward(fast, always, saved, gradient):
    pull_back, valid, arguments = saved
    return jax.lax.cond(
        valid,
        lambda: pull_back(gradient),
        lambda: jax.vjp(always, *arguments)[1](gradient),
    )


either.defvjp(_either_forward, _either_backward)


def _sums(contexts: Contexts, queries: Queries):
    """S and the query's token as stacks."""
    size, width = queries.shape
    lanes = lanes_for(size, width)
    S = jnp.einsum("bni,bnj->bij", contexts, contexts)
    return tiled(S, lanes), tiled(queries[:, None], lanes)


def clipped(tokens: Float[Array, "*shape"], limit: float | None) -> Float[Array, "*shape"]:
    """Tokens with entries up to ± limit."""
    return tokens if limit is None else jnp.clip(tokens, -limit, limit)


def through(layer: Callable[..., Any], carry: Any, matrices: Sequence[Any]) -> tuple[Any, Any]:
    """`jax.lax.scan` of layers, written out if they are few; returns the carry and the outputs."""
    if len(matrices) >= FEW_LAYERS:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *matrices)
        return jax.lax.scan(layer, carry, stacked)
    outputs = []
    for pair in matrices:
        carry, output = layer(carry, pair)
        outputs.append(output)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs) if outputs else None
    return carry, stacked
