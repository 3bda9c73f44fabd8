"""The optimiser of this literature."""

from typing import Literal

import jax.core
import optax
from jaxtyping import Array, Float

from mesalens.checks import InputError, count, one_of, positive

ADAM_EPSILON = 1e-8
"""What Adam adds to the size of a gradient before it divides by it."""


Number = float | Float[Array, ""]
"""A number, or one that JAX traces, as where it is varied."""

Schedule = Literal["constant", "cosine", "linear"]


def clipped_adam(
    learning_rate: Number | optax.Schedule, *, clip: Number, b2: Number = 0.999
) -> optax.GradientTransformation:
    """Adam on gradients whose global norm is cut to at most `clip`; the rate is a number, or a schedule of Optax over the steps.

    Raises `ValueError` for a rate or clip not above 0, or a clip at which Adam's ε = 1e-8 outweighs every gradient.
    What a schedule gives is not checked.
    """
    if not callable(learning_rate):
        positive("learning_rate", learning_rate)
    positive("clip", clip)
    if not isinstance(clip, jax.core.Tracer) and clip <= ADAM_EPSILON:
        raise InputError(
            f"clip is {clip!r}; gradients cut to that norm vanish beside the {ADAM_EPSILON:g} that Adam adds to their size, so give "
            "one well above it, as 1e-3."
        )
    return optax.chain(optax.clip_by_global_norm(clip), optax.adam(learning_rate, b2=b2, eps=ADAM_EPSILON))


def schedule(name: Schedule, learning_rate: Number, *, steps: int, warmup: int = 0) -> Number | optax.Schedule:
    """The learning rate over the steps: constant, or down to 0 at the last, along half a cosine or a line; after a rise from 0, linear, in
    the first `warmup` steps.

    Raises `ValueError` for an unknown name, a rate not above 0, no steps, or a warm-up that is not shorter than the training.
    """
    one_of("schedule", name, ("constant", "cosine", "linear"))
    positive("learning_rate", learning_rate)
    count("steps", steps)
    if count("warmup", warmup, at_least=0) >= steps:
        raise InputError(f"the learning rate rises for {warmup} steps, and there are {steps}; give fewer.")
    if name == "constant" and not warmup:
        return learning_rate
    then = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, steps - warmup),
        "linear": lambda: optax.linear_schedule(learning_rate, 0.0, steps - warmup),
    }[name]()
    if not warmup:
        return then
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup), then], [warmup])
