"""Estimators fitted on many contexts, one after the other.

Worker processes import this module. It imports neither JAX nor scikit-learn itself, so that they
start fast and stay small.
"""

import collections
import contextlib
import copy
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

Contexts = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Covariates (N, n, d), labels (N, n, m) and queries (N, d)."""


class PromptError(Exception):
    """A function failed on one of its prompts: which one, and why."""

    def __init__(self, index: int, reason: str):
        super().__init__(index, reason)
        self.index, self.reason = index, reason


def reason_of(error: BaseException) -> str:
    """The type and the message of an exception, on one line without a full stop."""
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return (words if len(words) <= 400 else f"{words[:397]}…").rstrip(".: ")


def fit_each(
    predict: Callable[..., np.ndarray],
    estimator: Any,
    contexts: Contexts,
    start: int = 0,
    seconds: float = float("inf"),
    took: list[float] | None = None,
) -> tuple[np.ndarray, "collections.Counter[str]"]:
    """`predict(estimator, x, y, query)` for every context, until the time is up.

    The seconds that each one took are appended to `took`.

    Returns:
        The predictions, one row for each context that was reached, at least one; and how many
        warnings there were, by their category. Warnings are counted and not shown.

    Raises:
        PromptError: with its index, counted from `start`, for the first context that fails.
    """
    end = time.monotonic() + seconds
    rows = []
    with warnings.catch_warnings(record=True) as caught, contextlib.ExitStack() as later:
        warnings.simplefilter("always")
        for index, (x, y, query) in enumerate(zip(*contexts, strict=True)):
            began = time.monotonic()
            try:
                rows.append(predict(estimator, x, y, query))
            except Exception as error:
                raise PromptError(start + index, reason_of(error)) from error
            if took is not None:
                took.append(time.monotonic() - began)
            if time.monotonic() > end:
                break
            if not index and "sklearn" in sys.modules:
                # The first fit has checked the parameters; each check takes a fifth of a short fit
                import sklearn  # pyright: ignore[reportMissingImports]

                later.enter_context(sklearn.config_context(skip_parameter_validation=True))
    return np.stack(rows), collections.Counter(each.category.__name__ for each in caught)


def predict_values(estimator: Any, x: np.ndarray, y: np.ndarray, query: np.ndarray) -> np.ndarray:
    """The labels that a regressor predicts at the query, (m,), fitted on all outputs at once."""
    labels = y[:, 0] if y.shape[1] == 1 else y
    return _value(_fitted(estimator, x, labels), query).reshape(y.shape[1])


def predict_each_value(
    estimator: Any, x: np.ndarray, y: np.ndarray, query: np.ndarray
) -> np.ndarray:
    """As `predict_values`, with a regressor of its own for each output."""
    return np.array([_value(_fitted(estimator, x, labels), query).item() for labels in y.T])


def predict_classes(estimator: Any, x: np.ndarray, y: np.ndarray, query: np.ndarray) -> np.ndarray:
    """The probabilities of the m classes at the query; one-hot, if the classifier has none."""
    labels, m = y.argmax(-1), y.shape[1]
    present = np.unique(labels)
    try:
        fitted = _fitted(estimator, x, labels)
    except Exception:
        if len(present) > 1:
            raise
        return np.eye(m)[present[0]]  # many classifiers refuse a single class
    if not hasattr(fitted, "predict_proba"):
        return np.eye(m)[int(_real(fitted.predict(query[None])).item())]
    probabilities = np.zeros(m)
    classes = np.asarray(getattr(fitted, "classes_", present), int)
    probabilities[classes] = _real(fitted.predict_proba(query[None]))[0]
    return probabilities


def fresh(estimator: Any) -> Any:
    """A copy of an estimator that is not fitted."""
    if hasattr(estimator, "get_params") and "sklearn" in sys.modules:
        from sklearn.base import clone  # pyright: ignore[reportMissingImports]

        return clone(estimator)
    return copy.deepcopy(estimator)


def _fitted(estimator: Any, x: np.ndarray, labels: np.ndarray) -> Any:
    estimator = fresh(estimator)
    estimator.fit(x, labels)
    return estimator


def _value(fitted: Any, query: np.ndarray) -> np.ndarray:
    return _real(fitted.predict(query[None]))


def _real(predictions: Any) -> np.ndarray:
    array = np.asarray(predictions)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"predictions must be real numbers; got {array.dtype}")
    return array
