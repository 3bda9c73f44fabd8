"""The textbook way to train layers of linear self-attention in context, written out; it uses
nothing of mesalens.

A Python loop around one compiled step, a random key for each example, and attention of every token
to all context tokens: O(n²) for a layer, where mesalens goes through S = Σ e_i e_iᵀ. The task is
linear regression, x ~ U[-1/2, 1/2]^d, w ~ N(0, I), m = 1; the optimiser is Adam with b2 = 0.98 on
gradients cut to norm 1e-3.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

INITIAL_VARIANCE = 0.002
"""Variance of the weights before training, times layers and fan-in."""
LEARNING_RATE = 1e-6
"""So low that twelve layers do not diverge while they are timed; a step takes as long at every
rate."""


def draw_prompt(key, context_length, dim):
    """Tokens (x_i, y_i) of the context and (x_query, 0) of the query, one a row, and y_query."""
    x_key, w_key = jax.random.split(key)
    x = jax.random.uniform(x_key, (context_length + 1, dim), minval=-0.5, maxval=0.5)
    y = x @ jax.random.normal(w_key, (dim,))
    return jnp.column_stack([x, y.at[-1].set(0.0)]), y[-1]


def draw_batch(key, context_length, dim, batch_size):
    """Tokens and targets, with a key for each example."""
    return jax.vmap(draw_prompt, (0, None, None))(
        jax.random.split(key, batch_size), context_length, dim
    )


def initial_weights(seed, layers, dim, scale):
    """Random normals of this standard deviation for the four (d + 1) × (d + 1) factors of each
    layer; by NumPy, which compiles nothing.
    """
    normals = np.random.default_rng(seed).normal(size=(layers, 4, dim + 1, dim + 1))
    factors = jnp.asarray(scale * normals, jnp.float32)
    return [dict(zip("QKVP", of_layer, strict=True)) for of_layer in factors]


def prediction(weights, tokens, clip=None):
    """Minus the y-part of the query token, after every layer has changed every token; entries are
    clipped to ± `clip` after each layer.
    """
    for layer in weights:
        queries, keys, values = (
            tokens @ layer["Q"].T,
            tokens[:-1] @ layer["K"].T,
            tokens[:-1] @ layer["V"].T,
        )
        scores = queries @ keys.T
        tokens = tokens + (scores @ values) @ layer["P"].T
        if clip is not None:
            tokens = jnp.clip(tokens, -clip, clip)
    return -tokens[-1, -1]


def mean_loss(weights, tokens, targets, clip=None):
    """Mean squared error over a batch."""
    predictions = jax.vmap(prediction, (None, 0, None))(weights, tokens, clip)
    return jnp.mean((predictions - targets) ** 2)


def training(
    layers: int, context_length: int, dim: int, batch_size: int, clip: float | None = None
) -> tuple[Any, Any]:
    """The compiled step, state -> state, and the state before the first: weights, Adam's moments
    and a key.
    """
    optimiser = optax.chain(optax.clip_by_global_norm(1e-3), optax.adam(LEARNING_RATE, b2=0.98))
    weights = initial_weights(0, layers, dim, (INITIAL_VARIANCE / layers / (dim + 1)) ** 0.5)
    start = weights, optimiser.init(weights), jax.random.key(1)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state):
        weights, optimiser_state, key = state
        key, batch_key = jax.random.split(key)
        batch = draw_batch(batch_key, context_length, dim, batch_size)
        gradients = jax.grad(mean_loss)(weights, *batch, clip)
        updates, optimiser_state = optimiser.update(gradients, optimiser_state)
        return optax.apply_updates(weights, updates), optimiser_state, key

    return step.lower(start).compile(), start
