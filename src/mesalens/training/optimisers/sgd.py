"""Stochastic gradient descent."""

import equinox as eqx
import optax

from mesalens.checks import fraction, positive
from mesalens.training.optimisers.base import Number, Optimiser, Schedule, schedule


class SGD(Optimiser):
    """Gradient descent with momentum, on gradients whose global norm is clipped to `clip` if given.

    `schedule` and `warmup` are those of `mesalens.training.schedule`.
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
