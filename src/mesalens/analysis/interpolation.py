"""The model between two linear transformers."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import InputError
from mesalens.models import LinearTransformer


def normalised(model: LinearTransformer) -> tuple[Float[Array, "stored D D"], Float[Array, "stored D D"]]:
    """The effective matrices A and B of each layer, scaled so that the x-block of A has mean diagonal 1.

    `(c A, B / c)` computes the same function for every c ≠ 0, so that two models can only be set side by side after such a
    choice; here c is one over the mean diagonal of the x-block of A. The result is not finite where that mean is 0.

    Raises `ValueError` for more than one head: heads come in no common order.
    """
    A, B = model.effective()
    if A.shape[1] != 1:
        raise InputError(f"the model has {A.shape[1]} heads; effective matrices are compared for models with one head.")
    A, B = A[:, 0], B[:, 0]
    mean = jnp.trace(A[:, : model.dim, : model.dim], axis1=1, axis2=2)[:, None, None] / model.dim
    return A / mean, B * mean


def interpolate(first: LinearTransformer, second: LinearTransformer, weight: float = 0.5) -> LinearTransformer:
    """The transformer with effective matrices `(1 - weight) · first + weight · second`, both normalised first.

    Raises `ValueError` where the two differ in depth, looping or size, or have more than one head.

    Source: von Oswald et al. (2023), Section 3, "Interpolation" (weight 1/2).
    """
    if (first.layers, first.W_Q.shape[0], first.dim, first.outputs) != (
        second.layers,
        second.W_Q.shape[0],
        second.dim,
        second.outputs,
    ):
        raise InputError(
            "the two transformers differ in layers, looping or size; interpolate between models of one shape."
        )
    (A, B), (A2, B2) = normalised(first), normalised(second)
    return LinearTransformer.from_effective(
        ((1 - weight) * A + weight * A2)[:, None],
        ((1 - weight) * B + weight * B2)[:, None],
        layers=first.layers,
        outputs=first.outputs,
        initial_weights=first.initial_weights,
    )
