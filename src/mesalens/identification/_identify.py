"""`identify`: which algorithm does a learner run?"""

import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Key

from mesalens import random
from mesalens.adapters import as_learner
from mesalens.checks import InputError, count, member, share, with_near_names
from mesalens.identification import candidates as families
from mesalens.identification import distance
from mesalens.identification.apart import APART, Bulk, drive_apart
from mesalens.identification.candidates import Candidate, Scales
from mesalens.identification.decision import BLIND, Decision, contains, decide, spend
from mesalens.identification.evidence import Evidence, Sample, in_threads
from mesalens.identification.exact import exact_distances
from mesalens.identification.expected import Expected, least_prompts, warn
from mesalens.identification.fingerprint import fingerprint
from mesalens.identification.fit import Fitted, fit, refit
from mesalens.identification.many import on_cluster
from mesalens.identification.members import has_filter
from mesalens.identification.procedure import ProcedureIdentification, of_seeds
from mesalens.identification.prompts import BATCH, MOST_PROMPTS, Prompts, Source, has_classes
from mesalens.identification.regimes import LONG, REGIMES, SHORT, TASK
from mesalens.identification.report import Identification
from mesalens.identification.spectral_filter import spectral_filters
from mesalens.identification.subject import Subject
from mesalens.learners.base import is_differentiable
from mesalens.tasks import Task

MOST_RIVALS = 2
"""The number of candidates that are driven apart from the best one."""

Progress = Callable[[str, float], object]


def identify(
    model: Any,
    task: Task,
    *,
    key: Key[Array, ""] | None = None,
    candidates: Mapping[str, Any] | Iterable[Candidate] = (),
    margin: float = 0.01,
    level: float = 0.95,
    prompts: int = 8192,
    readouts: Callable[..., Any] | None = None,
    progress: Progress = lambda words, share: None,
    say: Callable[[str], object] = warn,
    cluster: Any = None,
    **adapter: Any,
) -> Identification | ProcedureIdentification:
    r"""Finds out which algorithm a learner runs on a task, or that none of the known ones fits.

    The distance of an algorithm A from the learner f is

    $$ D = \frac{E\,\|f(C, x) - A(C, x)\|^2}{V}, \qquad V = E\,\|f(C, x) - E[f(C, x) \mid x]\|^2, $$

    where V is the part of the predictions that the context C explains: D is 0 for the same function
    and about 1 for the best guess without the context. Families of algorithms are fitted to the
    learner's predictions on some prompts. They are judged on other prompts with the same
    parameters: on the task itself, and in further regimes, such as scaled inputs or longer
    contexts. An algorithm is named if the interval of its distance lies below the margin in every
    regime, and this holds for no other algorithm.

    Args:
        model: A `Learner`, a function of NumPy batches, a scikit-learn estimator or a
            `torch.nn.Module` (see `mesalens.adapters.as_learner`); or a list of models, one for
            each seed of a training procedure.
        task: The distribution of prompts.
        key: The key of all random numbers; by default `mesalens.random.key(0)`.
        candidates: Further families of algorithms; or learners without parameters, by name.
        margin: The distance below which an algorithm counts as equivalent, in (0, 1).
        level: The confidence level: the probability is at most 1 - level that an interval misses
            its value at any look.
        prompts: The largest number of prompts in each regime: 1024, 2048, 4096, … (others are
            rounded down). They are drawn until the answer is decided, so a smaller number saves
            time only where 1024 do not decide it. The properties of the fingerprint are tested on a
            sixteenth of it, at least 512.
        readouts: A function of NumPy batches `(xs, ys, queries)` that returns the predictions after
            each layer, of shape (batch, layers, m). The spectral filter is then measured after each
            layer. Learners with iterates do not need it.
        progress: Called with what is being done, and the share of the work that is done.
        say: Called with a message if the learner's predictions will take more than a minute; by
            default issues a warning.
        cluster: Where to compute, as in `mesalens.execution.connected`; by default on this machine.
            Each model of a list is identified by one worker, on one core.
        **adapter: How to call the model; see `mesalens.adapters.as_learner`.

    Returns:
        An `Identification`; for a list of models a `ProcedureIdentification`.

    Raises:
        ValueError: if the model cannot be called, fails on a prompt, returns numbers that are not
            finite, or different predictions for the same prompt; if the task gives no examples; or
            if an argument is out of range.

    Examples:
        >>> import mesalens as ml
        >>> task = ml.tasks.RegressionTask(
        ...     ml.tasks.Gaussian(2), ml.tasks.LinearFunctions(2), context_length=6
        ... )
        >>> ml.identify(ml.Ridge(0.5), task, prompts=1024).name
        'ridge'

    Source: the equivalence test consists of two one-sided tests (Schuirmann, 1987); the confidence
    set is that of Hansen, Lunde and Nason (2011).
    """
    _require_known(adapter)
    member("task", task, Task)
    key = random.key(0) if key is None else random.unroll(key)
    options: Any = {"candidates": candidates, "margin": margin, "level": level, "prompts": prompts}
    if isinstance(model, list | tuple):
        count("the number of models", len(model), at_least=2)
        if readouts is not None:
            raise InputError("readouts must not be given for a list of models; give one model.")
        seeds = []
        for place, each in enumerate([] if cluster is not None else model):
            told: Any = {"progress": _of_seed(progress, place, len(model))}
            told["say"] = _of_models(say, len(model)) if not place else lambda line: None
            try:
                seeds.append(identify(each, task, key=key, **told, **options, **adapter))
            except InputError as error:
                raise InputError(f"model {place + 1} of {len(model)}: {error}") from error
        if cluster is not None:
            seeds = on_cluster(model, task, key, options | adapter, cluster, progress)
        return of_seeds(seeds, margin, 1 - level)
    if cluster is not None:
        options["readouts"] = readouts
        return on_cluster([model], task, key, options | adapter, cluster, progress)[0]
    began = time.monotonic()
    share("margin", margin)
    share("level", level)
    count("prompts", prompts, at_least=BATCH, at_most=MOST_PROMPTS)
    source = Source(task, key)
    learner = as_learner(model, **adapter)
    progress = expected = Expected(least_prompts(source, REGIMES, prompts), progress, say)
    subject = Subject(learner, readouts, expected.count)
    progress("asking the learner", 0.0)
    fitting = source.draw(BATCH, (0,))
    answers = subject(fitting)
    if readouts is not None:
        subject.layers(fitting[:2])  # fail early if they are wrong
    noise = _noise(subject, fitting, answers)
    unit, least = distance.units(answers).mean(), BLIND * np.mean(np.sum(answers**2, axis=-1))
    about = {"task": task, "margin": margin, "level": level, "model": subject.learner}
    if unit <= least:
        return Identification.blind(about, answers, subject.asked, time.monotonic() - began)
    if noise > margin * unit:
        raise InputError(
            f"the learner gives different predictions for the same prompt (they vary by "
            f"{noise / unit:.2g} of what the context explains, more than the margin {margin:g}); "
            "fix its random seed, or use a deterministic learner."
        )
    known, left_out = families.known(task)
    known = families.joined(known, families.given(candidates))
    fits = _fit(known, fitting, answers, unit, progress)
    progress("measuring distances", 0.5)
    evidence = Evidence(subject, source, REGIMES, fits)
    decision, error = _look(
        evidence, Bulk.of(fitting, has_classes(task)), margin, 1 - level, prompts // BATCH, progress
    )
    progress("measuring the fingerprint", 0.8)
    properties = fingerprint(subject, source, evidence, margin, 1 - level, prompts)
    progress("measuring the spectral filter", 0.9)
    filters = spectral_filters(subject, source, evidence, properties, 1 - level)
    return Identification.made(
        about,
        evidence=evidence,
        decision=decision,
        error=error,
        left_out=left_out,
        fingerprint=properties,
        filters=filters,
        noise=noise / unit,
        exact=exact_distances(subject.learner, task, fits),
        seconds=time.monotonic() - began,
    )


