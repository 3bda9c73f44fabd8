"""Fitting: the member of a family that is nearest to a subject's predictions."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special
from jaxtyping import Array, Float

from mesalens.checks import InputError
from mesalens.identification.candidates import Candidate, Range, Scales
from mesalens.identification.prompts import NODES, Prompts, Spectrum
from mesalens.learners import GradientDescent, Learner
from mesalens.learners.base import predict, predict_iterates
from mesalens.program_cache import compiled_once
from mesalens.prompt import Prompt

MOST_EVALUATIONS = 40
"""Of a search from one start, in units of one more than the number of parameters."""

ROUGH, FINE = 1e-4, 1e-9
"""A search ends where a step lowers the distance by a smaller share. Exact fits converge faster."""

NEAR = 0.1
"""Of what the context explains: no candidate that is farther is named."""

STEP = 1.5e-8
"""Of differences, relative to a coordinate: the root of the rounding error, as in MINPACK."""

SIMPLER = 1e-4
"""A smaller choice is preferred if it is farther by at most this share of what the context
explains, in units of the margin."""

EXACT = 1e-10
"""Of what the context explains: no choice is nearer than that to answers in float32."""

FAR = 1e6
"""In the place of residuals that are not finite."""

Parameters = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Fitted:
    """A member of a family: `parameters` with standard errors, and the distance where fitted.

    Distances are mean squares. `others` are the fits for the other choices, by choice. Parameters
    are those for contexts of `context_length` examples. If `grows`, those that the family says grow
    with the context length do, and otherwise they stay as they are.
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
        """That of the family."""
        return self.candidate.name

    @property
    def free(self) -> int:
        """The number of parameters, the choice included."""
        return sum(np.size(v) for v in self.parameters.values()) + (self.choice is not None)

    @property
    def learner(self) -> Learner:
        """The algorithm."""
        return self.candidate.learner(self.choice, self.parameters)

    def predictions(self, prompts: Prompts) -> Float[np.ndarray, "batch m"]:
        """What it answers, computed in float64."""
        parameters = dict(self.parameters)
        if self.grows:
            ratio = prompts.context_length / self.context_length
            for name, power in (self.candidate.lengths or {}).items():
                parameters[name] = parameters[name] * ratio**power
        return predictions(self.candidate, self.choice, parameters, prompts)

    def interval(self, name: str) -> tuple[Any, Any]:
        """The 95% interval of a parameter, from its standard error in the coordinate searched."""
        kind = (self.candidate.ranges or {})[name]
        middle = _coordinate(self.parameters[name], kind)
        half = scipy.special.ndtri(0.975) * np.asarray(self.errors[name])
        return _value(middle - half, kind), _value(middle + half, kind)


def predictions(
    candidate: Candidate, choice: int | None, parameters: Parameters, prompts: Prompts
) -> Float[np.ndarray, "batch m"]:
    """What a member of a family answers, in float64."""
    if candidate.iterates:
        assert choice is not None
        return iterates(candidate, prompts)[choice]
    with jax.enable_x64(True):
        learner = candidate.learner(choice, parameters)
        if has_filter(learner):
            centred = getattr(learner, "centres_inputs", False)
            spectrum = prompts.centred_spectrum if centred else prompts.spectrum
            return by_filter(learner, spectrum, prompts.context_length)
        arrays = in_arrays(learner)
        answers = [np.asarray(_predictions(arrays, part.in_float64)) for part in prompts.batches]
        return np.concatenate(answers)


def iterates(candidate: Candidate, prompts: Prompts) -> dict[int, np.ndarray]:
    """What the members of a family whose choices are iterates answer, by choice."""
    with jax.enable_x64(True):
        learner = in_arrays(candidate.build(max(candidate.choices)))
        parts = [np.asarray(_iterates(learner, part.in_float64)) for part in prompts.batches]
        answers = np.concatenate(parts)
    return {choice: answers[:, choice] for choice in candidate.choices}


def has_filter(learner: Learner) -> bool:
    """Whether a learner states its spectral filter, in the class that says how it predicts."""
    if getattr(learner, "preconditioner", None) is not None:
        return False
    family = type(learner).__mro__
    filters, predicts = (
        next(place for place, each in enumerate(family) if names & vars(each).keys())
        for names in ({"spectral_filter"}, {"__call__", "iterates", "_descend"})
    )
    return family[filters] is not Learner and filters <= predicts


