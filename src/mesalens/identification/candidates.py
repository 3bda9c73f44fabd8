"""`Candidate`: a family of algorithms with parameters, and the families that are tried.

A family says what it computes for given parameters (`build`), where the search for them starts, and
which families it contains. Identification knows nothing else about it.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from mesalens.checks import InputError
from mesalens.identification.prompts import Prompts, has_classes
from mesalens.learners import (
    BayesianRegression,
    CentredDescent,
    ChebyshevDescent,
    ConjugateGradient,
    ConstantPrediction,
    DiscreteBayes,
    GradientDescent,
    KernelRidge,
    KernelSmoother,
    KNearestNeighbours,
    Lasso,
    Learner,
    LeastSquares,
    LogisticDescent,
    MeanLabel,
    NewtonSchulz,
    OnlineDescent,
    PrincipalComponentRegression,
    Ridge,
    SoftmaxHead,
    WeightedRidge,
    WithIntercept,
)
from mesalens.tasks import FinitePool, LinearFunctions, RegressionTask, Task

MOST_STEPS = 8

Range = Literal["real", "positive", "fraction", "below-two"]
Parameters = Mapping[str, Any]


class Scales(NamedTuple):
    """Typical numbers of a task's prompts, which set the scale of parameters."""

    context_length: int
    dim: int
    outputs: int
    largest: float
    """the median of the largest eigenvalue of X^T X / n"""
    distance: float
    """the median distance of an example from the query"""
    length: float
    """the median of ‖x‖²"""

    @classmethod
    def of(cls, prompts: Prompts) -> "Scales":
        """The scales of a batch."""
        lengths = np.sum(prompts.xs.astype(float) ** 2, axis=-1)
        distances = np.linalg.norm(prompts.xs - prompts.queries[:, None], axis=-1)
        largest = prompts.spectrum.eigenvalues[:, -1]
        numbers = (max(float(np.median(x)), 1e-12) for x in (largest, distances, lengths))
        (_, n, d), m = prompts.xs.shape, prompts.ys.shape[-1]
        return cls(n, d, m, *numbers)


Starts = Callable[[int, Scales], list[dict[str, Any]]]


@dataclass(frozen=True)
class Candidate:
    """A family of algorithms, whose members have parameters.

    Args:
        name: The name of the family.
        build: `build(choice, **parameters)` returns the learner with these parameters; without
            `choices`, `build(**parameters)`.
        ranges: The range of each parameter: "real", "positive", "fraction" (0 to 1) or "below-two"
            (0 to 2). It holds for all entries of an array.
        starts: `starts(choice, scales)` returns the parameters from which a search starts, where
            scales are typical numbers of the task's prompts.
        choices: The values of an integer parameter, such as the number of steps.
        choice: The name of that integer.
        extends: The names of families that are special cases of this one. If one of them is
            equivalent to the learner, this family is not named.
        lengths: Parameters that may grow with the context length n as a power of it, with that
            power. (Descent on the sum over examples is descent on their mean with a step size
            proportional to n.)
        searches: The number of starts from which to search, beginning with the nearest ones.
        iterates: Whether all choices are iterates of `build(max(choices))`.

    Examples:
        >>> from mesalens import Ridge
        >>> from mesalens.identification import Candidate
        >>> starts = lambda choice, scales: [{"penalty": scales.largest}]
        >>> Candidate("my-ridge", Ridge, {"penalty": "positive"}, starts).learner(
        ...     None, {"penalty": 2.0}
        ... )
        Ridge(penalty=2.0)
    """

    name: str
    build: Callable[..., Learner]
    ranges: Mapping[str, Range] | None = None
    starts: Starts = lambda choice, scales: [{}]
    choices: tuple[int, ...] = ()
    choice: str = ""
    extends: tuple[str, ...] = ()
    lengths: Mapping[str, int] | None = None
    searches: int = 1
    iterates: bool = False

    def learner(self, choice: int | None, parameters: Mapping[str, Any]) -> Learner:
        """The member with given parameters.

        Args:
            choice: The value of the integer parameter, or None without `choices`.
            parameters: The other parameters, by name.
        """
        return self.build(*(() if choice is None else (choice,)), **parameters)

    def member(self, scales: Scales) -> Learner:
        """One member of the family: the first from which a search starts.

        Args:
            scales: Typical numbers of the task's prompts.
        """
        choice = self.choices[0] if self.choices else None
        return self.learner(choice, self.starts(choice or 0, scales)[0])


