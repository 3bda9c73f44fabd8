"""Tokens: how a prompt is laid out as the rows that a transformer reads."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.prompt import Prompt


def joint_tokens(
    prompt: Prompt, initial_weights: Float[Array, "m d"] | None = None
) -> tuple[Float[Array, "n D"], Float[Array, " D"]]:
    """Context tokens `e_i = (x_i, y_i)` and the query token `e_q = (x_q, -W_0 x_q)`, of width D = d + m.

    `initial_weights` is W_0, zero where it is not given. Source: von Oswald et al. (2023), Section 2.
    """
    start = (
        jnp.zeros(prompt.outputs, prompt.query.dtype) if initial_weights is None else -initial_weights @ prompt.query
    )
    return jnp.concatenate([prompt.xs, prompt.ys], axis=1), jnp.concatenate([prompt.query, start])
