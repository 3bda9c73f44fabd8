"""`Optimiser`: makes an optimiser of Optax for a number of steps."""

import abc
import math
import typing
from typing import Literal

import equinox as eqx
import optax
from jaxtyping import Array, Float

from mesalens.checks import InputError, count, one_of, positive

Number = float | Float[Array, ""]
"""A number, or a traced one if it is varied."""

Schedule = Literal["constant", "cosine", "linear", "geometric"]


class Optimiser(eqx.Module):
    """An optimiser as settings, whose numbers can be varied in one program.

    Subclasses implement `transformation`.
    """

    @abc.abstractmethod
    def transformation(self, steps: int) -> optax.GradientTransformation:
        """The optimiser of Optax for a training.

        Args:
            steps: The number of training steps, on which schedules depend.

        Raises:
            ValueError: if a number is out of range, or does not fit the number of steps.
        """


def schedule(
    name: Schedule, learning_rate: Number, *, steps: int, warmup: int = 0
) -> Number | optax.Schedule:
    """The learning rate over the steps, as a number or a schedule of Optax.

    Args:
        name: "constant"; "cosine" or "linear", which decay to 0 at the last step; or "geometric",
            halved after every ⌊T / log₂ T⌋ of the T steps after the warm-up (Wu et al., 2024).
        learning_rate: The learning rate after the warm-up.
        steps: The number of steps, including the warm-up.
        warmup: The number of steps in which the rate first rises linearly from 0.

    Returns:
        The learning rate itself if it is constant without a warm-up, otherwise a schedule.

    Raises:
        ValueError: if the name is unknown, the rate is not positive, or the warm-up is not shorter
            than the training.
    """
    one_of("schedule", name, typing.get_args(Schedule))
    positive("learning_rate", learning_rate)
    count("steps", steps)
    if count("warmup", warmup, at_least=0) >= steps:
        raise InputError(f"warmup={warmup} must be less than steps={steps}.")
    if name == "constant" and not warmup:
        return learning_rate
    rest = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, steps - warmup),
        "linear": lambda: optax.linear_schedule(learning_rate, 0.0, steps - warmup),
        "geometric": lambda: optax.exponential_decay(
            learning_rate, _between_halvings(steps - warmup), 0.5, staircase=True
        ),
    }[name]()
    if not warmup:
        return rest
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup), rest], [warmup])


def _between_halvings(steps: int) -> int:
    return max(1, int(steps / max(1.0, math.log2(steps))))
