"""The optimiser of this literature."""

import optax

from mesalens.checks import InputError, positive

ADAM_EPSILON = 1e-8
"""What Adam adds to the size of a gradient before it divides by it."""


def clipped_adam(
    learning_rate: float | optax.Schedule, *, clip: float, b2: float = 0.999
) -> optax.GradientTransformation:
    """Adam on gradients whose global norm is cut to at most `clip`; the rate is a number, or a schedule of Optax over the steps.

    Raises `ValueError` for a rate or clip not above 0, or a clip at which Adam's ε = 1e-8 outweighs every gradient.
    What a schedule gives is not checked.
    """
    if not callable(learning_rate):
        positive("learning_rate", learning_rate)
    if positive("clip", clip) <= ADAM_EPSILON:
        raise InputError(
            f"clip is {clip!r}; gradients cut to that norm vanish beside the {ADAM_EPSILON:g} that Adam adds to their size, so give "
            "one well above it, as 1e-3."
        )
    return optax.chain(optax.clip_by_global_norm(clip), optax.adam(learning_rate, b2=b2, eps=ADAM_EPSILON))
