"""`Evidence`: predictions of a learner and of candidates in every regime, on fresh prompts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from mesalens.checks import InputError
from mesalens.environment import cores
from mesalens.identification import distance
from mesalens.identification.distance import Interval, Pairs
from mesalens.identification.fit import Fitted, with_lengths
from mesalens.identification.prompts import BATCH, Prompts, Source
from mesalens.identification.regimes import LONG, SHORT, TASK, Regime, draw, missing
from mesalens.identification.subject import Subject


@dataclass(eq=False)
class Sample:
    """One regime: its prompts in batches, and the predictions for them, by batch.

    `answers` are the learner's predictions, `swapped` those for each query with its partner's
    context (if the regime is tied), and `candidates` those of the fitted candidates by name.
    """

    regime: Regime
    prompts: list[Prompts] = field(default_factory=list)
    answers: list[np.ndarray] = field(default_factory=list)
    swapped: list[np.ndarray] = field(default_factory=list)
    candidates: dict[str, list[np.ndarray]] = field(default_factory=dict)

    @property
    def pairs(self) -> int:
        """The number of pairs of prompts."""
        return sum(map(len, self.prompts)) // 2

    @property
    def subject(self) -> np.ndarray:
        """All predictions of the learner."""
        return np.concatenate(self.answers)

    def answers_of(self, name: str) -> np.ndarray:
        """All predictions of a candidate."""
        return np.concatenate(self.candidates[name])

    @property
    def units(self) -> Pairs:
        """Terms whose mean is what the context explains, over finite predictions."""
        swapped = np.concatenate(self.swapped) if self.swapped else None
        with np.errstate(invalid="ignore", over="ignore"):
            terms = distance.units(self.subject, swapped)
        finite = np.isfinite(terms)
        return np.where(finite, terms, terms[finite].mean() if finite.any() else 1.0)

    def squares(self, name: str, other: str | None = None) -> Pairs:
        """The squared distance of a candidate from the learner, or from another one, over pairs.

        Predictions that are not finite are infinitely far from finite ones, and equal to others
        that are not finite.
        """
        mine = self.answers_of(name)
        rest = self.subject if other is None else self.answers_of(other)
        neither = ~np.isfinite(mine) & ~np.isfinite(rest)
        with np.errstate(invalid="ignore", over="ignore"):
            terms = distance.squares(np.where(neither, 0, mine - rest))
        return np.where(np.isfinite(terms), terms, np.inf)

    def interval(self, name: str, error: float, other: str | None = None) -> Interval:
        """The distance of a candidate, in units of what the context explains."""
        return distance.ratio(self.squares(name, other), self.units, error)


class Evidence:
    """The samples of all regimes, which grow as more prompts are drawn.

    Args:
        subject: The learner that is identified.
        source: Draws prompts.
        regimes: The regimes, in the order in which they are reported.
        fits: The fitted candidates by name.
    """

    def __init__(
        self,
        subject: Subject,
        source: Source,
        regimes: Iterable[Regime],
        fits: Mapping[str, Fitted],
    ):
        self.subject, self.source, self.fits = subject, source, dict(fits)
        self.samples: dict[str, Sample] = {}
        self.left_out: dict[str, str] = {}
        self._lengths: tuple[list[Any], list[Any], list[Any]] | None = None
        self._learned: set[str] = set()
        for regime in regimes:
            if why := missing(regime, source):
                self.left_out[regime.name] = why
            else:
                self.samples[regime.name] = Sample(regime)

    @property
    def task(self) -> Sample:
        """The sample of the task itself."""
        return self.samples[TASK.name]

    def grow(self, names: Sequence[str], batches: int, candidates: Sequence[str]) -> None:
        """Draws prompts in some regimes until each has this number of batches.

        A regime is left out, with the reason, if the learner rejects its prompts or is not finite;
        on the task itself that is an error.
        """
        for name in names:
            sample = self.samples.get(name)
            while sample is not None and len(sample.prompts) < batches:
                # Place 0 is for fitting
                place = (1 + _number(name), len(sample.prompts))
                try:
                    prompts = draw(sample.regime, self.source, BATCH, place)
                    self.add(sample, prompts)
                except InputError as error:
                    if name == TASK.name:
                        raise
                    self.left_out[name] = str(error).rstrip(".")
                    del self.samples[name]
                    sample = None
            if sample is not None:
                self.answer(sample, [*sample.candidates, *candidates])

    def add(self, sample: Sample, prompts: Prompts) -> None:
        """Gets the learner's predictions for a batch of prompts of a regime."""
        # A failure outside of the task is not an error, so no prompt is saved there
        keep = sample.regime is TASK
        options = {"keep": keep, "finite": keep}
        answers = self.subject(prompts, **options)
        swapped = self.subject(prompts.swapped(), **options) if sample.regime.tied else None
        sample.prompts.append(prompts)
        sample.answers.append(answers)
        if swapped is not None:
            sample.swapped.append(swapped)

    def learn_lengths(self, candidates: Sequence[str]) -> None:
        """Finds out whether the parameters of candidates grow with the context length.

        This is fitted on separate prompts, once for each candidate, before it is judged on others.
        """
        if self._lengths is None:
            self._lengths = [], [], []
            for sample in self.samples.values():
                if sample.regime.name in (SHORT, LONG):
                    prompts = draw(sample.regime, self.source, BATCH, (0, sample.regime.times))
                    try:
                        answers = self.subject(prompts, keep=False)
                    except InputError:
                        continue  # `grow` will leave it out
                    found = prompts, answers, float(distance.units(answers).mean())
                    for part, each in zip(self._lengths, found, strict=True):
                        part.append(each)
        known = self._lengths
        new = [name for name in candidates if name not in self._learned]

        def learn(name: str) -> None:
            self.fits[name] = with_lengths(self.fits[name], *known)

        if known[0]:
            in_threads(learn, new)
        self._learned.update(new)

    def answer(self, sample: Sample, candidates: Iterable[str]) -> None:
        """Gets the predictions of candidates for those prompts of a regime that are new to them."""

        def catch_up(name: str) -> None:
            done = sample.candidates.setdefault(name, [])
            for prompts in sample.prompts[len(done) :]:
                done.append(self.fits[name].predictions(prompts))

        in_threads(catch_up, dict.fromkeys(candidates))


def in_threads(
    function: Callable[[str], object], names: Iterable[str], in_turn: Iterable[str] = ()
) -> None:
    """Calls a function with each name, on all cores: compiling and computing release the GIL.

    Args:
        function: The function.
        names: Its arguments.
        in_turn: Those names for which the function makes many small steps in Python. Two such
            threads are slower than one, so one thread takes all of them.
    """
    config: Any = jax.config
    device = config.jax_default_device  # of this thread
    together = list(in_turn)
    alone = [[name] for name in names if name not in together]

    def call(part: list[str]) -> None:
        with jax.default_device(device):
            for name in part:
                function(name)

    with ThreadPoolExecutor(cores()) as pool:
        for done in [pool.submit(call, part) for part in [together, *alone]]:
            done.result()


def _number(name: str) -> int:
    """A number for a regime, independent of which other regimes there are."""
    import zlib

    return zlib.crc32(name.encode()) % 2**31