def _require_known(adapter: Iterable[str]) -> None:
    """Raises `ValueError` if an argument of `identify` is none of its own or of `as_learner`'s."""
    own, further = (inspect.signature(each).parameters for each in (identify, as_learner))
    taken = [name for name, each in further.items() if each.kind is each.KEYWORD_ONLY]
    for name in adapter:
        if name not in taken:
            known = [*own.keys() - {"adapter"}, *taken]
            raise InputError(with_near_names(f"identify has no argument {name!r}", name, known))


def _of_seed(progress: Progress, place: int, models: int) -> Progress:
    def said(words: str, share: float) -> None:
        progress(f"model {place + 1} of {models}: {words}", (place + share) / models)

    return said


def _of_models(say: Callable[[str], object], models: int) -> Callable[[str], object]:
    return lambda line: say(
        f"{line} That is for one of {models} models; on a cluster each worker takes one."
    )


def _noise(subject: Subject, prompts: Prompts, answers: np.ndarray) -> float:
    """Half of the mean squared difference between two sets of answers to the same prompts."""
    again = prompts[: BATCH // 8]
    return float(np.mean(np.sum((subject(again) - answers[: len(again)]) ** 2, axis=-1)) / 2)


def _fit(
    known: list[Candidate], prompts: Prompts, answers: np.ndarray, unit: float, progress: Progress
) -> dict[str, Fitted]:
    scales = Scales.of(prompts)
    # Computed now, so that several threads do not compute it at once
    _ = prompts.nodes, prompts.centred_nodes, prompts.in_float64, prompts.few
    by_name = {each.name: each for each in known}
    fits: dict[str, Fitted] = {}

    def work(name: str) -> None:
        fits[name] = fit(by_name[name], prompts, answers, unit, scales)
        progress(f"fitting {name}", 0.05 + 0.45 * len(fits) / len(by_name))

    in_threads(work, by_name, [each.name for each in known if has_filter(each.member(scales))])
    return {name: fits[name] for name in by_name}  # in the order of the candidates


def _look(
    evidence: Evidence, bulk: Bulk, margin: float, total: float, most: int, progress: Progress
) -> tuple[Decision, float]:
    """Draws prompts until the answer is decided; returns the answer, and the last look's error."""
    batches = [2**look for look in range(max(most, 1).bit_length())]
    decision, error = Decision("inconclusive"), total
    for look, (size, error) in enumerate(zip(batches, spend(len(batches), total), strict=True)):

        def say(words: str, share: float, look: int = look) -> None:
            title = f"look {look + 1} of {len(batches)}: {words}"
            progress(title, 0.5 + 0.3 * (look + share) / len(batches))

        _measure(evidence, size, margin, error, bulk, say)
        decision = decide(evidence, margin, error, {})
        if decision.verdict == "none":
            decision = decide(evidence, margin, error, _refits(evidence, error))
        # More prompts may tell the members of a set apart
        if decision.verdict not in ("inconclusive", "set"):
            break
    if APART.name not in evidence.samples:
        evidence.left_out.setdefault(APART.name, "no two candidates are left to distinguish")
    return decision, error


def _measure(
    evidence: Evidence, size: int, margin: float, error: float, bulk: Bulk, say: Progress
) -> None:
    everyone, regimes = list(evidence.fits), list(evidence.samples)
    say("the task itself", 0.0)
    evidence.grow([TASK.name], size, everyone)
    task = evidence.task
    near = {n: task.interval(n, error) for n in everyone}
    contenders = [n for n in everyone if near[n].low <= margin]
    evidence.learn_lengths(contenders)
    for place, name in enumerate(regimes):
        if name not in (TASK.name, APART.name):
            say(f"the regime {name}", place / (len(regimes) + 1))
            # Each length of the context needs one more program per candidate
            same = name not in (SHORT, LONG)
            evidence.grow([name], size, everyone if same else contenders)
    alive = [
        n
        for n in contenders
        if all(s.interval(n, error).low <= margin for s in evidence.samples.values())
    ]
    simplest = [n for n in alive if not any(contains(evidence.fits, n, o) for o in alive)]
    ranked = sorted(everyone, key=lambda n: (n not in simplest, near[n].value))
    others = [n for n in ranked[1:] if not contains(evidence.fits, n, ranked[0])]
    # Functions that agree up to rounding cannot be driven apart
    rounding = distance.ROUNDING / 10 * task.units.mean()
    others = [n for n in others if not task.squares(n, ranked[0]).mean() <= rounding]
    rivals = [n for n in others if n in simplest][:MOST_RIVALS] or others[:1]
    if simplest and rivals:
        say("driving candidates apart", len(regimes) / (len(regimes) + 1))
        _drive_apart(evidence, size, ranked[0], rivals, bulk)


def _drive_apart(evidence: Evidence, size: int, best: str, rivals: list[str], bulk: Bulk) -> None:
    """Adds batches of prompts on which the best candidate and its rivals differ most.

    The regime is skipped, with the reason, if the learner does not accept such prompts.
    """
    if APART.name in evidence.left_out:
        return
    fits = evidence.fits
    for name in (best, *rivals):
        if not is_differentiable(fits[name].learner):
            evidence.left_out[APART.name] = f"{name} cannot be differentiated"
            return
    sample = evidence.samples.setdefault(APART.name, Sample(APART))
    while len(sample.prompts) < size:
        place = (1, 1, len(sample.prompts))
        start = evidence.source.draw(BATCH, place)
        _ = start.in_float64  # computed now, so that several threads do not compute it at once
        apart: dict[str, Prompts] = {}

        def work(rival: str, start: Prompts = start, apart: dict[str, Prompts] = apart) -> None:
            apart[rival] = drive_apart(fits[best].learner, fits[rival].learner, start, bulk)

        in_threads(work, rivals)
        found = [apart[rival] for rival in rivals]
        # Pairs of prompts stay together
        turn = (np.arange(BATCH) // 2 % len(rivals))[:, None, None]
        prompts = Prompts(
            np.select([turn == i for i in range(len(rivals))], [p.xs for p in found]),
            np.select([turn == i for i in range(len(rivals))], [p.ys for p in found]),
            np.select([turn[..., 0] == i for i in range(len(rivals))], [p.queries for p in found]),
        )
        try:
            evidence.add(sample, prompts)
        except InputError as error:
            evidence.left_out[APART.name] = str(error).rstrip(".")
            del evidence.samples[APART.name]
            return
    evidence.answer(sample, evidence.fits)


def _refits(evidence: Evidence, error: float) -> dict[str, distance.Interval]:
    """The distances of candidates that are fitted on the same prompts on which they are judged."""
    task, units = evidence.task, evidence.task.units
    prompts, answers = Prompts.joined(task.prompts), task.subject
    found: dict[str, distance.Interval] = {}

    def work(name: str) -> None:
        nearest = refit(evidence.fits[name], prompts, answers)
        with np.errstate(over="ignore", invalid="ignore"):
            squares = distance.squares(nearest - answers)
        squares = np.where(np.isfinite(squares), squares, np.inf)
        found[name] = distance.ratio(squares, units, error)

    fits = evidence.fits
    in_threads(work, fits, [name for name in fits if has_filter(fits[name].learner)])
    return found
