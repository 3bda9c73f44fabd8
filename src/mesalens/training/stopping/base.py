"""`StoppingRule`: when a run has converged."""

import abc
from typing import Any

from jaxtyping import Array, Bool, Float
from numpy import ndarray

Metrics = dict[str, Float[ndarray, "runs points"]]


class StoppingRule(abc.ABC):
    """When a run has converged; it is asked after each measurement.

    Subclasses implement `reached` and `words`.
    """

    def measures(self, learner: Any) -> dict[str, Float[Array, ""]]:
        """Numbers that the rule needs besides the loss, by name; none by default.

        Args:
            learner: The learner of one run; JAX compiles this function.
        """
        return {}

    @abc.abstractmethod
    def reached(self, metrics: Metrics) -> Bool[ndarray, " runs"]:
        """Which runs have converged, of shape (runs,).

        Args:
            metrics: All measurements so far, of shape (runs, measurements), by name. `loss` is the
                mean loss of the steps since the previous measurement.
        """

    @abc.abstractmethod
    def words(self) -> str:
        """The rule in words, with its parameters: a checkpoint must have the same words."""