def by_filter(
    learner: Learner, spectrum: Spectrum, context_length: int
) -> Float[np.ndarray, "batch m"]:
    """The predictions of a learner with a spectral filter."""
    eigenvalues, vectors, query, sums = spectrum
    with np.errstate(all="ignore"):  # divergent algorithms overflow, and are far then
        g = learner.spectral_filter(eigenvalues, context_length)
        answers = np.einsum("bi,bim->bm", query * g, sums)
        start = getattr(learner, "initial_weights", None)
        if start is not None:
            along = np.einsum("md,bdi->bim", np.asarray(start, float), vectors)
            answers += np.einsum("bi,bim->bm", query * (1 - eigenvalues * g), along)
    return answers


def fit(
    candidate: Candidate, prompts: Prompts, answers: np.ndarray, unit: float, scales: Scales
) -> Fitted:
    """The member nearest to the answers in mean square.

    Each choice is fitted by least squares (Levenberg-Marquardt) from the best of its starts, with
    derivatives of the *candidate*, by differences in float64. Of choices that are as near as the
    nearest, the smallest is taken.

    Args:
        candidate: The family.
        prompts: The prompts.
        answers: The subject's predictions.
        unit: What the context explains, in which the distances of choices are compared.
        scales: Of the task's prompts.
    """
    n = prompts.context_length
    if candidate.iterates:
        by_choice = iterates(candidate, prompts)
        fits = [
            Fitted(candidate, choice, {}, {}, _mean_square(by_choice[choice] - answers), {}, n)
            for choice in candidate.choices
        ]
    else:
        fits = []
        for choice in candidate.choices or (None,):
            fits.append(_fit(candidate, choice, prompts, answers, unit, scales))
            if fits[-1].square <= EXACT * unit:  # larger choices have nothing to add
                break
    least = min(each.square for each in fits)
    best = next(each for each in fits if each.square <= least + SIMPLER * 0.01 * unit)
    others = {each.choice: each for each in fits if each is not best and each.choice is not None}
    if best.parameters:
        # The choices were compared by rough searches. Where prompts are of another kind, the last
        # digits of parameters matter, if the candidate is near
        precision = FINE if best.square <= NEAR * unit else ROUGH
        found = _search(candidate, best.choice, best.parameters, prompts, answers, precision)
        best = Fitted(candidate, best.choice, *found, {}, n)
    return dataclasses.replace(best, others=others)


def with_lengths(
    fitted: Fitted, prompts: list[Prompts], answers: list[np.ndarray], units: list[float]
) -> Fitted:
    """The candidate whose parameters grow with the context length or do not, whichever is nearer.

    Args:
        fitted: A fitted candidate.
        prompts: Batches with contexts of other lengths, on which it is not judged.
        answers: The subject's answers to them.
        units: What the context explains in each.
    """
    if not fitted.candidate.lengths:
        return fitted

    def off(each: Fitted) -> float:
        return sum(
            _mean_square(each.predictions(batch) - answer) / unit
            for batch, answer, unit in zip(prompts, answers, units, strict=True)
        )

    growing = dataclasses.replace(
        fitted,
        grows=True,
        others={k: dataclasses.replace(other, grows=True) for k, other in fitted.others.items()},
    )
    return growing if off(growing) < off(fitted) else fitted


