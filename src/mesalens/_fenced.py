"""`fenced`: a value that XLA computes once."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
def fenced(value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The value itself, computed once, however many other computations use it.

    On CPUs, XLA computes an entry again for each of its uses, unless that takes a division. It does
    not know that this one is by 1.

    Args:
        value: Any array.
    """
    if jax.default_backend() != "cpu":
        return value
    is_number = value == value
    return value / jnp.where(is_number, jnp.ones((), value.dtype), value)


@fenced.defjvp
def _derivative(values, tangents):
    return fenced(*values), tangents[0]