def given(candidates: Mapping[str, Any] | Iterable[Candidate]) -> list[Candidate]:
    """The candidates that a user gives: families, or learners by name.

    Raises:
        ValueError: if one of them is neither.
    """
    if not isinstance(candidates, Mapping):
        candidates = {getattr(each, "name", str(each)): each for each in candidates}
    families = []
    for name, each in candidates.items():
        if isinstance(each, Learner):
            families.append(Candidate(str(name), lambda each=each: each))
        elif isinstance(each, Candidate):
            families.append(each)
        else:
            raise InputError(
                f"each of candidates must be a Candidate or a Learner; {name} is a "
                f"{type(each).__name__}."
            )
    return families


def joined(known: list[Candidate], more: list[Candidate]) -> list[Candidate]:
    """All families.

    Raises:
        ValueError: if two have the same name.
    """
    names = [family.name for family in (*known, *more)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"candidates has a second family {twice[0]!r}; use another name.")
    return [*known, *more]


def known(task: Task) -> tuple[list[Candidate], dict[str, str]]:
    """The families for a task, simplest first, and why others are left out, by name."""
    families = [*BLIND, *(CLASSES if has_classes(task) else ()), *REGRESSION]
    left_out: dict[str, str] = {}
    for family in (_bayes, _discrete_bayes):
        made = family(task)
        if isinstance(made, Candidate):
            families.insert(len(BLIND), made)
        else:
            left_out |= made
    n, d = task.context_length, task.dim
    if n < 2:
        names = ("mean-label", "centred-descent", "nearest-neighbours", "weighted-ridge")
        names += ("least-squares-with-intercept", "ridge-with-intercept")
        left_out |= dict.fromkeys(names, "contexts have a single example")
    if min(n, d) < 2:
        names = ("conjugate-gradient", "principal-components")
        left_out |= dict.fromkeys(names, "inputs or contexts have a single dimension")
    if task.outputs * d > 256 or d * d > 512:
        names = ("preconditioned-step", "descent-from-weights")
        left_out |= dict.fromkeys(names, "there are too many weights to fit")
    chosen = []
    for family in families:
        if family.name not in left_out:
            most = {"nearest-neighbours": n - 1, "principal-components": min(n, d) - 1}
            most["conjugate-gradient"] = min(n, d) - 1
            top = most.get(family.name, MOST_STEPS)
            choices = tuple(choice for choice in family.choices if choice <= top)
            chosen.append(dataclasses.replace(family, choices=choices))
    return chosen, left_out


def _bayes(task: Task) -> Candidate | dict[str, str]:
    def left_out(why: str) -> dict[str, str]:
        return {"bayes": why}

    if not isinstance(task, RegressionTask) or not isinstance(task.functions, LinearFunctions):
        return left_out("the Bayes predictor is known for linear functions only")
    noise = task.noise
    if not (noise.gaussian and noise.homoscedastic) or task.distractors.count != 0:
        return left_out("the Bayes predictor is known for Gaussian noise of one variance only")
    variance = float(noise.conditional_variance(task.dim)[0])
    if variance <= 0:
        return left_out("without noise the Bayes predictor is least squares, or its limit")
    covariance, mean = task.functions.row_covariance(), task.functions.weight_mean()

    def build() -> Learner:
        prior: Any = mean if mean.any() else None
        return BayesianRegression(covariance, variance, prior_mean=prior)

    return Candidate("bayes", build)


def _discrete_bayes(task: Task) -> Candidate | dict[str, str]:
    functions = getattr(task, "functions", None)
    if not isinstance(functions, FinitePool):
        return {"discrete-bayes": "the task has no finite pool of functions"}
    pool = np.asarray(functions.pool)
    return Candidate(
        "discrete-bayes",
        lambda noise_variance: DiscreteBayes(pool, noise_variance),
        {"noise_variance": "positive"},
        lambda choice, s: [{"noise_variance": v * s.length} for v in (1e-3, 0.01, 0.1, 1.0)],
    )


def _rates(*sizes: float, **others: tuple[float, ...]) -> Starts:
    """Step sizes in units of 1 / λ_max, with all combinations of the other parameters."""

    def starts(choice: int, s: Scales) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [{"step_size": size / s.largest} for size in sizes]
        for name, values in others.items():
            found = [start | {name: value} for start in found for value in values]
        return found

    return starts


def _spread(choice: int, size: float) -> np.ndarray:
    """Different rates: from equal rates, a search could not separate them."""
    return size * np.geomspace(0.6, 1.7, choice)


