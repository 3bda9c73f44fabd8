"""Comparisons of a learner with a reference: what most claims are about."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from mesalens.analysis import Comparison
from mesalens.atlas.experiment import Trained
from mesalens.atlas.study import Lab, measurement
from mesalens.checks import random_key
from mesalens.learners import AnyLearner
from mesalens.program_cache import compiled_once
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
    """Compares a learner with a reference on the same fresh prompts; JAX can trace it.

    | name | value |
    |---|---|
    | `risk`, `reference_risk` | R = E‖ŷ - y‖², and R_ref |
    | `relative_risk_difference` | R / R_ref - 1 |
    | `relative_prediction_difference` | E‖ŷ - ŷ_ref‖ / E‖ŷ_ref‖ |
    | `cosine` | E[⟨J, J_ref⟩ / (‖J‖ ‖J_ref‖)], J = ∂ŷ/∂x_query |
    | `relative_sensitivity_difference` | E‖J - J_ref‖ / E‖J_ref‖ |

    A learner that always predicts 0 has 1 in the relative differences of predictions and of
    sensitivities.

    Args:
        learner: The learner.
        reference: The reference.
        task: The distribution of prompts.
        key: A random key.
        prompts: The number of prompts.
        prefix: Put in front of all names except `risk`.

    Returns:
        The values by name.
    """
    mean = Comparison(reference, task, prompts)(learner, key)
    mean = {name.removeprefix("reference."): value for name, value in mean.items()}
    values = {
        "reference_risk": mean["reference_risk"],
        "relative_risk_difference": mean["risk"] / mean["reference_risk"] - 1,
        "relative_prediction_difference": mean["prediction_difference"]
        / mean["reference_prediction"],
        "cosine": mean["sensitivity_cosine"],
        "relative_sensitivity_difference": mean["sensitivity_difference"]
        / mean["reference_sensitivity"],
    }
    return {"risk": mean["risk"]} | {f"{prefix}{name}": value for name, value in values.items()}


compare = compiled_once(beside)
"""`beside`, compiled once, for all seeds of an experiment."""


def own(trained: Trained, reference: AnyLearner) -> AnyLearner:
    """The trained learner."""
    return trained.learner


@measurement
def compared(
    lab: Lab,
    trained: Any,
    reference: Any,
    learner: Callable[[Trained, AnyLearner], AnyLearner] = own,
    dimension: str = "setting",
) -> dict[str, Any] | xr.Dataset:
    """Measurement: compares trained learners with a reference, with the values of `beside`.

    The number of prompts is the setting `prompts` of the study. Use `compared.given(…)` to set the
    arguments.

    Args:
        lab: The `Lab`.
        trained: An experiment, or several by label.
        reference: An experiment, a function of a trained seed that returns a learner, or a mapping
            of the labels to such references.
        learner: `learner(trained, reference)` returns the learner to compare; by default the
            trained learner.
        dimension: The name of the dimension of labels.

    Returns:
        The values by name; of several experiments a dataset along `dimension`.
    """

    def measure(run: Trained, made: Mapping[str, AnyLearner]) -> dict[str, Any]:
        key, prompts = lab.key(run.name), lab.settings.prompts
        return compare(learner(run, made[""]), made[""], run.task, key, prompts=prompts)

    return _measured(measure, trained, {"": reference}, dimension)


@measurement
def compared_with_each(
    lab: Lab, trained: Any, references: Mapping[str, Any], dimension: str = "setting"
) -> dict[str, Any] | xr.Dataset:
    """Measurement: compares trained learners with several references on the same prompts.

    The values of `beside` have the name of the reference in front, such as
    `descent_relative_risk_difference`.

    Args:
        lab: The `Lab`.
        trained: An experiment, or several by label.
        references: References by name, each as in `compared`.
        dimension: The name of the dimension of labels.

    Returns:
        The values by name; of several experiments a dataset along `dimension`.
    """

    def measure(run: Trained, made: Mapping[str, AnyLearner]) -> dict[str, Any]:
        found = {}
        for name, reference in made.items():
            given = run.learner, reference, run.task, lab.key(run.name)
            found |= compare(*given, prompts=lab.settings.prompts, prefix=f"{name}_")
        return found

    return _measured(measure, trained, references, dimension)


def _measured(
    measure: Callable[[Trained, Mapping[str, AnyLearner]], dict[str, Any]],
    trained: Any,
    references: Mapping[str, Any],
    dimension: str,
) -> dict[str, Any] | xr.Dataset:
    """Measures one training, or several by label, with the references."""

    def one(run: Trained, label: Any = None) -> dict[str, Any]:
        made = {}
        for name, reference in references.items():
            other = reference[label] if isinstance(reference, Mapping) else reference
            made[name] = other.learner if isinstance(other, Trained) else other(run)
        return measure(run, made)

    if isinstance(trained, Trained):
        return one(trained)
    labels = {run.name: label for label, run in trained.items()}
    return over(trained, lambda run: one(run, labels[run.name]), dimension)


@compiled_once
def largest_difference(
    learner: AnyLearner, reference: AnyLearner, task: Task, key: Key[Array, ""], prompts: int = 200
) -> Float[Array, ""]:
    """The largest difference of predictions, relative to their size.

    `max ‖ŷ - ŷ_ref‖ / (mean ‖ŷ_ref‖²)^½` over fresh prompts.

    Args:
        learner: The learner.
        reference: The reference.
        task: The distribution of prompts.
        key: A random key.
        prompts: The number of prompts.

    Returns:
        A number, 0 for equal predictions.
    """
    drawn, _ = task.sample(random_key(key), (prompts,))
    expected = jax.vmap(reference)(drawn)
    differences = jnp.linalg.norm(jax.vmap(learner)(drawn) - expected, axis=-1)
    return differences.max() / jnp.sqrt(jnp.mean(jnp.sum(expected**2, axis=-1)))


def over(
    family: Mapping[Any, Trained],
    measure: Callable[[Trained], Mapping[str, Any]],
    dimension: str,
) -> xr.Dataset:
    """Measures several experiments, along a dimension with their labels.

    Args:
        family: The trained seeds by label.
        measure: A function of a trained seed that returns numbers or arrays by name.
        dimension: The name of the dimension.

    Returns:
        A dataset, whose coordinate `counted` says which of the trained seeds count.
    """
    measured = [xr.Dataset(dict(measure(run))) for run in family.values()]
    labels = xr.DataArray(list(family), dims=dimension, name=dimension)
    counted = dimension, [run.counts for run in family.values()]
    return xr.concat(measured, labels).assign_coords(counted=counted)


def settings_of(function: Callable[[Any], Any], values: Any, dimension: str) -> xr.DataArray:
    """`function(value)` for each value, as a labelled array.

    Args:
        function: A function of a value that returns a number.
        values: The values, which are also the labels.
        dimension: The name of the dimension.

    Returns:
        The results, in float64.
    """
    results = [np.asarray(function(value), np.float64) for value in values]
    return xr.DataArray(results, {dimension: list(map(_label, values))}, (dimension,))


def _label(value: Any) -> Any:
    return value if isinstance(value, int | float | str) else str(value)


def runs_of(results: Any) -> Iterator[Any]:
    """The trained seeds among results, also in tuples and mappings."""
    if isinstance(results, Trained):
        yield results
    elif isinstance(results, Mapping):
        for each in results.values():
            yield from runs_of(each)
    elif isinstance(results, tuple):
        for each in results:
            yield from runs_of(each)