def refit(fitted: Fitted, prompts: Prompts, answers: np.ndarray) -> np.ndarray:
    """The answers of the member nearest on other prompts, searched from where it is.

    Being fitted to the very answers it is compared with, it is nearer than the best member of the
    family is on average: a bound below its distance is one below that of the family.
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
    """The member with a choice, from a rough search, without standard errors."""

    def made(parameters: Parameters) -> Fitted:
        square = _mean_square(_residuals(candidate, choice, parameters, prompts, answers))
        return Fitted(candidate, choice, parameters, {}, square, {}, prompts.context_length)

    if not candidate.ranges:
        return made({})
    starts = candidate.starts(choice or 0, scales)
    problem, ranking = _rough(candidate, choice, starts[0], prompts, answers)
    starts = sorted(starts, key=lambda start: _mean_square(ranking.residuals(start)))
    found: list[Fitted] = []
    for start in starts[: candidate.searches]:
        found.append(made(_minimise(candidate, start, problem, ROUGH)[1]))
        if found[-1].square <= EXACT * unit:
            break
    return min([*found, made(starts[0])], key=lambda each: each.square)


def _rough(
    candidate: Candidate,
    choice: int | None,
    start: Parameters,
    prompts: Prompts,
    answers: np.ndarray,
) -> tuple["Problem", "Problem"]:
    """What to search roughly, and by what to rank starts.

    Families with a filter are searched where it is known at a few nodes, or on few prompts.
    """

    def on(prompts: Prompts) -> Problem:
        return _on(candidate, choice, prompts, answers[: len(prompts)])

    with jax.enable_x64(True):
        learner = candidate.learner(choice, start)
    if not has_filter(learner):
        return on(prompts), on(prompts)
    n, at = prompts.context_length, prompts.nodes
    if getattr(learner, "centres_inputs", False):
        at = prompts.centred_nodes
    each_alone = learner.spectral_filter(at.eigenvalues[:, None], n)[:, 0]
    pointwise = np.array_equal(each_alone, learner.spectral_filter(at.eigenvalues, n))
    from_zero = getattr(learner, "initial_weights", None) is None
    if not (pointwise and from_zero and answers.size >= NODES):
        return on(prompts.few), on(prompts.few)
    right = at.axes.T @ answers.ravel()
    with_numbers = _with_numbers(learner, start)

    @np.errstate(all="ignore")  # divergent algorithms overflow, and are far then
    def residuals(parameters: Parameters) -> np.ndarray:
        try:
            with jax.enable_x64(True):
                made = with_numbers or (lambda numbers: candidate.learner(choice, numbers))
                g = made(parameters).spectral_filter(at.eigenvalues, n)
        except InputError:
            return np.full(right.shape, FAR)
        return _bounded(at.root @ g - right)

    @np.errstate(all="ignore")
    def slopes(several: Parameters) -> np.ndarray:
        """Residuals for parameters that have a first axis."""
        assert with_numbers is not None
        numbers = {k: np.moveaxis(np.asarray(v), 0, -1)[..., None] for k, v in several.items()}
        count = next(iter(numbers.values())).shape[-2]
        eigenvalues = np.broadcast_to(at.eigenvalues, (count, NODES))
        g = with_numbers(numbers).spectral_filter(eigenvalues, n)
        return _bounded(g @ at.root.T - right)

    many = slopes if with_numbers is not None and isinstance(learner, GradientDescent) else None
    return Problem(residuals, many), on(prompts.few)


def _with_numbers(learner: Learner, start: Parameters) -> Callable[[Parameters], Any] | None:
    """What makes a learner with other numbers of the same class, if parameters are its fields.

    It takes the place of its class, which would check and convert them each time.
    """
    leaves, tree = jax.tree.flatten_with_path(learner)
    names = [jax.tree_util.keystr(path, simple=True) for path, _ in leaves]
    values = dict(zip(names, (leaf for _, leaf in leaves), strict=True))
    same = values.keys() == start.keys() and all(
        np.array_equal(np.asarray(values[name]), np.asarray(start[name])) for name in values
    )
    return (lambda numbers: tree.unflatten([numbers[name] for name in names])) if same else None


def _search(
    candidate: Candidate,
    choice: int | None,
    start: Parameters,
    prompts: Prompts,
    answers: np.ndarray,
    precision: float = ROUGH,
) -> tuple[Parameters, Parameters, float]:
    """The parameters nearest to the answers, their standard errors, and the mean square there."""
    problem = _on(candidate, choice, prompts, answers)
    found, parameters = _minimise(candidate, start, problem, precision)
    errors = _unpack(_standard_errors(found, len(answers)), start)
    return parameters, errors, _mean_square(found.fun.reshape(answers.shape))


class Problem(NamedTuple):
    """Least squares: residuals for parameters, and if it is fast those for several at once."""

    residuals: Callable[[Parameters], np.ndarray]
    several: Callable[[Parameters], np.ndarray] | None = None


def _on(candidate: Candidate, choice: int | None, prompts: Prompts, answers: np.ndarray) -> Problem:
    return Problem(lambda p: _residuals(candidate, choice, p, prompts, answers))


def _minimise(
    candidate: Candidate, start: Parameters, problem: Problem, precision: float
) -> tuple[Any, Parameters]:
    """Least squares over unbounded coordinates: what SciPy found, and the parameters there."""
    ranges = candidate.ranges or {}

    def at(coordinates: np.ndarray) -> Parameters:
        parts = _unpack(coordinates, start)
        return {name: _value(part, ranges[name]) for name, part in parts.items()}

    def slopes(coordinates: np.ndarray) -> np.ndarray:
        """By differences, with all of them in one call."""
        assert problem.several is not None
        steps = STEP * np.maximum(np.abs(coordinates), 0.01)
        rows = coordinates + np.vstack([np.zeros(len(steps)), np.diag(steps)])
        off = problem.several(at(rows))
        return ((off[1:] - off[0]) / steps[:, None]).T

    first = np.concatenate([np.ravel(_coordinate(start[name], ranges[name])) for name in start])
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


def _unpack(numbers: np.ndarray, like: Parameters) -> Parameters:
    """The numbers as parameters of the same shapes, behind any axes in front."""
    ends = np.cumsum([np.size(value) for value in like.values()])[:-1]
    parts = zip(like.items(), np.split(numbers, ends, axis=-1), strict=True)
    front = numbers.shape[:-1]
    return {name: part.reshape(front + np.shape(value)) for (name, value), part in parts}


def _residuals(
    candidate: Candidate,
    choice: int | None,
    parameters: Parameters,
    prompts: Prompts,
    answers: np.ndarray,
) -> np.ndarray:
    """Answers of a member less the subject's; far where the family has no such member."""
    try:
        off = predictions(candidate, choice, parameters, prompts) - answers
    except InputError:
        return np.full(answers.shape, FAR)
    return _bounded(off)