def _rates_of_their_own(choice: int, s: Scales) -> list[dict[str, Any]]:
    return [{"step_size": _spread(choice, size / s.largest)} for size in (0.1, 0.4, 1.0, 1.8)]


def _corrected_rates(choice: int, s: Scales) -> list[dict[str, Any]]:
    return [
        {"step_size": rates, "data_correction": np.full(choice - 1, 0.1 / s.largest)}
        for size in np.array([0.3, 0.8, 1.4]) / s.largest
        # Unlike for plain descent, the order of these rates matters
        for rates in (_spread(choice, size), _spread(choice, size)[::-1])
    ]


def _penalties(*sizes: float, **others: tuple[float, ...]) -> Starts:
    """Penalties in units of the largest eigenvalue of X^T X."""

    def starts(choice: int, s: Scales) -> list[dict[str, Any]]:
        unit = s.context_length * s.largest
        return [
            {"penalty": size * unit, **dict(zip(others, values, strict=True))}
            for size in sizes
            for values in itertools.product(*others.values())
        ]

    return starts


def _bandwidths(choice: int, s: Scales) -> list[dict[str, Any]]:
    return [{"bandwidth": size * s.distance} for size in (0.15, 0.3, 0.6, 1.2, 2.5)]


def _kernel_ridges(choice: int, s: Scales) -> list[dict[str, Any]]:
    return [start | {"penalty": p} for start in _bandwidths(0, s) for p in (1e-3, 0.1, 1.0)]


def _masked(choice: Any, rate: Any) -> np.ndarray:
    """The rate in the chosen number of steps, then 0, so that all choices are one program."""
    return np.where(np.arange(MOST_STEPS) < choice, rate, 0.0)


RATES = (0.05, 0.15, 0.4, 0.9, 1.5, 1.9)
STEPS = tuple(range(1, MOST_STEPS + 1))

BLIND = (
    Candidate("zero", lambda: ConstantPrediction(0.0)),
    Candidate("mean-label", MeanLabel),
)
"""Families that do not use the inputs."""

