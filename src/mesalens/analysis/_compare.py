"""Comparison of a learner with references."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from mesalens.analysis._alignment import alignment_terms, sensitivity
from mesalens.checks import InputError, count, random_key
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
    """The measures of [`compare`][mesalens.analysis.compare] in a form that JAX can trace.

    It is used as a `measure` of [`train`][mesalens.training.train]: `comparison(learner, key)`
    returns a number for each name `reference.measure`, such as `gd.risk`. Training records them
    over its steps, and `comparison.dataset(training.metrics)` labels them.

    Attributes:
        references: Learners by name, or one learner, whose name is then `reference`.
        task: The distribution of prompts.
        prompts: The number of prompts of each call.

    Raises:
        ValueError: If there is no reference.
    """

    references: dict[str, Any] = eqx.field(
        converter=lambda given: dict(given) if isinstance(given, Mapping) else {"reference": given}
    )
    task: Task
    prompts: int = eqx.field(static=True, default=256)

    def __check_init__(self):
        count("the number of references", len(self.references))

    def __call__(self, learner: AnyLearner, key: Key[Array, ""]) -> dict[str, Float[Array, ""]]:
        """A number for each name `reference.measure`.

        Args:
            learner: The learner to measure.
            key: A random key.
        """
        means = self.estimates(learner, key)
        return {name: jnp.asarray(estimate.value) for name, estimate in means.items()}

    def estimates(self, learner: AnyLearner, key: Key[Array, ""]) -> dict[str, Estimate]:
        """An estimate for each name `reference.measure`, all from the same prompts.

        Args:
            learner: The learner to measure.
            key: A random key.
        """

        def terms(prompt, target):
            answer = _answer(learner, prompt)
            return {
                f"{name}.{measure}": term
                for name, reference in self.references.items()
                for measure, term in _terms(answer, _answer(reference, prompt), target).items()
            }

        means = expectation(terms, self.task, key, prompts=self.prompts)
        for name in self.references:
            unit, ratio = means.pop(f"{name}.square").value, f"{name}.relative_difference"
            means[ratio] = jax.tree.map(lambda mean, unit=unit: mean / unit, means[ratio])
        return means

    def dataset(self, metrics: xr.Dataset) -> xr.Dataset:
        """`value` over (reference, measure, …) from the metrics of a training that measured this.

        A measure that is not defined for one of the references is NaN.

        Args:
            metrics: The metrics of the training.
        """
        references = list(self.references)
        measures = [m for m in MEASURES if any(f"{r}.{m}" in metrics for r in references)]
        count("the number of measures in the metrics", len(measures))
        names = [f"{r}.{m}" for r in references for m in measures]
        found = metrics[[name for name in names if name in metrics]].to_dataarray("name")
        pairs = found.reindex(name=names).coarsen(name=len(measures))
        table = pairs.construct(name=("reference", "measure")).to_dataset(name="value")
        table = table.drop_vars("name").assign_coords(reference=references, measure=measures)
        table.coords["formula"] = "measure", [MEASURES[name] for name in measures]
        table.attrs = {"task": repr(self.task), "prompts": self.prompts}
        blind = [name for name in references if f"{name}.sensitivity_cosine" not in metrics]
        if blind:
            table.attrs["sensitivities"] = (
                f"not defined against {', '.join(blind)}: JAX cannot differentiate both learners"
            )
        return table


def compare(
    learner: AnyLearner,
    references: Mapping[str, AnyLearner] | AnyLearner,
    task: Task,
    key: Key[Array, ""],
    *,
    prompts: int = 10_000,
    axes: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Measures of a learner against references on a task, by simulation.

    With ŷ the learner's prediction, ŷ_ref the reference's, y the target and J = ∂ŷ/∂x_query:

    | measure | definition |
    | --- | --- |
    | `risk`, `reference_risk` | `E‖ŷ - y‖²`, `E‖ŷ_ref - y‖²` |
    | `risk_difference` | `E[‖ŷ - y‖² - ‖ŷ_ref - y‖²]` |
    | `prediction_difference` | `E‖ŷ - ŷ_ref‖` |
    | `relative_difference` | `E‖ŷ - ŷ_ref‖² / E‖ŷ_ref‖²`; its error is that of the numerator |
    | `reference_prediction` | `E‖ŷ_ref‖`, the unit of `prediction_difference` |
    | `sensitivity_cosine` | `E[⟨J, J_ref⟩ / (‖J‖ ‖J_ref‖)]` |
    | `sensitivity_difference` | `E‖J - J_ref‖` |
    | `reference_sensitivity` | `E‖J_ref‖`, the unit of `sensitivity_difference` |

    The risk difference is taken prompt by prompt, so that its error is smaller than those of the
    two risks if the learners are similar. The last three measures need learners that JAX can
    differentiate. They are NaN against a reference that is not differentiable, and absent if no
    pair is.

    Args:
        learner: A learner, or a pytree of learners whose arrays have leading axes, such as
            `Training.learners`.
        references: Learners by name, or one learner, whose name is then `reference`.
        task: The distribution of prompts.
        key: A random key.
        prompts: The number of prompts for each learner. All references see the same ones.
        axes: The labels along each leading axis, by its name, such as `{"seed": [0, 1, 2]}`.
            Learners along the axis `seed` see different prompts, from the keys
            `jax.random.split(key, seeds)`; along every other axis they see the same.

    Returns:
        `value` and `standard_error` over (reference, measure, *axes).

    Raises:
        ValueError: If there is no reference, the axes do not match the learner's arrays, a
            prediction has another shape than targets, or a learner needs examples and prompts are
            condensed.

    Examples:
        >>> from mesalens import GradientDescent, LeastSquares, Ridge, analysis, random, tasks
        >>> task = tasks.RegressionTask(
        ...     tasks.Gaussian(3), tasks.LinearFunctions(3), context_length=10
        ... )
        >>> references = {"ridge": Ridge(1.0), "least squares": LeastSquares()}
        >>> descent = GradientDescent(0.5, steps=4)
        >>> table = analysis.compare(descent, references, task, random.key(0))
        >>> print(table.value.sel(measure="relative_difference").round(2).values)
        [0.03 0.08]
    """
    random_key(key)
    comparison = Comparison(references, task, prompts)
    labels = {axis: np.asarray(values) for axis, values in (axes or {}).items()}
    sizes = tuple(len(values) for values in labels.values())
    for leaf in filter(eqx.is_array, jax.tree.leaves(learner)):
        if leaf.shape[: len(sizes)] != sizes:
            raise InputError(
                f"axes have sizes {sizes}, but an array of the learner has shape {leaf.shape}."
            )
    means = _over_axes(comparison, learner, key, tuple(zip(labels, sizes, strict=True)))

    dims = tuple(labels)

    def table(part: str) -> xr.Dataset:
        arrays = {name: (dims, np.asarray(getattr(mean, part))) for name, mean in means.items()}
        return comparison.dataset(xr.Dataset(arrays, labels))

    return table("value").assign(standard_error=table("standard_error").value)


