"""`Subject`: the learner that is identified, as a function of batches of prompts."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from mesalens.adapters import NumpyLearner
from mesalens.adapters._fit import reason_of
from mesalens.adapters._sklearn import FittedEachTime
from mesalens.checks import InputError
from mesalens.identification.prompts import BATCH, Prompts
from mesalens.learners import AnyLearner, IterativeLearner, Learner
from mesalens.learners.base import predict, predict_batch, predict_iterates
from mesalens.program_cache import compiled_once
from mesalens.prompt import Prompt

FIRST = 8
"""The number of fits from which the time of one is known."""


class Subject:
    """A learner as a function of prompts in NumPy, which counts the prompts.

    Args:
        learner: Any learner.
        readouts: A function of NumPy batches that returns predictions after each layer, of shape
            (batch, layers, m), or (batch, layers) if m = 1; not needed for an `IterativeLearner`.
        progress: Called with this subject after it has answered some prompts.

    Raises:
        ValueError: if the readouts cannot be called.
    """

    def __init__(
        self,
        learner: AnyLearner,
        readouts: Callable[..., Any] | None = None,
        progress: Callable[["Subject"], object] = lambda subject: None,
    ):
        if readouts is not None and not callable(readouts):
            raise InputError(f"readouts must be a function of (xs, ys, queries); got {readouts!r}.")
        self.learner, self.asked = learner, 0
        self._readouts, self._progress = readouts, progress
        self._fastest = np.inf
        self.took = 0.0
        """the seconds that the predictions took so far, which is measured where `seconds` is"""

    def __call__(
        self, prompts: Prompts, *, keep: bool = True, finite: bool = True
    ) -> Float[np.ndarray, "batch m"]:
        """The predictions of the learner.

        Args:
            prompts: The prompts.
            keep: Whether to save a prompt on which a learner of another library fails as a file.
            finite: Whether to reject predictions that are NaN or infinite.

        Raises:
            ValueError: if the learner rejects the prompts, or predictions are not finite.
        """
        if isinstance(self.learner, NumpyLearner):
            answers = []
            for part in self._pieces(prompts):
                began = time.monotonic()
                answers.append(
                    self.learner.predict(part.xs, part.ys, part.queries, keep=keep, finite=finite)
                )
                took = time.monotonic() - began
                self.took += took
                self._fastest = min(self._fastest, took / len(part))
                self._count(len(part))
            predictions = np.concatenate(answers)
        else:
            predictions = self._in_jax(_predictions, prompts)
        predictions = np.asarray(predictions, np.float64)
        return _finite(predictions) if finite else predictions

    @property
    def workers(self) -> int | None:
        """On how many cores an estimator is fitted to prompts; None if it is no estimator."""
        return self._fits.workers if self._fits else None

    @property
    def seconds(self) -> float | None:
        """How long one prediction takes, on all workers; None if it is not yet known.

        For learners in JAX it is not measured. For estimators it is that of the first fits, until
        whole pieces were spread over the workers.
        """
        # The first pieces may include what is done once, such as imports
        if self.asked >= BATCH:
            return float(self._fastest) if np.isfinite(self._fastest) else None
        fits = self._fits
        return fits.seconds_each / fits.workers if fits and fits.seconds_each else None

    @property
    def _fits(self) -> FittedEachTime | None:
        function = getattr(self.learner, "function", None)
        return function if isinstance(function, FittedEachTime) else None

    def _pieces(self, prompts: Prompts) -> list[Prompts]:
        """Pieces, to report progress; a small one first if each prompt may take long."""
        size = max(BATCH // 4, 1)
        starts = list(range(0, len(prompts), size))
        if self._fits and not self.asked and len(prompts) > FIRST:
            starts.insert(1, min(FIRST, size - 1))
        ends = [*starts[1:], len(prompts)]
        return [prompts[low:high] for low, high in zip(starts, ends, strict=True)]

    def layers(self, prompts: Prompts) -> Float[np.ndarray, "batch layers m"] | None:
        """The predictions after every step or layer, or None if they are unknown.

        Raises:
            ValueError: if readouts fail, are not finite, or have the wrong shape.
        """
        if self._readouts is not None:
            return _finite(_read(self._readouts, prompts))
        if not isinstance(self.learner, IterativeLearner):
            return None
        return _finite(np.asarray(self._in_jax(_iterates, prompts), np.float64)[:, 1:])

    def _in_jax(self, function: Callable[..., Any], prompts: Prompts) -> np.ndarray:
        answers = []
        for start in range(0, len(prompts), BATCH):
            part = prompts[start : start + BATCH]
            rows = np.resize(np.arange(len(part)), BATCH)
            filled = Prompt(part.xs[rows], part.ys[rows], part.queries[rows])
            answers.append(np.asarray(function(self.learner, filled))[: len(part)])
            self._count(len(part))
        return np.concatenate(answers)

    def _count(self, prompts: int) -> None:
        self.asked += prompts
        self._progress(self)


def _read(readouts: Callable[..., Any], prompts: Prompts) -> np.ndarray:
    # Copies, because a function may write into its arguments
    arguments = (part.copy() for part in (prompts.xs, prompts.ys, prompts.queries))
    try:
        answers = np.asarray(readouts(*arguments))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"the readouts failed ({reason_of(error)}).") from error
    batch, m = len(prompts), prompts.ys.shape[-1]
    if m == 1 and answers.ndim == 2:
        answers = answers[..., None]
    layers = answers.shape[1] if answers.ndim == 3 else 0
    if answers.shape != (batch, layers, m) or not layers or answers.dtype.kind not in "iuf":
        raise InputError(
            f"the readouts must be real numbers of shape ({batch}, layers, {m}); got "
            f"{answers.dtype} of shape {answers.shape}."
        )
    return answers.astype(np.float64)


def _finite(predictions: np.ndarray) -> np.ndarray:
    wrong = np.asarray(~np.isfinite(predictions).all(axis=tuple(range(1, predictions.ndim))))
    if wrong.any():
        raise InputError(
            f"{wrong.sum()} of {len(predictions)} predictions of the learner are NaN or infinite."
        )
    return predictions


@compiled_once
def _predictions(learner: AnyLearner, prompts: Prompt) -> Array:
    if isinstance(learner, Learner):
        return predict_batch(learner, prompts)
    return jax.vmap(functools.partial(predict, learner))(prompts)


@compiled_once
def _iterates(learner: AnyLearner, prompts: Prompt) -> Array:
    return jax.vmap(functools.partial(predict_iterates, learner))(prompts)
