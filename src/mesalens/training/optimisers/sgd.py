"""Stochastic gradient descent."""

import equinox as eqx
import optax

from mesalens.checks import fraction, positive
from mesalens.training.optimisers.base import Number, Optimiser, Schedule, schedule


class SGD(Optimiser):
    """Stochastic gradient descent with momentum; gradients may be clipped.

    Numbers are checked by `transformation`.

    Attributes:
        learning_rate: Learning rate after the warm-up, positive.
        momentum: Momentum, in [0, 1).
        clip: Largest norm of a gradient, positive; gradients are not clipped if it is None.
        schedule: Learning rate over the steps: constant, cosine, linear or geometric; see
            `mesalens.training.schedule`.
        warmup: Number of steps in which the learning rate first rises linearly from 0.
    """

    learning_rate: Number = 1e-2
    momentum: Number = 0.0
    clip: Number | None = None
    schedule: Schedule = eqx.field(static=True, default="constant")
    warmup: int = eqx.field(static=True, default=0)

    def transformation(self, steps: int) -> optax.GradientTransformation:
        rate = schedule(self.schedule, self.learning_rate, steps=steps, warmup=self.warmup)
        descent = optax.sgd(rate, momentum=fraction("momentum", self.momentum))
        if self.clip is None:
            return descent
        return optax.chain(optax.clip_by_global_norm(positive("clip", self.clip)), descent)
