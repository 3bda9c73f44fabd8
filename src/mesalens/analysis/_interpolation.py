"""The model between two linear transformers."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import InputError
from mesalens.learners.base import require
from mesalens.models import LinearTransformer


def normalised(
    model: LinearTransformer,
) -> tuple[Float[Array, "stored D D"], Float[Array, "stored D D"]]:
    """The effective A and B of each layer, scaled so that the x-block of A has mean diagonal 1.

    `(c A, B / c)` computes the same function for every c ≠ 0, so that two models can be compared
    only after such a choice. Here c is one over the mean diagonal of the x-block of A. The result
    is not finite if that mean is 0.

    Args:
        model: A linear transformer with one head.

    Returns:
        A and B, each of shape (stored layers, D, D).

    Raises:
        ValueError: If the model is not a `LinearTransformer` with one head (heads have no order).
    """
    require(model, LinearTransformer, "normalised")
    A, B = model.effective()
    if A.shape[1] != 1:
        raise InputError(f"normalised needs a model with one head; got {A.shape[1]} heads.")
    A, B = A[:, 0], B[:, 0]
    mean = jnp.trace(A[:, : model.dim, : model.dim], axis1=1, axis2=2)[:, None, None] / model.dim
    return A / mean, B * mean


def interpolate(
    first: LinearTransformer, second: LinearTransformer, weight: float = 0.5
) -> LinearTransformer:
    """The transformer between two, with the matrices `(1 - weight) · first + weight · second`.

    These are the effective matrices after `normalised`. W_0 is interpolated in the same way.

    Args:
        first: A linear transformer with one head.
        second: Another one of the same sizes.
        weight: The weight of the second.

    Returns:
        The interpolated transformer, in the structure `Merged`.

    Raises:
        ValueError: If the two differ in depth, looping or size, or have more than one head.

    Source: von Oswald et al. (2023), Section 3, "Interpolation" (weight 1/2).
    """
    pairs = zip(normalised(first), normalised(second), strict=True)
    size, other = ((m.layers, m.looped, m.dim, m.outputs) for m in (first, second))
    if size != other:
        raise InputError(
            f"both models must have the same (layers, looped, d, m); got {size} and {other}."
        )
    A, B = (((1 - weight) * one + weight * two)[:, None] for one, two in pairs)
    starts = [m.start for m in (first, second)]
    start = None
    if any(each is not None for each in starts):
        one, two = (jnp.zeros((first.outputs, first.dim)) if s is None else s for s in starts)
        start = (1 - weight) * one + weight * two
    return LinearTransformer.from_effective(
        A, B, layers=first.layers, outputs=first.outputs, initial_weights=start
    )
