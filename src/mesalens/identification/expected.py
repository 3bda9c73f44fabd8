"""How many predictions an identification needs, and how long they will take."""

import warnings
from collections.abc import Callable, Iterable

from mesalens.environment import cores
from mesalens.identification.fingerprint import prompts_asked
from mesalens.identification.prompts import BATCH, Source
from mesalens.identification.regimes import LONG, SHORT, Regime, missing
from mesalens.identification.subject import Subject

LONG_WORK = 60.0
"""What takes more seconds is announced."""

ALMOST_DONE = 2.0
"""A shorter time left, in seconds, is not said."""

Progress = Callable[[str, float], object]


def warn(line: str) -> None:
    """Issues a message as a warning."""
    warnings.warn(line, stacklevel=2)


def least_prompts(source: Source, regimes: Iterable[Regime], most: int) -> int:
    """The number of prompts that any identification asks, whatever the answer.

    Args:
        source: Where prompts come from.
        regimes: The regimes that are known before the learner is asked.
        most: The largest number of prompts in a regime.
    """
    defined = [regime for regime in regimes if missing(regime, source) is None]
    lengths = sum(regime.name in (SHORT, LONG) for regime in defined)
    batches = 1 + lengths + sum(1 + regime.tied for regime in defined)
    return batches * BATCH + BATCH // 8 + prompts_asked(source, most)


class Expected:
    """Says once if the predictions of a learner will take long, and then how many there were.

    The words of the progress then have the time left, from the predictions so far: what is said at
    the beginning is from the fastest few, and a machine may become busy.

    It is called as progress, with what is being done and the share; and `count` with the number of
    prompts that the learner has answered.

    Args:
        needed: The least number of predictions.
        progress: Called with what is being done, and the share of the work that is done.
        say: Called with the message.
    """

    def __init__(self, needed: int, progress: Progress, say: Callable[[str], object]):
        self.needed = needed
        self._progress, self._say = progress, say
        self._words, self._asked, self._known, self._long = "", 0, False, False
        self._left = ""

    def __call__(self, words: str, share: float) -> None:
        self._words = words
        # The share by stages says little where almost all of the time is the learner's
        self._progress(words + self._left, self._share if self._long else share)

    def count(self, subject: Subject) -> None:
        """Is told that a subject has answered some more prompts."""
        self._asked = subject.asked
        if not self._known and subject.seconds is not None:
            self._long = subject.seconds * self.needed > LONG_WORK
            # Estimates from few prompts may be too low; a later one has the last word
            self._known = self._long or subject.asked >= BATCH
            if self._long:
                self._say(in_words(subject, self.needed))
        if self._long:
            self._left = left(subject.took / self._asked * (self.needed - self._asked))
            some = f"{self._asked:,} predictions of some {self.needed:,}"
            self._progress(f"{self._words}: {some}{self._left}", self._share)

    @property
    def _share(self) -> float:
        return min(self._asked / self.needed, 0.99)


def left(seconds: float) -> str:
    """The time left, to be put after what is being done; nothing if it is almost over."""
    return f", about {duration(seconds)} left" if seconds > ALMOST_DONE else ""


def in_words(subject: Subject, needed: int) -> str:
    """How long the predictions of a learner take, and what makes it shorter."""
    workers = subject.workers
    seconds = subject.seconds or 0.0
    total = duration(seconds * needed)
    number = f"{round(needed, -3):,}"
    if workers is None:
        return (
            f"One prediction takes {duration(seconds)}; some {number} are needed at least, which "
            f"takes about {total}. A faster function and shorter contexts make it shorter."
        )
    over = f"{workers} core{'s' * (workers != 1)}"
    more = ", more processes (from_sklearn has `processes`)" if workers < cores() else ""
    return (
        f"One prediction takes {duration(seconds * workers)}, because the estimator is fitted for "
        f"each; some {number} are needed at least, which takes about {total} on {over}. "
        f"A smaller estimator, shorter contexts{more} and more cores make it shorter."
    )


def duration(seconds: float) -> str:
    """A time in words: "110 ms", "21 minutes"."""
    if seconds < 1:
        return f"{float(f'{1000 * seconds:.2g}'):g} ms"
    if seconds < 100:
        return f"{seconds:.2g} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.{1 if seconds < 600 else 0}f} minutes"
    return f"{seconds / 3600:.2g} hours"