def _bounded(residuals: np.ndarray) -> np.ndarray:
    return np.clip(np.where(np.isfinite(residuals), residuals, FAR), -FAR, FAR)


def _standard_errors(found: Any, prompts: int) -> np.ndarray:
    """Of coordinates where a misspecified model fits best: White's sandwich over pairs of prompts.

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
    # What has no effect on the answers could be anything
    free = np.sum(axes[:, ~spanned] ** 2, axis=1) > 1e-6
    return np.where(free, np.inf, errors)


def _mean_square(residuals: np.ndarray) -> float:
    with np.errstate(over="ignore"):
        square = float(np.mean(np.sum(residuals**2, axis=-1)))
    return square if np.isfinite(square) else np.inf


def _coordinate(value: Any, kind: Range) -> Any:
    """A parameter as an unbounded number."""
    value = np.asarray(value, np.float64)
    if kind == "positive":
        return np.log(value)
    if kind == "fraction":
        return scipy.special.logit(value)
    return scipy.special.logit(value / 2) if kind == "below-two" else value


def _value(coordinate: Any, kind: Range) -> Any:
    """The parameter of a coordinate; never beyond what algorithms take."""
    if kind == "positive":
        return np.exp(np.clip(coordinate, -40, 40))
    if kind == "fraction":
        return np.clip(scipy.special.expit(coordinate), 1e-9, 1 - 1e-12)
    if kind == "below-two":
        return 2 * np.clip(scipy.special.expit(coordinate), 1e-9, 1 - 1e-9)
    return np.clip(coordinate, -1e15, 1e15)


def in_arrays(learner: Learner) -> Learner:
    """The learner with its numbers as arrays of one type, so that all values are one program."""

    def array(leaf: Any) -> Any:
        if isinstance(leaf, bool) or not isinstance(
            leaf, int | float | np.generic | jax.Array | np.ndarray
        ):
            return leaf
        kind = np.int64 if np.issubdtype(np.asarray(leaf).dtype, np.integer) else np.float64
        return jnp.asarray(np.asarray(leaf, kind))

    return jax.tree.map(array, learner)


@compiled_once
def _predictions(learner: Learner, prompts: Prompt) -> Array:
    return jax.vmap(lambda prompt: predict(learner, prompt))(prompts)


@compiled_once
def _iterates(learner: Learner, prompts: Prompt) -> Array:
    return jax.vmap(lambda prompt: predict_iterates(learner, prompt))(prompts)
