"""When a run has converged: near the exact optimum, near a risk that is known, or flat."""

import abc
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Array, Bool, Float

from mesalens.checks import InputError, count, positive
from mesalens.models import LinearTransformer
from mesalens.tasks import RegressionTask
from mesalens.theory import optimal_lsa, population_risk, task_moments


class StoppingRule(abc.ABC):
    """Looks at every run after each measurement, and says which have converged: these take no further step."""

    def measures(self, learner: Any) -> dict[str, Float[Array, ""]]:
        """What the rule wants measured besides; JAX compiles it. Nothing, where it is content with the losses."""
        return {}

    @abc.abstractmethod
    def reached(self, metrics: dict[str, Float[np.ndarray, "runs points"]]) -> Bool[np.ndarray, " runs"]:
        """Which runs have converged, by their metrics so far; `loss` has the mean loss of each chunk of steps."""

    @abc.abstractmethod
    def words(self) -> str:
        """The rule in words, by which two of a kind are told apart."""


class NearOptimum(StoppingRule):
    """A layer of linear self-attention whose risk R is within a tolerance of the least that any such layer has: R ≤ (1 + tolerance) R*.

    R is `population_risk` and R* that of `optimal_lsa`: both exact where the task's moments are, so that no noise decides. It is measured as
    `excess_risk`, R / R* - 1, in the precision of the weights.

    Raises `ValueError` for a tolerance not above 0; a task whose moments are not known exactly, or that leaves no risk; and for learners that
    are no such layer.
    """

    def __init__(self, task: RegressionTask, tolerance: float = 0.01):
        self.tolerance = positive("the tolerance", tolerance)
        self._moments = task_moments(task)
        if self._moments.method == "simulation":
            raise InputError(
                f"the optimum of {type(task.functions).__name__} on {type(task.covariates).__name__} covariates is known by simulation alone; stop "
                "where the loss is flat instead."
            )
        self.optimum = optimal_lsa(task, self._moments).risk
        if not self.optimum > 1e-9 * self._moments.null_risk:
            raise InputError(
                "the best layer leaves no risk on this task, so that none is near it by a factor; stop where the loss is flat."
            )

    def measures(self, learner: Any) -> dict[str, Float[Array, ""]]:
        if not isinstance(learner, LinearTransformer):
            raise InputError(
                f"the optimum is known for a layer of linear self-attention, not for {type(learner).__name__}; stop where the loss is flat."
            )
        return {"excess_risk": population_risk(learner, self._moments) / self.optimum - 1}

    def reached(self, metrics: dict[str, Float[np.ndarray, "runs points"]]) -> Bool[np.ndarray, " runs"]:
        return metrics["excess_risk"][:, -1] <= self.tolerance

    def words(self) -> str:
        return f"risk within {self.tolerance:g} of the optimum {self.optimum:.8g}"


class NearRisk(StoppingRule):
    """A run whose risk is within a tolerance of a risk that is known, for learners of any kind.

    The mean of the loss over the last `window` chunks of steps has a 95% interval, of Student's t over the chunks, that lies below
    (1 + tolerance) · risk. What the loss still falls in the window widens it.

    Raises `ValueError` for a risk or tolerance not above 0, or a window below 2.
    """

    def __init__(self, risk: float, tolerance: float = 0.01, window: int = 5):
        self.risk, self.tolerance = positive("the risk", risk), positive("the tolerance", tolerance)
        self.window = count("the window", window, at_least=2)

    def reached(self, metrics: dict[str, Float[np.ndarray, "runs points"]]) -> Bool[np.ndarray, " runs"]:
        losses = metrics["loss"][:, 1:]
        if losses.shape[1] < self.window:
            return np.zeros(len(losses), bool)
        last = losses[:, -self.window :]
        reach = scipy.stats.t.ppf(0.975, self.window - 1) * last.std(axis=1, ddof=1) / np.sqrt(self.window)
        return last.mean(axis=1) + reach <= (1 + self.tolerance) * self.risk

    def words(self) -> str:
        return f"loss within {self.tolerance:g} of {self.risk:.8g} over {self.window} chunks"


class Flat(StoppingRule):
    """A run whose loss has fallen and does not change any more: an equivalence test, not the absence of a difference.

    A line is fitted to the loss of the last `window` chunks of steps. The run is flat where the 95% interval of what the line changes over
    the window, as a share of its mean, lies within ± tolerance; and where the loss of each chunk in it is below (1 - 10 · tolerance) of the first chunk's.

    A plateau on the way is flat too: a run that begins on one is held by the second condition, one that comes to another later is
    not. Where theory gives the optimum, `NearOptimum` has no such doubt.

    Raises `ValueError` for a tolerance that is not between 0 and 0.1, or a window below 3.
    """

    def __init__(self, tolerance: float = 0.01, window: int = 10):
        self.tolerance, self.window = (
            positive("the tolerance", tolerance),
            count("the window", window, at_least=3),
        )
        if tolerance >= 0.1:
            raise InputError(f"the tolerance is {tolerance:g}; give one below 0.1, of which ten times are a fall.")

    def reached(self, metrics: dict[str, Float[np.ndarray, "runs points"]]) -> Bool[np.ndarray, " runs"]:
        losses = metrics["loss"][:, 1:]
        if losses.shape[1] <= self.window:
            return np.zeros(len(losses), bool)
        last = losses[:, -self.window :]
        line = _line(last)
        low, high = line.change - line.reach, line.change + line.reach
        fallen = (last < (1 - 10 * self.tolerance) * losses[:, :1]).all(axis=1)
        return (low >= -self.tolerance) & (high <= self.tolerance) & fallen

    def words(self) -> str:
        return f"loss flat within {self.tolerance:g} over {self.window} chunks"


class _Line(NamedTuple):
    """What fitted lines change over a window, as a share of the mean, and how far the 95% interval reaches to both sides."""

    change: Float[np.ndarray, " runs"]
    reach: Float[np.ndarray, " runs"]


def _line(losses: Float[np.ndarray, "runs window"]) -> _Line:
    """The least-squares line through each row, whose interval is Student's with two degrees of freedom less."""
    window = losses.shape[1]
    times = np.arange(window) - (window - 1) / 2
    means = losses.mean(axis=1)
    slopes = losses @ times / (times @ times)
    residuals = losses - means[:, None] - slopes[:, None] * times
    errors = np.sqrt((residuals**2).sum(axis=1) / (window - 2) / (times @ times))
    with np.errstate(divide="ignore", invalid="ignore"):  # nothing is a share of a loss of 0
        span = (window - 1) / means
        return _Line(slopes * span, scipy.stats.t.ppf(0.975, window - 2) * errors * span)
