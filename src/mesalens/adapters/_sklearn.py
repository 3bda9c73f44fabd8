"""`from_sklearn`: an estimator with `fit` and `predict`, fitted on every context, as a learner."""

import collections
import contextlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from mesalens.adapters import _fit
from mesalens.adapters._numpy import NumpyLearner
from mesalens.checks import InputError, count, one_of
from mesalens.environment import cores

SECONDS_ALONE = 1.0
"""How long a learner fits in this process, over all its calls, before it starts others.

Their start takes a few seconds: short work is done without them.
"""

MOST_CHARACTERS = 700
"""Of an estimator in words, as in scikit-learn."""

SECONDS_TO_SHARE = 0.1
"""What takes less is not worth sending to other processes, even to those that have started."""


def from_sklearn(
    estimator: Any,
    *,
    parameters: Mapping[str, Any] | None = None,
    processes: int | None = None,
) -> NumpyLearner:
    """A learner that fits a copy of a scikit-learn estimator on each context.

    Any object with `fit(X, y)` and `predict(X)` will do. A regressor is fitted on a vector of
    labels if m = 1, and otherwise on the matrix (n, m), or once for each output if it refuses
    matrices. A classifier is fitted on the classes 0, …, m - 1 of one-hot labels. Its prediction is
    `predict_proba`, with 0 for classes that the context lacks, or one-hot if the classifier has
    only `predict`. If a context has a single class and the classifier refuses it, that class has
    probability 1.

    A learner must be a function of the prompt, so a `random_state` that is None is set to 0.
    Warnings such as `ConvergenceWarning` are not shown; `learner.function.warnings` counts them by
    category.

    Args:
        estimator: An estimator, which is copied and never fitted itself, or a class of estimators.
        parameters: Parameters to set, by name (`"ridge__alpha"` for a part of a pipeline).
        processes: The number of processes over which contexts are spread once fitting has taken
            more than a second. By default one for each core.

    Returns:
        The learner.

    Raises:
        ValueError: If it is not an estimator, or has no parameter of a given name; on a call, if
            the estimator fails on a context, with its message.

    Examples:
        >>> from mesalens import Prompt, adapters
        >>> from sklearn.linear_model import LinearRegression
        >>> learner = adapters.from_sklearn(LinearRegression())
        >>> prompt = Prompt([[0.0], [1.0]], [[1.0], [3.0]], [2.0])
        >>> print(learner(prompt).round(3))
        [5.]
    """
    if processes is not None:
        count("processes", processes)
    return NumpyLearner(FittedEachTime(_estimator(estimator, parameters or {}), processes))


class FittedEachTime:
    """A function of batches of prompts: fits the estimator on each context.

    `estimator` is never fitted. `warnings` counts the warnings of all calls by category.
    `seconds_each` is the time of one fit, the median of those of the first call: the first of all
    may import something.
    """

    def __init__(self, estimator: Any, processes: int | None = None):
        self.estimator = estimator
        self.processes = processes
        self.warnings: collections.Counter[str] = collections.Counter()
        self.__name__ = type(estimator).__name__
        self.seconds_each: float | None = None
        self._seconds = 0.0
        self._lock = threading.Lock()  # JAX may call from several threads

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_in_words(self.estimator)})"

    def __call__(self, xs: np.ndarray, ys: np.ndarray, queries: np.ndarray) -> np.ndarray:
        contexts = (xs, ys, queries)
        predict = self._predict(contexts)
        began = time.monotonic()
        seconds = max(SECONDS_ALONE - self._seconds, 0.0)
        took: list[float] = []
        found = [_fit.fit_each(predict, self.estimator, contexts, seconds=seconds, took=took)]
        spent, done = time.monotonic() - began, len(found[0][0])
        if done < len(xs):
            rest = (xs[done:], ys[done:], queries[done:])
            expected = (len(xs) - done) * spent / done
            found += self._rest(predict, done, rest, in_processes=expected > SECONDS_TO_SHARE)
        with self._lock:
            self._seconds += spent
            self.seconds_each = self.seconds_each or float(np.median(took))
            for _, caught in found:
                self.warnings.update(caught)
        return np.concatenate([predictions for predictions, _ in found])

    @property
    def workers(self) -> int:
        """The number of processes over which long work is spread."""
        joblib = _joblib()
        return self.processes or (min(joblib.cpu_count(), cores()) if joblib else 1)

    def _predict(self, contexts: _fit.Contexts) -> Any:
        xs, ys, queries = contexts
        if _is_classifier(self.estimator):
            one_hot = ys.shape[-1] > 1 and np.isin(ys, (0, 1)).all() and (ys.sum(-1) == 1).all()
            if not one_hot:
                raise InputError(
                    f"{self.__name__} is a classifier and needs one-hot labels of at least two "
                    f"classes; got labels of shape {ys.shape} that are not."
                )
            return _fit.predict_classes
        if ys.shape[-1] > 1:
            first = (xs[:1], ys[:1], queries[:1])
            try:
                _fit.fit_each(_fit.predict_values, self.estimator, first)
            except _fit.PromptError:
                return _fit.predict_each_value
        return _fit.predict_values

    def _rest(
        self, predict: Any, start: int, contexts: _fit.Contexts, *, in_processes: bool
    ) -> list[Any]:
        """What `fit_each` finds from context `start` on, in parts for several processes."""
        joblib, processes = _joblib(), self.workers
        if in_processes and joblib and processes > 1:
            # Some parts for each process, so that none of them waits long for the others
            parts = min(4 * processes, len(contexts[0]))
            split = [np.array_split(part, parts) for part in contexts]
            starts = start + np.cumsum([0, *map(len, split[0])])
            jobs = [
                joblib.delayed(_fit.fit_each)(predict, self.estimator, part, int(first))
                for part, first in zip(zip(*split, strict=True), starts, strict=False)
            ]
            try:
                _pickle_by_value(self.estimator)
                with _for_this_process_alone():
                    # Not as memory maps: they are read-only, and some estimators write into them
                    return joblib.Parallel(n_jobs=processes, max_nbytes=None)(jobs)
            except pickle.PicklingError:
                pass  # such as an estimator that holds a lambda of a local scope
            except BrokenProcessPool as error:
                if type(error).__name__ == "TerminatedWorkerError":
                    raise InputError(
                        f"a process that fitted {self.__name__} ended early (out of memory?); "
                        "give fewer processes."
                    ) from error
                # Otherwise what the estimator is made of cannot be imported in another process
        return [_fit.fit_each(predict, self.estimator, contexts, start)]


