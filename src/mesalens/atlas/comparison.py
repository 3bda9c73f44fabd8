"""A learner beside a reference: what most claims are about."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import equinox as eqx
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from mesalens.analysis import Comparison
from mesalens.atlas.experiment import Trained
from mesalens.atlas.study import Lab, measurement
from mesalens.learners import AnyLearner
from mesalens.tasks import Task


def beside(
    learner: AnyLearner,
    reference: AnyLearner,
    task: Task,
    key: Key[Array, ""],
    *,
    prompts: int,
    prefix: str = "",
) -> dict[str, Float[Array, ""]]:
    """A learner beside a reference on the same fresh prompts; JAX can trace it.

        risk, reference_risk     R = E‖ŷ - y‖², R_ref
        risk_difference          R / R_ref - 1
        prediction_difference    E‖ŷ - ŷ_ref‖ / E‖ŷ_ref‖
        cosine                   E[⟨J, J_ref⟩ / (‖J‖ ‖J_ref‖)],  J = ∂ŷ/∂x_query
        sensitivity_difference   E‖J - J_ref‖ / E‖J_ref‖

    A learner that always predicts 0 has 1 in the two differences.

    Args:
        learner: The learner.
        reference: The reference.
        task: What prompts are drawn from.
        key: A random key.
        prompts: How many.
        prefix: Put in front of all names but `risk`.
    """
    mean = Comparison(reference, task, prompts)(learner, key)
    mean = {name.removeprefix("reference."): value for name, value in mean.items()}
    values = {
        "reference_risk": mean["reference_risk"],
        "risk_difference": mean["risk"] / mean["reference_risk"] - 1,
        "prediction_difference": mean["prediction_difference"] / mean["reference_prediction"],
        "cosine": mean["sensitivity_cosine"],
        "sensitivity_difference": mean["sensitivity_difference"] / mean["reference_sensitivity"],
    }
    return {"risk": mean["risk"]} | {f"{prefix}{name}": value for name, value in values.items()}


compare = eqx.filter_jit(beside)
"""`beside`, compiled once for all seeds of an experiment."""


def own(trained: Trained, reference: AnyLearner) -> AnyLearner:
    """What was trained."""
    return trained.learner


@measurement
def compared(
    lab: Lab,
    trained: Any,
    reference: Any,
    learner: Callable[[Trained, AnyLearner], AnyLearner] = own,
    dimension: str = "setting",
) -> dict[str, Any] | xr.Dataset:
    """Trained learners beside references, by the names of `beside`.

    A reference is another training, or what `reference(trained)` makes. Instead of what was trained
    stands `learner(trained, reference)`. Several trainings by their labels, beside one reference or
    one for each label, give values along a dimension.
    """

    def measure(label: Any, run: Trained) -> dict[str, Any]:
        other = reference[label] if isinstance(reference, Mapping) else reference
        other = other.learner if isinstance(other, Trained) else other(run)
        key, prompts = lab.key(run.name), lab.settings.prompts
        return compare(learner(run, other), other, run.task, key, prompts=prompts)

    if isinstance(trained, Trained):
        return measure(None, trained)
    labels = {run.name: label for label, run in trained.items()}
    return over(trained, lambda run: measure(labels[run.name], run), dimension)


def over(
    family: Mapping[Any, Trained],
    measure: Callable[[Trained], Mapping[str, Any]],
    dimension: str,
) -> xr.Dataset:
    """What is measured of several experiments, along a dimension with their labels.

    The coordinate `counted` says which of them count.
    """
    measured = [xr.Dataset(dict(measure(run))) for run in family.values()]
    labels = xr.DataArray(list(family), dims=dimension, name=dimension)
    counted = dimension, [run.counts for run in family.values()]
    return xr.concat(measured, labels).assign_coords(counted=counted)


def settings_of(function: Callable[[Any], Any], values: Any, dimension: str) -> xr.DataArray:
    """`function(value)` for each value, along a dimension with the values as labels."""
    results = [np.asarray(function(value), np.float64) for value in values]
    return xr.DataArray(results, {dimension: list(map(_label, values))}, (dimension,))


def _label(value: Any) -> Any:
    return value if isinstance(value, int | float | str) else str(value)


def runs_of(results: Any) -> Iterator[Any]:
    """The trained seeds among results, those of several experiments one after the other."""
    if isinstance(results, Trained):
        yield results
    elif isinstance(results, Mapping):
        for each in results.values():
            yield from runs_of(each)
    elif isinstance(results, tuple):
        for each in results:
            yield from runs_of(each)
