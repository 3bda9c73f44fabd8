"""`as_learner`: a learner made of anything that learns in context."""

import functools
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

from mesalens import kinds
from mesalens.adapters._fit import reason_of
from mesalens.adapters._jax import PromptFunction
from mesalens.adapters._numpy import NumpyLearner
from mesalens.adapters._sklearn import from_sklearn
from mesalens.adapters._torch import from_torch
from mesalens.checks import InputError, one_of
from mesalens.learners import Learner

ADAPTERS = ("numpy", "jax", "sklearn", "torch")

EXTRAS = {"sklearn": "scikit-learn", "torch": "PyTorch"}
"""Packages that an extra of their name installs."""


def as_learner(
    subject: Any,
    *,
    adapter: str | None = None,
    layout: Any = None,
    parameters: Mapping[str, Any] | None = None,
) -> Learner:
    """The learner that an object is, or that an adapter makes of it.

    | subject | learner | adapter |
    | --- | --- | --- |
    | a [`Learner`][mesalens.learners.Learner] | itself | |
    | a `torch.nn.Module` | `from_torch` | `"torch"` |
    | an object with `fit` and `predict` | `from_sklearn` | `"sklearn"` |
    | a function of three arguments, `(xs, ys, queries)` | `NumpyLearner` | `"numpy"` |
    | a function of one argument, a `Prompt` | `PromptFunction` | `"jax"` |

    A class, or a function that needs no argument, is called with the parameters to get the object.
    A string names any of these by its place, `"file.py:name"` or `"module:name"`.

    Args:
        subject: One of the above.
        adapter: The adapter to use, if the subject alone does not determine it.
        layout: How prompts become the tokens of a `torch.nn.Module`, interleaved by default; see
            `from_torch`. A string with a colon names a function by its place.
        parameters: The parameters to set in an estimator, or the keyword arguments of a class or
            function.

    Returns:
        The learner.

    Raises:
        ValueError: If the subject is none of the above, cannot be imported or created, does not fit
            the adapter, or has a layout although it is not a `torch.nn.Module`.
    """
    if adapter is not None:
        one_of("adapter", adapter, ADAPTERS)
    if isinstance(subject, str):
        subject = _load(subject)
    name = _name(subject)
    if parameters and inspect.isfunction(subject):
        subject = functools.partial(subject, **_known(subject, parameters))
        parameters = None
    if _makes_the_subject(subject):
        made = _make(subject, name, parameters or {})
        if isinstance(made, type) or _makes_the_subject(made):
            raise InputError(f"{name} returned {_name(made)}, which is not a learner.")
        return as_learner(made, adapter=adapter, layout=layout)
    adapter = adapter or _adapter_for(subject)
    if layout is not None and adapter != "torch":
        makes = "; a function that returns a module takes no arguments except those that are set"
        raise InputError(
            f"layout is only for a torch.nn.Module; {name} is read as {adapter}"
            f"{makes if inspect.isfunction(subject) else ''}."
        )
    if isinstance(layout, str) and ":" in layout:
        layout = _load(layout)
    if adapter == "sklearn":
        return from_sklearn(subject, parameters=parameters)
    if parameters:
        raise InputError(f"{name} takes no parameters; got {', '.join(parameters)}.")
    if isinstance(subject, Learner):
        if adapter != "jax":
            raise InputError(f"{name} is already a Learner and needs no adapter; got {adapter!r}.")
        return subject
    if adapter == "torch":
        return from_torch(subject, layout or "interleaved")
    if not callable(subject):
        raise InputError(f"{name} cannot be called, as the adapter {adapter!r} requires.")
    return NumpyLearner(subject) if adapter == "numpy" else PromptFunction(subject)


def _load(place: str) -> Any:
    """The object at a place; where a package is missing that an extra installs, says so."""
    package = place.partition(":")[0].partition(".")[0]
    if package in EXTRAS and importlib.util.find_spec(package) is None:
        raise InputError(f"{place} needs {EXTRAS[package]}: install mesalens[{package}].")
    return kinds.load(place)


def _makes_the_subject(subject: Any) -> bool:
    """Whether it is a class (estimators apart), or a function that needs no argument."""
    if isinstance(subject, type):
        return not _is_estimator(subject)
    is_function = inspect.isfunction(subject) or isinstance(subject, functools.partial)
    return is_function and _positional(subject) == 0


def _make(subject: Callable[..., Any], name: str, parameters: Mapping[str, Any]) -> Any:
    parameters = _known(subject, parameters)
    try:
        return subject(**parameters)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name} could not be called ({reason_of(error)}).") from error


def _known(function: Callable[..., Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    signature = inspect.signature(function).parameters
    if not any(each.kind is each.VAR_KEYWORD for each in signature.values()):
        for parameter in parameters:
            one_of(f"parameter of {_name(function)}", parameter, signature)
    return dict(parameters)


def _adapter_for(subject: Any) -> str:
    """The adapter of a subject, from its methods and the number of arguments it needs."""
    if isinstance(subject, Learner):
        return "jax"
    torch = sys.modules.get("torch")  # not imported: then nothing can be one of its modules
    if torch is not None and isinstance(subject, torch.nn.Module):
        return "torch"
    if _is_estimator(subject):
        return "sklearn"
    needed = _positional(subject) if callable(subject) else None
    if needed not in (1, 3):
        raise InputError(
            f"{_name(subject)} is not a Learner, a torch.nn.Module, an estimator with fit and "
            "predict, or a function of (xs, ys, queries) or of a Prompt; if it is one, give the "
            "adapter."
        )
    return "jax" if needed == 1 else "numpy"


def _is_estimator(subject: Any) -> bool:
    return all(callable(getattr(subject, method, None)) for method in ("fit", "predict"))


def _positional(function: Callable[..., Any]) -> int | None:
    """How many positional arguments a function needs; None if that is not known."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return None
    if any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return 3
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in kinds and each.default is each.empty for each in parameters)


def _name(subject: Any) -> str:
    if isinstance(subject, functools.partial):
        return _name(subject.func)
    return getattr(subject, "__name__", type(subject).__name__)
