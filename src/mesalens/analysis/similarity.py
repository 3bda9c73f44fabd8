"""Similarity by depth: which iterate of one learner the layers of another are nearest to."""

from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from mesalens.analysis.risk import AnyLearner
from mesalens.checks import InputError
from mesalens.learners.base import IterativeLearner
from mesalens.prompt import Prompt
from mesalens.simulation import Estimate, expectation
from mesalens.tasks import Task


def similarity(
    first: AnyLearner, second: AnyLearner, task: Task, key: Key[Array, ""], *, prompts: int = 10_000
) -> xr.Dataset:
    """How alike the predictions of two learners are, every layer l of the first beside every iterate k of the second.

    Each is a ratio of means over the same fresh prompts. With the error `e = ŷ - y`, over the dimensions (layer, iterate):

        difference     E‖ŷ_l - ŷ_k‖² / E‖y‖²                     (0 where they agree; 1 between the target and 0)
        cosine         E⟨ŷ_l, ŷ_k⟩ / (E‖ŷ_l‖² E‖ŷ_k‖²)^½         (1 where they agree up to scale)
        error_cosine   E⟨e_l, e_k⟩ / (E‖e_l‖² E‖e_k‖²)^½

    `E‖y‖²` is the risk of predicting 0. It is the unit because `E‖ŷ - ŷ*‖²` is what ŷ lacks in risk if ŷ* is the best predictor. It has the
    `difference_standard_error`, that of the mean above the line. `nearest` is the iterate with the least difference from each layer;
    `layer_risk` and `iterate_risk` are E‖e_l‖² and E‖e_k‖².

    Layer 0 and iterate 0 are before the first. They mostly predict 0, which has no direction: a cosine is 1 where both vanish on all
    prompts and 0 where one does, or overflows. A prediction that is not finite is infinitely far from every other.
    A learner that does not answer in steps has one iterate, its prediction.

    Source: the cosine of errors is that of Fu et al. (2023), arXiv 2310.17086, with prompts where they have the positions of a sequence.
    """
    return similarities(first, {"second": second}, task, key, prompts=prompts)["second"]


def similarities(
    model: AnyLearner, candidates: Mapping[str, AnyLearner], task: Task, key: Key[Array, ""], *, prompts: int = 10_000
) -> dict[str, xr.Dataset]:
    """The `similarity` of a model with each of several learners, all on the same prompts.

    Raises `ValueError` where there is no candidate.
    """
    if not candidates:
        raise InputError("there is no learner to compare the layers with; give at least one, by name.")
    moments = _moments(model, dict(candidates), task, key, prompts)
    return {
        name: _dataset(moments[name]) for name in candidates
    }  # compiled programs return names in alphabetical order


def nearest_learners(alike: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Which of several learners, at which iterate, each layer of a model is nearest to, from their `similarities`.

    Over (learner, layer): `iterate`, the learner's nearest to the layer, and its `difference` and `cosine` of `similarity`. Over
    layer: `nearest`, the name of the learner with the least difference, the first of them where several have it.
    """
    found: list[xr.Dataset] = []
    for of_learner in alike.values():
        at = of_learner.nearest
        chosen = of_learner[["difference", "difference_standard_error", "cosine"]].sel(iterate=at)
        found.append(chosen.drop_vars("iterate").assign(iterate=at))
    table = xr.concat(found, dim=xr.DataArray(list(alike), dims="learner", name="learner"))
    return table.assign(nearest=table.learner[table.difference.argmin("learner")].drop_vars("learner"))


def _iterates(learner: AnyLearner, prompt: Prompt) -> Float[Array, "iterates m"]:
    return learner.iterates(prompt) if isinstance(learner, IterativeLearner) else learner(prompt)[None]


@eqx.filter_jit
def _moments(
    first: AnyLearner, others: dict[str, AnyLearner], task: Task, key: Key[Array, ""], prompts: int
) -> dict[str, dict[str, Estimate]]:
    """The means of which the measures are made, for each of the others."""

    def statistic(prompt, target):
        rows = _iterates(first, prompt)
        return {name: terms(rows, _iterates(other, prompt), target) for name, other in others.items()}

    def terms(rows, columns, target):
        row_errors, column_errors = rows - target, columns - target
        return {
            "product": rows @ columns.T,
            "error_product": row_errors @ column_errors.T,
            # Not from the products: near agreement these would cancel
            "distance": jnp.sum((rows[:, None] - columns) ** 2, axis=-1),
            "rows": jnp.sum(rows**2, axis=-1),
            "columns": jnp.sum(columns**2, axis=-1),
            "row_errors": jnp.sum(row_errors**2, axis=-1),
            "column_errors": jnp.sum(column_errors**2, axis=-1),
            "target": jnp.sum(target**2),
        }

    return expectation(statistic, task, key, prompts=prompts)


def _dataset(moments: dict[str, Estimate]) -> xr.Dataset:
    mean = {name: np.asarray(estimate.value, np.float64) for name, estimate in moments.items()}
    error = np.asarray(moments["distance"].standard_error, np.float64)
    both = ("layer", "iterate")
    difference = _finite_or_infinite(mean["distance"] / mean["target"])
    return xr.Dataset(
        {
            "difference": (both, difference),
            "difference_standard_error": (both, _finite_or_infinite(error / mean["target"])),
            "cosine": (both, _cosine(mean["product"], mean["rows"], mean["columns"])),
            "error_cosine": (both, _cosine(mean["error_product"], mean["row_errors"], mean["column_errors"])),
            "nearest": ("layer", difference.argmin(axis=1)),
            "layer_risk": ("layer", _finite_or_infinite(mean["row_errors"])),
            "iterate_risk": ("iterate", _finite_or_infinite(mean["column_errors"])),
        },
        {"layer": np.arange(difference.shape[0]), "iterate": np.arange(difference.shape[1])},
    )


def _finite_or_infinite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.inf)


def _cosine(product: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Products over lengths; 1 where both lengths are 0, and 0 where one is, or something is not finite."""
    lengths = np.sqrt(np.multiply.outer(np.nan_to_num(rows, posinf=0), np.nan_to_num(columns, posinf=0)))
    defined = np.isfinite(product) & (lengths > 0)
    cosine = np.where(defined, product, 0) / np.where(defined, lengths, 1)
    return np.where(np.logical_and.outer(rows == 0, columns == 0), 1.0, np.clip(cosine, -1, 1))
