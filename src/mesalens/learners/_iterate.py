"""An iterative learner that stops early."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from mesalens.checks import count
from mesalens.learners.base import IterativeLearner, predict_iterates, require


class Iterate(IterativeLearner):
    """The prediction of an iterative learner after k of its steps, or layers of a transformer.

    Attributes:
        learner: The iterative learner.
        step: k, from 0, which is before the first step.

    Raises:
        ValueError: If the learner does not work in steps, or k is negative; on a call, if the
            learner has fewer steps.
    """

    learner: IterativeLearner
    step: int = eqx.field(static=True)

    def __check_init__(self):
        require(self.learner, IterativeLearner, "Iterate")
        count("step", self.step, at_least=0)

    def iterates(self, prompt: Any) -> Float[Array, "iterates m"]:
        predictions = predict_iterates(self.learner, prompt)
        count("step", self.step, at_least=0, at_most=len(predictions) - 1)
        return predictions[: self.step + 1]
