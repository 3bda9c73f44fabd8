"""Similarity by depth: which iterate of one learner the layers of another are nearest to."""

from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Key

from mesalens.checks import count
from mesalens.learners import AnyLearner
from mesalens.learners.base import predict_iterates
from mesalens.simulation import Estimate, expectation
from mesalens.tasks import Task


def similarity(
    first: AnyLearner,
    second: AnyLearner,
    task: Task,
    key: Key[Array, ""],
    *,
    prompts: int = 10_000,
) -> xr.Dataset:
    """How similar the predictions of two learners are: layers l of one, iterates k of the other.

    Each measure is a ratio of means over the same fresh prompts. With the error `e = ŷ - y`:

        difference     E‖ŷ_l - ŷ_k‖² / E‖y‖²                (0 where they agree)
        cosine         E⟨ŷ_l, ŷ_k⟩ / (E‖ŷ_l‖² E‖ŷ_k‖²)^½    (1 where they agree up to scale)
        error_cosine   E⟨e_l, e_k⟩ / (E‖e_l‖² E‖e_k‖²)^½

    `E‖y‖²` is the risk of predicting 0. It is the unit because `E‖ŷ - ŷ*‖²` is the excess risk of
    ŷ if ŷ* is the best predictor.

    Layer 0 and iterate 0 are before the first. They mostly predict 0, which has no direction: a
    cosine is 1 where both vanish on all prompts, and 0 where one does, or overflows. A prediction
    that is not finite is infinitely far from every other. A learner that does not answer in steps
    has one iterate, its prediction.

    Returns:
        `difference`, `difference_standard_error` (of the mean in the numerator), `cosine` and
        `error_cosine` over (layer, iterate); `nearest`, the iterate with the smallest difference
        from each layer; `layer_risk` and `iterate_risk`, E‖e_l‖² and E‖e_k‖².

    Source: the cosine of errors is that of Fu et al. (2023), arXiv 2310.17086, with prompts in
    place of the positions of a sequence.
    """
    return similarities(first, {"second": second}, task, key, prompts=prompts)["second"]


def similarities(
    model: AnyLearner,
    candidates: Mapping[str, AnyLearner],
    task: Task,
    key: Key[Array, ""],
    *,
    prompts: int = 10_000,
) -> dict[str, xr.Dataset]:
    """The `similarity` of a model with each of several learners, all on the same prompts.

    Raises:
        ValueError: if there is no candidate.
    """
    count("the number of candidates", len(candidates))
    moments = _moments(model, dict(candidates), task, key, prompts)
    # In the order given: compiled programs return names in alphabetical order
    return {name: _dataset(moments[name]) for name in candidates}


def nearest_learners(alike: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Which of several learners, at which iterate, each layer of a model is nearest to.

    Args:
        alike: the `similarities` of the model with the learners.

    Returns:
        Over (learner, layer) `iterate`, the learner's nearest to the layer, with its `difference`,
        `difference_standard_error` and `cosine`. Over layer `nearest`, the name of the learner with
        the smallest difference, the first of them where several have it.
    """
    measures = ["difference", "difference_standard_error", "cosine"]
    rows: list[xr.Dataset] = []
    for table in alike.values():
        chosen = table[measures].sel(iterate=table.nearest).drop_vars("iterate")
        rows.append(chosen.assign(iterate=table.nearest))
    table = xr.concat(rows, dim=xr.DataArray(list(alike), dims="learner", name="learner"))
    return table.assign(
        nearest=table.learner[table.difference.argmin("learner")].drop_vars("learner")
    )


@eqx.filter_jit
def _moments(
    first: AnyLearner, others: dict[str, AnyLearner], task: Task, key: Key[Array, ""], prompts: int
) -> dict[str, dict[str, Estimate]]:
    """The means that the measures are made of, for each of the others."""

    def statistic(prompt, target):
        rows = predict_iterates(first, prompt)
        columns = {name: predict_iterates(other, prompt) for name, other in others.items()}
        return {name: terms(rows, columns[name], target) for name in others}

    def terms(rows, columns, target):
        row_errors, column_errors = rows - target, columns - target
        return {
            "product": rows @ columns.T,
            "error_product": row_errors @ column_errors.T,
            # Not from the products, which would cancel where the two nearly agree
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
    cosine = _cosine(mean["product"], mean["rows"], mean["columns"])
    error_cosine = _cosine(mean["error_product"], mean["row_errors"], mean["column_errors"])
    return xr.Dataset(
        {
            "difference": (both, difference),
            "difference_standard_error": (both, _finite_or_infinite(error / mean["target"])),
            "cosine": (both, cosine),
            "error_cosine": (both, error_cosine),
            "nearest": ("layer", difference.argmin(axis=1)),
            "layer_risk": ("layer", _finite_or_infinite(mean["row_errors"])),
            "iterate_risk": ("iterate", _finite_or_infinite(mean["column_errors"])),
        },
        {"layer": np.arange(difference.shape[0]), "iterate": np.arange(difference.shape[1])},
    )


def _finite_or_infinite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.inf)


def _cosine(product: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Products over lengths; 1 where both are 0, and 0 where one is, or one is not finite."""
    squares = np.multiply.outer(np.nan_to_num(rows, posinf=0), np.nan_to_num(columns, posinf=0))
    lengths = np.sqrt(squares)
    defined = np.isfinite(product) & (lengths > 0)
    cosine = np.where(defined, product, 0) / np.where(defined, lengths, 1)
    both_vanish = np.logical_and.outer(rows == 0, columns == 0)
    return np.where(both_vanish, 1.0, np.clip(cosine, -1, 1))
