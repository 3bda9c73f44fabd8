"""Learners beside each other: the measures of a learner against references, with labels."""

import math
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Array, Float, Key

from mesalens.analysis._alignment import prediction_terms, sensitivity, sensitivity_terms
from mesalens.checks import InputError, count
from mesalens.learners import AnyLearner
from mesalens.learners.base import is_differentiable, predict
from mesalens.simulation import Estimate, expectation
from mesalens.tasks import Task

MEASURES = {
    "risk": "E‖ŷ - y‖²",
    "reference_risk": "E‖ŷ_ref - y‖²",
    "risk_difference": "E[‖ŷ - y‖² - ‖ŷ_ref - y‖²]",
    "prediction_difference": "E‖ŷ - ŷ_ref‖",
    "relative_difference": "E‖ŷ - ŷ_ref‖² / E‖ŷ_ref‖²",
    "reference_prediction": "E‖ŷ_ref‖",
    "sensitivity_cosine": "E[⟨J, J_ref⟩ / (‖J‖ ‖J_ref‖)]",
    "sensitivity_difference": "E‖J - J_ref‖",
    "reference_sensitivity": "E‖J_ref‖",
}
"""Every measure with its formula; J = ∂ŷ/∂x_query, as in `Alignment`."""


class Comparison(eqx.Module):
    """The measures of `compare` in a form that JAX can trace: a `measure` of `train`.

    `comparison(learner, key)` gives a number for each name `reference.measure`, as `gd.risk`.
    Training records these over its steps, and `comparison.dataset(training.metrics)` labels them.

    Args:
        references: learners by name, or one learner, whose name is then `reference`.
        task: the distribution of prompts.
        prompts: how many prompts each call draws.

    Raises:
        ValueError: if there is no reference.
    """

    references: dict[str, Any] = eqx.field(
        converter=lambda given: dict(given) if isinstance(given, Mapping) else {"reference": given}
    )
    task: Task
    prompts: int = eqx.field(static=True, default=256)

    def __check_init__(self):
        count("the number of references", len(self.references))

    def __call__(self, learner: AnyLearner, key: Key[Array, ""]) -> dict[str, Float[Array, ""]]:
        means = self.estimates(learner, key)
        return {name: jnp.asarray(estimate.value) for name, estimate in means.items()}

    def estimates(self, learner: AnyLearner, key: Key[Array, ""]) -> dict[str, Estimate]:
        """An estimate for each name `reference.measure`, all from the same prompts."""

        def terms(prompt, target):
            prediction = predict(learner, prompt)
            J = sensitivity(learner, prompt) if is_differentiable(learner) else None
            return {
                f"{name}.{measure}": term
                for name, reference in self.references.items()
                for measure, term in _terms(prediction, J, reference, prompt, target).items()
            }

        means = expectation(terms, self.task, key, prompts=self.prompts)
        for name in self.references:
            unit, ratio = means.pop(f"{name}.square").value, f"{name}.relative_difference"
            means[ratio] = jax.tree.map(lambda mean, unit=unit: mean / unit, means[ratio])
        return means

    def dataset(self, metrics: xr.Dataset) -> xr.Dataset:
        """`value` over (reference, measure, …) from the metrics of a training that measured this.

        A measure that one of the references does not have is NaN.
        """
        return self._labelled(value=metrics)

    def _labelled(self, **variables: xr.Dataset) -> xr.Dataset:
        """Variables by names `reference.measure`, with both as dimensions."""
        references, (metrics, *_) = list(self.references), variables.values()
        pairs = {f"{r}.{m}": (r, m) for m in MEASURES for r in references if f"{r}.{m}" in metrics}
        count("the number of measures in the metrics", len(pairs))
        index = pd.MultiIndex.from_tuples(pairs.values(), names=["reference", "measure"])
        stacked = {
            name: values[list(pairs)].to_dataarray("p") for name, values in variables.items()
        }
        labels = xr.Coordinates.from_pandas_multiindex(index, "p")
        table = xr.Dataset(stacked).assign_coords(labels).unstack("p")
        measures = list(dict.fromkeys(measure for _, measure in pairs.values()))
        table = table.sel(reference=references, measure=measures)
        table = table.assign_coords(formula=("measure", [MEASURES[name] for name in measures]))
        table.attrs = {"task": repr(self.task), "prompts": self.prompts}
        blind = [name for name in references if f"{name}.sensitivity_cosine" not in pairs]
        if blind:
            table.attrs["sensitivities"] = (
                f"not defined against {', '.join(blind)}: JAX cannot differentiate both learners"
            )
        return table.transpose("reference", "measure", ...)


