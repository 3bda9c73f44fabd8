"""The optimiser of this literature."""

import optax

from mesalens.checks import positive


def clipped_adam(learning_rate: float, *, clip: float, b2: float = 0.999) -> optax.GradientTransformation:
    """Adam on gradients whose global norm is cut to at most `clip`. Raises `ValueError` for a rate or clip not above 0."""
    positive("learning_rate", learning_rate)
    positive("clip", clip)
    return optax.chain(optax.clip_by_global_norm(clip), optax.adam(learning_rate, b2=b2))
