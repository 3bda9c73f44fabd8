"""Distances between inputs, of which kernels and neighbours are functions."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def squared_distances(
    points: Float[Array, "*batch d"], others: Float[Array, "n d"]
) -> Float[Array, "*batch n"]:
    """`‖x - x_i‖²`, summed from differences: expanded squares would lose digits, and the sign."""
    return jnp.sum((points[..., None, :] - others) ** 2, axis=-1)


def log_gaussian_kernel(
    points: Float[Array, "*batch d"],
    others: Float[Array, "n d"],
    bandwidth: float | Float[Array, ""],
) -> Float[Array, "*batch n"]:
    """`-‖x - x_i‖² / (2h²)`."""
    # The quotient is squared, not h: a square of small bandwidths would be 0 in float32
    return -squared_distances(points / bandwidth, others / bandwidth) / 2