def compare(
    learner: AnyLearner,
    references: Mapping[str, AnyLearner] | AnyLearner,
    task: Task,
    key: Key[Array, ""],
    *,
    prompts: int = 10_000,
    axes: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Measures of a learner against references, by simulation on a task.

    With ŷ the learner's prediction, ŷ_ref the reference's, y the target and J = ∂ŷ/∂x_query:

        risk, reference_risk      E‖ŷ - y‖², E‖ŷ_ref - y‖²
        risk_difference           E[‖ŷ - y‖² - ‖ŷ_ref - y‖²]; prompt by prompt, so that its error is
                                  smaller than those of the two risks where learners are similar
        prediction_difference     E‖ŷ - ŷ_ref‖, in units of reference_prediction E‖ŷ_ref‖
        relative_difference       E‖ŷ - ŷ_ref‖² / E‖ŷ_ref‖²; its error is that of the numerator
        sensitivity_cosine        E[⟨J, J_ref⟩ / (‖J‖ ‖J_ref‖)]
        sensitivity_difference    E‖J - J_ref‖, in units of reference_sensitivity E‖J_ref‖

    The last three need learners that JAX can differentiate. Without any they are left out; against
    a reference that is not differentiable they are NaN.

    Args:
        learner: a learner, or a pytree of learners whose arrays have leading axes, as
            `Training.learners` has them.
        references: learners by name, or one learner, whose name is then `reference`.
        task: the distribution of prompts.
        key: a random key.
        prompts: how many prompts are drawn for each learner; all references see the same.
        axes: the labels along each leading axis, by its name, as `{"seed": [0, 1, 2]}`. Learners
            along the axis `seed` see prompts of their own, from the keys `jax.random.split(key,
            seeds)`; along every other axis they see the same.

    Returns:
        `value` and `standard_error` over (reference, measure, *axes).

    Raises:
        ValueError: if there is no reference, the axes do not fit the learner's arrays, a prediction
            has another shape than targets, or a learner needs examples and prompts are condensed.
    """
    comparison = Comparison(references, task, prompts)
    labels = {axis: np.asarray(values) for axis, values in (axes or {}).items()}
    sizes = tuple(len(values) for values in labels.values())
    for leaf in filter(eqx.is_array, jax.tree.leaves(learner)):
        if leaf.shape[: len(sizes)] != sizes:
            raise InputError(f"axes have sizes {sizes}; an array of the learner has {leaf.shape}.")
    shape = [len(values) if axis == "seed" else 1 for axis, values in labels.items()]
    seed_keys = jax.random.split(key, math.prod(shape)) if "seed" in labels else key[None]
    index = np.broadcast_to(np.arange(len(seed_keys)).reshape(shape), sizes)
    means = _over_axes(comparison, learner, seed_keys[index.ravel()], len(sizes))

    def dataset(part: str) -> xr.Dataset:
        arrays = {name: np.reshape(getattr(mean, part), sizes) for name, mean in means.items()}
        return xr.Dataset({name: (list(labels), array) for name, array in arrays.items()}, labels)

    return comparison._labelled(value=dataset("value"), standard_error=dataset("standard_error"))


@eqx.filter_jit
def _over_axes(
    comparison: Comparison, learners: AnyLearner, keys: Key[Array, " total"], axes: int
) -> dict[str, Estimate]:
    """The estimates for learners along all leading axes, one after the other to bound memory."""
    arrays, static = eqx.partition(learners, eqx.is_array)
    arrays = jax.tree.map(lambda leaf: leaf.reshape(len(keys), *leaf.shape[axes:]), arrays)

    def estimates(each):
        own, key = each
        return comparison.estimates(eqx.combine(own, static), key)

    return jax.lax.map(estimates, (arrays, keys))


def _terms(prediction, J, reference, prompt, target) -> dict[str, Array]:
    expected = predict(reference, prompt)
    error, reference_error = (jnp.sum((y - target) ** 2) for y in (prediction, expected))
    terms = prediction_terms(prediction, expected) | {
        "risk": error,
        "reference_risk": reference_error,
        "risk_difference": error - reference_error,
        "relative_difference": jnp.sum((prediction - expected) ** 2),
        "square": jnp.sum(expected**2),
    }
    if J is None or not is_differentiable(reference):
        return terms
    return terms | sensitivity_terms(J, sensitivity(reference, prompt))
