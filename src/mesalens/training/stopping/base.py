"""`StoppingRule`: when a run has converged."""

import abc
from typing import Any

from jaxtyping import Array, Bool, Float
from numpy import ndarray

Metrics = dict[str, Float[ndarray, "runs points"]]


class StoppingRule(abc.ABC):
    """Judges every run after each measurement; a run that has converged takes no further step."""

    def measures(self, learner: Any) -> dict[str, Float[Array, ""]]:
        """What the rule wants measured besides the losses, compiled by JAX; nothing by default."""
        return {}

    @abc.abstractmethod
    def reached(self, metrics: Metrics) -> Bool[ndarray, " runs"]:
        """Which runs have converged, by their metrics so far.

        Args:
            metrics: Arrays of runs × measurements; `loss` has the mean loss of each chunk of steps.
        """

    @abc.abstractmethod
    def words(self) -> str:
        """The rule in words, by which two of a kind are told apart."""
