"""Nonlinear least squares over parameters that have ranges."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import scipy.special

from mesalens.identification.candidates import Parameters, Range

MOST_EVALUATIONS = 40
"""The largest number of evaluations of a search, divided by the number of parameters plus one."""

STEP = 1.5e-8
"""The relative step of finite differences: the square root of the rounding error, as in MINPACK."""

FAR = 1e6
"""The value that replaces residuals that are not finite."""


class Problem(NamedTuple):
    """A function from parameters to residuals; if it is fast, also one for several parameters."""

    residuals: Callable[[Parameters], np.ndarray]
    several: Callable[[Parameters], np.ndarray] | None = None


def minimise(
    problem: Problem, ranges: Mapping[str, Range], start: Parameters, precision: float
) -> tuple[Any, Parameters]:
    """Minimises squared residuals (Levenberg-Marquardt): SciPy's result, and the parameters.

    It searches in unbounded coordinates, and ends if a step lowers the sum of squares by a share
    of less than `precision`.
    """

    def at(coordinates: np.ndarray) -> Parameters:
        parts = unpack(coordinates, start)
        return {name: from_coordinate(part, ranges[name]) for name, part in parts.items()}

    def slopes(coordinates: np.ndarray) -> np.ndarray:
        """The Jacobian by finite differences, all of them in one call."""
        assert problem.several is not None
        steps = STEP * np.maximum(np.abs(coordinates), 0.01)
        rows = coordinates + np.vstack([np.zeros(len(steps)), np.diag(steps)])
        off = problem.several(at(rows))
        return ((off[1:] - off[0]) / steps[:, None]).T

    first = np.concatenate([np.ravel(to_coordinate(start[name], ranges[name])) for name in start])
    options: Any = {} if problem.several is None else {"jac": slopes}
    found = scipy.optimize.least_squares(
        lambda coordinates: problem.residuals(at(coordinates)).ravel(),
        first,
        method="lm" if problem.residuals(start).size >= first.size else "trf",
        max_nfev=MOST_EVALUATIONS * (1 if options else len(first) + 1),
        xtol=max(1e-5 * precision, 1e-13),
        ftol=precision,
        gtol=1e-14,
        **options,
    )
    return found, at(found.x)


def unpack(numbers: np.ndarray, like: Parameters) -> Parameters:
    """A vector as parameters of the same shapes; leading axes are kept."""
    ends = np.cumsum([np.size(value) for value in like.values()])[:-1]
    parts = zip(like.items(), np.split(numbers, ends, axis=-1), strict=True)
    front = numbers.shape[:-1]
    return {name: part.reshape(front + np.shape(value)) for (name, value), part in parts}


def bounded(residuals: np.ndarray) -> np.ndarray:
    """Finite residuals: those that are not finite become large."""
    return np.clip(np.where(np.isfinite(residuals), residuals, FAR), -FAR, FAR)


def standard_errors(found: Any, prompts: int) -> np.ndarray:
    """Standard errors of coordinates, for a misspecified model: White's sandwich over pairs.

    Source: White, Econometrica 50 (1982).
    """
    J = found.jac.reshape(prompts // 2, -1, found.x.size)
    scores = np.einsum("pri,pr->pi", J, found.fun.reshape(prompts // 2, -1))
    scale = np.sqrt(np.einsum("pri,pri->i", J, J))
    scale = np.where(scale > 0, scale, 1)
    J, scores = J / scale, scores / scale
    eigenvalues, axes = np.linalg.eigh(np.einsum("pri,prj->ij", J, J))
    spanned = eigenvalues > 1e-12 * eigenvalues[-1]
    bread = (axes[:, spanned] / eigenvalues[spanned]) @ axes[:, spanned].T
    errors = np.sqrt(np.maximum(np.diag(bread @ (scores.T @ scores) @ bread), 0)) / scale
    # A parameter without effect on the predictions could have any value
    free = np.sum(axes[:, ~spanned] ** 2, axis=1) > 1e-6
    return np.where(free, np.inf, errors)


def mean_square(residuals: np.ndarray) -> float:
    """The mean over prompts of squared residuals; infinite if it overflows."""
    with np.errstate(over="ignore"):
        square = float(np.mean(np.sum(residuals**2, axis=-1)))
    return square if np.isfinite(square) else np.inf


def to_coordinate(value: Any, kind: Range) -> Any:
    """A parameter as an unbounded number."""
    value = np.asarray(value, np.float64)
    if kind == "positive":
        return np.log(value)
    if kind == "fraction":
        return scipy.special.logit(value)
    return scipy.special.logit(value / 2) if kind == "below-two" else value


def from_coordinate(coordinate: Any, kind: Range) -> Any:
    """The parameter of a coordinate, within the range that algorithms accept."""
    if kind == "positive":
        return np.exp(np.clip(coordinate, -40, 40))
    if kind == "fraction":
        return np.clip(scipy.special.expit(coordinate), 1e-9, 1 - 1e-12)
    if kind == "below-two":
        return 2 * np.clip(scipy.special.expit(coordinate), 1e-9, 1 - 1e-9)
    return np.clip(coordinate, -1e15, 1e15)