REGRESSION = (
    Candidate("least-squares", LeastSquares),
    Candidate("averaging", lambda: GradientDescent(1.0)),
    Candidate(
        "ridge",
        Ridge,
        {"penalty": "positive"},
        _penalties(1e-6, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0),
        extends=("bayes",),
        lengths={"penalty": 1},
    ),
    Candidate("least-squares-with-intercept", lambda: WithIntercept(LeastSquares())),
    Candidate(
        "ridge-with-intercept",
        lambda penalty: WithIntercept(Ridge(penalty)),
        {"penalty": "positive"},
        _penalties(1e-6, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0),
        lengths={"penalty": 1},
    ),
    Candidate(
        "gradient-descent",
        lambda steps, step_size: GradientDescent(step_size, steps),
        {"step_size": "positive"},
        _rates(*RATES),
        STEPS,
        "steps",
        extends=("averaging",),
        lengths={"step_size": 1},
    ),
    Candidate(
        "principal-components",
        PrincipalComponentRegression,
        choices=tuple(range(1, 129)),
        choice="components",
    ),
    Candidate(
        "newton-schulz",
        lambda steps, scale: NewtonSchulz(steps, scale),
        {"scale": "below-two"},
        lambda choice, s: [{"scale": a} for a in (0.3, 1.0, 1.8)],
        tuple(range(1, 7)),
        "steps",
    ),
    Candidate(
        "conjugate-gradient",
        ConjugateGradient,
        choices=STEPS,
        choice="steps",
        iterates=True,
    ),
    Candidate(
        "chebyshev-descent",
        lambda steps, lower, width: ChebyshevDescent(steps, lower, lower + width),
        {"lower": "positive", "width": "positive"},
        lambda choice, s: [
            {"lower": low * s.largest, "width": width * s.largest}
            for low in (0.02, 0.1, 0.4)
            for width in (0.5, 1.0, 2.0)
        ],
        STEPS[1:],
        "steps",
        extends=("gradient-descent",),
        searches=2,
        lengths={"lower": -1, "width": -1},
    ),
    Candidate(
        "momentum",
        lambda steps, step_size, momentum: GradientDescent(step_size, steps, momentum=momentum),
        {"step_size": "positive", "momentum": "real"},
        _rates(0.15, 0.4, 0.9, momentum=(0.2, 0.6)),
        STEPS[1:],
        "steps",
        extends=("gradient-descent",),
        searches=2,
        lengths={"step_size": 1},
    ),
    Candidate(
        "gd-plus-plus",
        lambda steps, step_size, data_correction: GradientDescent(
            step_size, steps, data_correction=data_correction
        ),
        {"step_size": "positive", "data_correction": "real"},
        lambda choice, s: [
            {"step_size": eta / s.largest, "data_correction": gamma / s.largest}
            for eta in (0.3, 0.8, 1.4)
            for gamma in (0.05, 0.2, 0.5)
        ],
        STEPS[1:],
        "steps",
        extends=("gradient-descent",),
        searches=2,
        lengths={"step_size": 1, "data_correction": 1},
    ),
    Candidate(
        "centred-descent",
        lambda steps, step_size: CentredDescent(step_size, steps),
        {"step_size": "positive"},
        _rates(*RATES),
        STEPS,
        "steps",
        lengths={"step_size": 1},
    ),
    Candidate(
        "lasso",
        Lasso,
        {"penalty": "positive"},
        lambda choice, s: [{"penalty": p * s.largest} for p in (1e-3, 1e-2, 0.05, 0.2, 0.5)],
        lengths={"penalty": -1},
    ),
    Candidate("kernel-smoother", KernelSmoother, {"bandwidth": "positive"}, _bandwidths),
    Candidate(
        "softmax-head",
        lambda metric, gain: SoftmaxHead(metric, gain=gain),
        {"metric": "positive", "gain": "real"},
        lambda choice, s: [
            {"metric": size / s.length, "gain": gain}
            for size in (0.3, 1.0, 3.0, 10.0)
            for gain in (1.0, 3.0)
        ],
        searches=2,
    ),
    Candidate(
        "nearest-neighbours",
        KNearestNeighbours,
        choices=tuple(range(1, 65)),
        choice="neighbours",
    ),
    Candidate(
        "kernel-ridge",
        KernelRidge,
        {"penalty": "positive", "bandwidth": "positive"},
        _kernel_ridges,
        searches=2,
        lengths={"penalty": 1},
    ),
    Candidate(
        "weighted-ridge",
        WeightedRidge,
        {"penalty": "positive", "decay": "fraction"},
        _penalties(1e-4, 1e-2, 0.3, decay=(0.5, 0.8, 0.95)),
        extends=("ridge",),
        searches=2,
    ),
    Candidate(
        "online-descent",
        OnlineDescent,
        {"step_size": "positive"},
        lambda choice, s: [{"step_size": r / s.length} for r in (0.05, 0.2, 0.5, 1.0)],
    ),
    Candidate(
        "gradient-descent-rates",
        lambda steps, step_size: GradientDescent(step_size, steps),
        {"step_size": "real"},
        _rates_of_their_own,
        STEPS[1:],
        "steps",
        extends=("gradient-descent", "chebyshev-descent", "momentum"),
        searches=2,
        lengths={"step_size": 1},
    ),
    Candidate(
        "gd-plus-plus-rates",
        lambda steps, step_size, data_correction: GradientDescent(
            step_size, steps, data_correction=data_correction
        ),
        {"step_size": "real", "data_correction": "real"},
        _corrected_rates,
        STEPS[1:5],
        "steps",
        searches=4,
        extends=("gd-plus-plus", "gradient-descent", "gradient-descent-rates"),
        lengths={"step_size": 1, "data_correction": 1},
    ),
    Candidate(
        "descent-from-weights",
        lambda steps, step_size, initial_weights: GradientDescent(
            step_size, steps, initial_weights=initial_weights
        ),
        {"step_size": "positive", "initial_weights": "real"},
        lambda choice, s: [
            start | {"initial_weights": np.zeros((s.outputs, s.dim))}
            for start in _rates(*RATES[1:5])(choice, s)
        ],
        STEPS,
        "steps",
        extends=("gradient-descent",),
        lengths={"step_size": 1},
    ),
    Candidate(
        "preconditioned-step",
        lambda preconditioner: GradientDescent(1.0, preconditioner=preconditioner),
        {"preconditioner": "real"},
        lambda choice, s: [{"preconditioner": np.eye(s.dim) / s.largest}],
        extends=("gradient-descent",),
        lengths={"preconditioner": 1},
    ),
)
"""Simplest first: of equal functions, the first is named."""

CLASSES = (
    Candidate(
        "logistic-descent",
        lambda steps, step_size: LogisticDescent(_masked(steps, step_size), MOST_STEPS),
        {"step_size": "positive"},
        lambda choice, s: [{"step_size": size / s.largest} for size in (0.3, 1.0, 3.0, 10.0)],
        STEPS,
        "steps",
        lengths={"step_size": 1},
    ),
)
"""Families for labels that are classes; their predictions are logits."""
