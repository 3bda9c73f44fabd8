"""Adam on clipped gradients, the optimiser of this literature."""

import equinox as eqx
import jax.core
import optax

from mesalens.checks import InputError, fraction, positive
from mesalens.training.optimisers.base import Number, Optimiser, Schedule, schedule

ADAM_EPSILON = 1e-8
"""The default ε of Adam."""


class Adam(Optimiser):
    """Adam on gradients whose global norm is clipped.

    The defaults are those of the released code of von Oswald et al. (2023). Numbers are checked by
    `transformation`.

    Attributes:
        learning_rate: Learning rate after the warm-up, positive.
        b1: Decay of the first moment, in [0, 1).
        b2: Decay of the second moment, in [0, 1).
        clip: Largest norm of a gradient, positive.
        epsilon: Number ε added to the denominator, positive and below clip.
        schedule: Learning rate over the steps: constant, cosine, linear or geometric; see
            `mesalens.training.schedule`.
        warmup: Number of steps in which the learning rate first rises linearly from 0.

    Source: Kingma and Ba (2015), arXiv 1412.6980.
    """

    learning_rate: Number = 1e-3
    b1: Number = 0.9
    b2: Number = 0.98
    clip: Number = 1e-3
    epsilon: Number = ADAM_EPSILON
    schedule: Schedule = eqx.field(static=True, default="constant")
    warmup: int = eqx.field(static=True, default=0)

    def transformation(self, steps: int) -> optax.GradientTransformation:
        rate = schedule(self.schedule, self.learning_rate, steps=steps, warmup=self.warmup)
        rates = {"b1": self.b1, "b2": self.b2, "epsilon": self.epsilon}
        return clipped_adam(rate, clip=self.clip, **rates)


def clipped_adam(
    learning_rate: Number | optax.Schedule,
    *,
    clip: Number,
    b1: Number = 0.9,
    b2: Number = 0.999,
    epsilon: Number = ADAM_EPSILON,
) -> optax.GradientTransformation:
    """Adam of Optax on gradients whose global norm is clipped.

    Args:
        learning_rate: A positive number, or a schedule of Optax, whose values are not checked.
        clip: The largest norm of a gradient, positive.
        b1: The decay of the first moment, in [0, 1).
        b2: The decay of the second moment, in [0, 1).
        epsilon: The number ε that is added to the denominator, positive.

    Returns:
        The optimiser of Optax.

    Raises:
        ValueError: if a number is out of range, or `clip` is not above ε, which would then
            outweigh every gradient.

    Source: Kingma and Ba (2015), arXiv 1412.6980.
    """
    if not callable(learning_rate):
        positive("learning_rate", learning_rate)
    fraction("b1", b1)
    fraction("b2", b2)
    positive("clip", clip)
    positive("epsilon", epsilon)
    traced = any(isinstance(number, jax.core.Tracer) for number in (clip, epsilon))
    if not traced and clip <= epsilon:
        raise InputError(f"clip must be well above Adam's epsilon {epsilon:g}; got {clip!r}.")
    adam = optax.adam(learning_rate, b1=b1, b2=b2, eps=epsilon)
    return optax.chain(optax.clip_by_global_norm(clip), adam)
