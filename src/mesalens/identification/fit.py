"""Fitting: the member of a family that is nearest to a learner's predictions."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import scipy.special
from jaxtyping import Float

from mesalens.checks import InputError
from mesalens.identification.candidates import Candidate, Parameters, Scales
from mesalens.identification.least_squares import (
    FAR,
    Problem,
    bounded,
    from_coordinate,
    mean_square,
    minimise,
    standard_errors,
    to_coordinate,
    unpack,
)
from mesalens.identification.members import Members, has_filter, iterates, predictions
from mesalens.identification.members import answers as answers_of
from mesalens.identification.prompts import NODES, Prompts
from mesalens.learners import GradientDescent, Learner

ROUGH, FINE = 1e-4, 1e-9
"""A search ends if a step lowers the distance by a smaller share. Exact fits converge faster."""

NEAR = 0.1
"""A candidate at a larger distance is never named."""

SIMPLER = 1e-4
"""A smaller choice is preferred if its distance is larger by at most this, times the margin."""

EXACT = 1e-10
"""No choice is nearer than this distance to predictions in float32."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """The fitted member of a family: its parameters with standard errors, and its distance.

    `square` is the mean squared difference on the prompts of the fit. `others` are the fits for the
    other choices, by choice. Parameters are those for contexts of `context_length` examples. If
    `grows`, the parameters in `Candidate.lengths` grow with the context length; otherwise they are
    constant.
    """

    candidate: Candidate
    choice: int | None
    parameters: Parameters
    errors: Parameters
    square: float
    others: Mapping[int, "Fitted"]
    context_length: int
    grows: bool = False

    @property
    def name(self) -> str:
        """The name of the family."""
        return self.candidate.name

    @property
    def free(self) -> int:
        """The number of parameters, including the choice."""
        return sum(np.size(v) for v in self.parameters.values()) + (self.choice is not None)

    @property
    def learner(self) -> Learner:
        """The algorithm."""
        return self.candidate.learner(self.choice, self.parameters)

    def predictions(self, prompts: Prompts) -> Float[np.ndarray, "batch m"]:
        """Its predictions, computed in float64."""
        parameters = dict(self.parameters)
        if self.grows:
            ratio = prompts.context_length / self.context_length
            for name, power in (self.candidate.lengths or {}).items():
                parameters[name] = parameters[name] * ratio**power
        return predictions(self.candidate, self.choice, parameters, prompts)

    def interval(self, name: str) -> tuple[Any, Any]:
        """The 95% interval of a parameter, from the standard error of its search coordinate."""
        kind = (self.candidate.ranges or {})[name]
        middle = to_coordinate(self.parameters[name], kind)
        half = scipy.special.ndtri(0.975) * np.asarray(self.errors[name])
        return from_coordinate(middle - half, kind), from_coordinate(middle + half, kind)


def fit(
    candidate: Candidate, prompts: Prompts, answers: np.ndarray, unit: float, scales: Scales
) -> Fitted:
    """The member nearest to the learner's predictions in mean square.

    Each choice is fitted by least squares (Levenberg-Marquardt) from the best of its starts, with
    derivatives of the *candidate* by finite differences in float64. Of the choices that are as near
    as the nearest, the smallest is taken.

    Args:
        candidate: The family.
        prompts: The prompts.
        answers: The learner's predictions.
        unit: What the context explains, the unit of distances.
        scales: Typical numbers of the task's prompts.
    """
    n = prompts.context_length
    if candidate.iterates:
        by_choice = iterates(candidate, prompts)
        fits = [
            Fitted(candidate, choice, {}, {}, mean_square(by_choice[choice] - answers), {}, n)
            for choice in candidate.choices
        ]
    else:
        fits = []
        for choice in candidate.choices or (None,):
            fits.append(_fit(candidate, choice, prompts, answers, unit, scales))
            if fits[-1].square <= EXACT * unit:  # larger choices cannot be nearer
                break
    least = min(each.square for each in fits)
    best = next(each for each in fits if each.square <= least + SIMPLER * 0.01 * unit)
    others = {each.choice: each for each in fits if each is not best and each.choice is not None}
    if best.parameters:
        # The choices were compared by rough searches. In other regimes the last digits of the
        # parameters matter, if the candidate is near
        precision = FINE if best.square <= NEAR * unit else ROUGH
        found = _search(candidate, best.choice, best.parameters, prompts, answers, precision)
        best = Fitted(candidate, best.choice, *found, {}, n)
    return dataclasses.replace(best, others=others)


def with_lengths(
    fitted: Fitted, prompts: list[Prompts], answers: list[np.ndarray], units: list[float]
) -> Fitted:
    """The candidate with parameters that grow with the context length or not, whichever is nearer.

    Args:
        fitted: A fitted candidate.
        prompts: Batches with other context lengths, on which it will not be judged.
        answers: The learner's predictions for them.
        units: What the context explains in each batch.
    """
    if not fitted.candidate.lengths:
        return fitted

    def off(each: Fitted) -> float:
        return sum(
            mean_square(each.predictions(batch) - answer) / unit
            for batch, answer, unit in zip(prompts, answers, units, strict=True)
        )

    growing = dataclasses.replace(
        fitted,
        grows=True,
        others={k: dataclasses.replace(other, grows=True) for k, other in fitted.others.items()},
    )
    return growing if off(growing) < off(fitted) else fitted


def refit(fitted: Fitted, prompts: Prompts, answers: np.ndarray) -> np.ndarray:
    """The predictions of the nearest member on other prompts, searched from the fitted one.

    It is fitted to the same predictions with which it is compared, so it is nearer than the best
    member of the family: a lower bound of its distance is one for the whole family.
    """
    if not fitted.parameters:
        return fitted.predictions(prompts)
    found = _search(fitted.candidate, fitted.choice, fitted.parameters, prompts, answers)[0]
    return predictions(fitted.candidate, fitted.choice, found, prompts)


def _fit(
    candidate: Candidate,
    choice: int | None,
    prompts: Prompts,
    answers: np.ndarray,
    unit: float,
    scales: Scales,
) -> Fitted:
    """The nearest member with a given choice, from a rough search, without standard errors."""
    starts = candidate.starts(choice or 0, scales) if candidate.ranges else [{}]
    members = Members(candidate, choice, starts[0])
    exact = _on(members, prompts, answers)

    def made(parameters: Parameters) -> Fitted:
        square = mean_square(exact.residuals(parameters).reshape(answers.shape))
        return Fitted(candidate, choice, parameters, {}, square, {}, prompts.context_length)

    if not candidate.ranges:
        return made({})
    problem, ranking = _rough(members, prompts, answers)
    starts = sorted(starts, key=lambda start: mean_square(ranking.residuals(start)))
    found: list[Fitted] = []
    for start in starts[: candidate.searches]:
        found.append(made(minimise(problem, candidate.ranges, start, ROUGH)[1]))
        if found[-1].square <= EXACT * unit:
            break
    return min([*found, made(starts[0])], key=lambda each: each.square)


def _rough(members: Members, prompts: Prompts, answers: np.ndarray) -> tuple[Problem, Problem]:
    """The problem for a rough search, and the problem by which starts are ranked.

    Families with a spectral filter are searched by its values at a few nodes, or on few prompts.
    """
    if not has_filter(members.first):
        exact = _on(members, prompts, answers)
        return exact, exact
    few = _on(members, prompts.few, answers[: len(prompts.few)])
    return _at_nodes(members, prompts, answers) or few, few


def _at_nodes(members: Members, prompts: Prompts, answers: np.ndarray) -> Problem | None:
    """The problem in terms of a few values of the filter (`Nodes`), if these determine it."""
    learner, n = members.first, prompts.context_length
    centred = getattr(learner, "centres_inputs", False)
    at = prompts.centred_nodes if centred else prompts.nodes
    each_alone = learner.spectral_filter(at.eigenvalues[:, None], n)[:, 0]
    pointwise = np.array_equal(each_alone, learner.spectral_filter(at.eigenvalues, n))
    from_zero = getattr(learner, "initial_weights", None) is None
    if not (pointwise and from_zero and answers.size >= NODES):
        return None
    right = at.axes.T @ answers.ravel()

    @np.errstate(all="ignore")  # divergent algorithms overflow, and count as far
    def residuals(parameters: Parameters) -> np.ndarray:
        try:
            with jax.enable_x64(True):
                g = members(parameters).spectral_filter(at.eigenvalues, n)
        except InputError:
            return np.full(right.shape, FAR)
        return bounded(at.root @ g - right)

    @np.errstate(all="ignore")
    def several(parameters: Parameters) -> np.ndarray:
        numbers = {k: np.moveaxis(np.asarray(v), 0, -1)[..., None] for k, v in parameters.items()}
        count = next(iter(numbers.values())).shape[-2]
        eigenvalues = np.broadcast_to(at.eigenvalues, (count, NODES))
        return bounded(members(numbers).spectral_filter(eigenvalues, n) @ at.root.T - right)

    at_once = members.of_fields is not None and isinstance(learner, GradientDescent)
    return Problem(residuals, several if at_once else None)


def _search(
    candidate: Candidate,
    choice: int | None,
    start: Parameters,
    prompts: Prompts,
    answers: np.ndarray,
    precision: float = ROUGH,
) -> tuple[Parameters, Parameters, float]:
    """The parameters nearest to the answers, their standard errors, and the mean square there."""
    problem = _on(Members(candidate, choice, start), prompts, answers)
    found, parameters = minimise(problem, candidate.ranges or {}, start, precision)
    errors = unpack(standard_errors(found, len(answers)), start)
    return parameters, errors, mean_square(found.fun.reshape(answers.shape))


def _on(members: Members, prompts: Prompts, answers: np.ndarray) -> Problem:
    """The problem on prompts: a member's predictions minus the learner's."""

    def residuals(parameters: Parameters) -> np.ndarray:
        try:
            with jax.enable_x64(True):
                return bounded(answers_of(members(parameters), prompts) - answers)
        except InputError:  # the family has no such member
            return np.full(answers.shape, FAR)

    return Problem(residuals)