@eqx.filter_jit
def _over_axes(comparison, learners, key, axes) -> dict[str, Estimate]:
    """The estimates for learners along all leading axes, one after the other to bound memory.

    `axes` are pairs of a name and a size, outermost first.
    """
    if not axes:
        return comparison.estimates(learners, key)
    (axis, size), *inner = axes
    keys = jax.random.split(key, size) if axis == "seed" else jnp.broadcast_to(key, size)
    arrays, static = eqx.partition(learners, eqx.is_array)

    def estimates(each):
        arrays, key = each
        return _over_axes(comparison, eqx.combine(arrays, static), key, tuple(inner))

    return jax.lax.map(estimates, (arrays, keys))


def _answer(learner, prompt):
    """The prediction, and the sensitivity if the learner has one."""
    J = sensitivity(learner, prompt) if is_differentiable(learner) else None
    return predict(learner, prompt), J


def _terms(answer, reference_answer, target) -> dict[str, Array]:
    (prediction, J), (expected, J_ref) = answer, reference_answer
    error, reference_error = (jnp.sum((y - target) ** 2) for y in (prediction, expected))
    return alignment_terms(prediction, expected, J, J_ref) | {
        "risk": error,
        "reference_risk": reference_error,
        "risk_difference": error - reference_error,
        "relative_difference": jnp.sum((prediction - expected) ** 2),
        "square": jnp.sum(expected**2),
    }