def _estimator(estimator: Any, parameters: Mapping[str, Any]) -> Any:
    """A copy with these parameters set, and 0 for the seeds that are not set."""
    name = getattr(estimator, "__name__", type(estimator).__name__)
    if not all(callable(getattr(estimator, method, None)) for method in ("fit", "predict")):
        raise InputError(f"an estimator must have the methods fit and predict; got {name}.")
    if isinstance(estimator, type):
        known = inspect.signature(estimator).parameters
        own = {key: value for key, value in parameters.items() if key in known}
        parameters = {key: value for key, value in parameters.items() if key not in known}
        try:
            estimator = estimator(**own)
        except Exception as error:
            raise InputError(f"{name} could not be created ({_fit.reason_of(error)}).") from error
    else:
        try:
            estimator = _fit.fresh(estimator)
        except Exception as error:
            raise InputError(f"{name} could not be copied ({_fit.reason_of(error)}).") from error
    if not hasattr(estimator, "get_params"):
        if parameters:
            names = ", ".join(parameters)
            raise InputError(f"{name} has no parameters that can be set; got {names}.")
        return estimator
    known = estimator.get_params()
    for parameter in parameters:
        one_of(f"parameter of {name}", parameter, known)
    seeds = {key: 0 for key, value in known.items() if _is_seed(key) and value is None}
    return estimator.set_params(**seeds | dict(parameters))


def _in_words(estimator: Any) -> str:
    """Its own `repr` in one line, which for scikit-learn has all parameters that were set."""
    if type(estimator).__repr__ is object.__repr__:  # an address, which says nothing
        return type(estimator).__name__
    words = " ".join(repr(estimator).split())
    return words if len(words) <= MOST_CHARACTERS else f"{words[: MOST_CHARACTERS - 1]}…"


def _is_seed(parameter: str) -> bool:
    return parameter.rpartition("__")[2] == "random_state"


def _is_classifier(estimator: Any) -> bool:
    if hasattr(estimator, "__sklearn_tags__"):
        return estimator.__sklearn_tags__().estimator_type == "classifier"
    kind = getattr(estimator, "_estimator_type", None)
    return kind == "classifier" if kind else hasattr(estimator, "predict_proba")


def _joblib() -> Any:
    if importlib.util.find_spec("joblib") is None:
        return None
    return importlib.import_module("joblib")


@contextlib.contextmanager
def _for_this_process_alone() -> Iterator[None]:
    """Processes that start in the block ignore Ctrl-C, and end without warnings if this one does.

    A terminal interrupts all of them, and each would print a traceback. Signals that are blocked in
    a thread stay so in the processes that it starts; here another thread takes them, or this one
    when the block ends. What is left after an abrupt end is removed by a process of joblib, which
    warns of it.
    """
    block = getattr(signal, "pthread_sigmask", None)  # Windows has none
    before = block(signal.SIG_BLOCK, {signal.SIGINT}) if block else set()
    warned = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = "ignore"
    try:
        yield
    finally:
        if warned is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = warned
        if block:
            block(signal.SIG_SETMASK, before)


def _pickle_by_value(estimator: Any) -> None:
    """Lets other processes unpickle classes of files that `kinds.load` has imported."""
    vendored = "joblib.externals.cloudpickle"  # until joblib 1.5
    package = vendored if importlib.util.find_spec(vendored) else "cloudpickle"
    cloudpickle = importlib.import_module(package)
    parts = estimator.get_params().values() if hasattr(estimator, "get_params") else ()
    for kind in {type(part) for part in (estimator, *parts)}:
        package = kind.__module__.partition(".")[0]
        known = package in sys.builtin_module_names or package == "__main__"
        if not known and importlib.machinery.PathFinder.find_spec(package) is None:
            cloudpickle.register_pickle_by_value(sys.modules[kind.__module__])
