"""Similarity by depth: which iterate of one learner the layers of another are nearest to."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Key

from mesalens.analysis._compiled import compiled_expectation
from mesalens.checks import count
from mesalens.learners import AnyLearner
from mesalens.learners.base import predict_iterates
from mesalens.tasks import Task


def similarity(
    first: AnyLearner, second: AnyLearner, task: Task, key: Key[Array, ""], *, prompts: int = 10_000
) -> xr.Dataset:
    """How similar the predictions of two learners are: layers l of one, iterates k of the other.

    Each measure is a ratio of means over the same fresh prompts. With the error `e = ŷ - y`:

    | measure | definition | |
    | --- | --- | --- |
    | `difference` | `E‖ŷ_l - ŷ_k‖² / E‖y‖²` | 0 if they agree |
    | `cosine` | `E⟨ŷ_l, ŷ_k⟩ / (E‖ŷ_l‖² E‖ŷ_k‖²)^½` | 1 if they agree up to scale |
    | `error_cosine` | `E⟨e_l, e_k⟩ / (E‖e_l‖² E‖e_k‖²)^½` | |

    `E‖y‖²` is the risk of predicting 0. It is the unit because `E‖ŷ - ŷ*‖²` is the excess risk of
    ŷ if ŷ* is the best predictor.

    Layer 0 and iterate 0 are the predictions before the first layer and step. They are usually 0,
    which has no direction: a cosine is 1 if both vanish on all prompts, and 0 if one does, or
    overflows. A prediction that is not finite is infinitely far from every other. A learner that
    does not work in steps has one iterate, its prediction.

    Args:
        first: A learner, whose iterates are called layers.
        second: Another one.
        task: The distribution of prompts.
        key: A random key.
        prompts: The number of prompts.

    Returns:
        A dataset of `difference`, `difference_standard_error` (of the mean in the numerator),
            `cosine` and `error_cosine` over (layer, iterate); of `nearest`, the iterate with the
            smallest difference from each layer; of `layer_risk` and `iterate_risk`, E‖e_l‖² and
            E‖e_k‖².

    Source: the cosine of errors is that of Fu et al. (2023), arXiv 2310.17086, with prompts in
    place of the positions of a sequence.

    Examples:
        Each layer of this transformer is a step of gradient descent:

        >>> from mesalens import GradientDescent, analysis, random, tasks, theory
        >>> task = tasks.RegressionTask(
        ...     tasks.Gaussian(3), tasks.LinearFunctions(3), context_length=10
        ... )
        >>> model = theory.gradient_descent_transformer(
        ...     GradientDescent(0.3, steps=3), dim=3, context_length=10
        ... )
        >>> descent = GradientDescent(0.3, steps=5)
        >>> table = analysis.similarity(model, descent, task, random.key(0), prompts=500)
        >>> print(table.nearest.values)
        [0 1 2 3]
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

    Args:
        model: A learner, whose iterates are called layers.
        candidates: Learners by name.
        task: The distribution of prompts.
        key: A random key.
        prompts: The number of prompts.

    Returns:
        The dataset of [`similarity`][mesalens.analysis.similarity] for each name.

    Raises:
        ValueError: If there is no candidate.
    """
    count("the number of candidates", len(candidates))
    terms = eqx.Partial(_moments, model, dict(candidates))
    moments = compiled_expectation(terms, task, key, prompts=prompts)
    # In the order given: compiled programs return names in alphabetical order
    return {name: _dataset(moments[name]) for name in candidates}


def nearest_learners(alike: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Which of several learners, at which iterate, is nearest to each layer of a model.

    Args:
        alike: The `similarities` of the model with the learners.

    Returns:
        A dataset. Over (learner, layer): `iterate`, the learner's nearest to the layer, with its
            `difference`, `difference_standard_error` and `cosine`. Over layer: `nearest`, the name
            of the learner with the smallest difference, the first of them if several have it.
    """
    measures = ["difference", "difference_standard_error", "cosine"]
    rows = [
        table[measures].sel(iterate=table.nearest).reset_coords("iterate")
        for table in alike.values()
    ]
    table = xr.concat(rows, dim=xr.DataArray(list(alike), dims="learner", name="learner"))
    return table.assign(nearest=table.difference.idxmin("learner").astype(str))


def _moments(model, candidates, prompt, target):
    """The terms whose means the measures are made of, for each of the candidates."""
    rows = predict_iterates(model, prompt)

    def terms(columns):
        return {
            "predictions": _products(rows, columns),
            "errors": _products(rows - target, columns - target),
            # Not from the products, which would cancel where the two nearly agree
            "distance": jnp.sum((rows[:, None] - columns) ** 2, axis=-1),
            "target": jnp.sum(target**2),
        }

    return {name: terms(predict_iterates(each, prompt)) for name, each in candidates.items()}


def _products(rows, columns):
    """Each row times each column, and the squares of both."""
    return rows @ columns.T, jnp.sum(rows**2, axis=-1), jnp.sum(columns**2, axis=-1)


def _dataset(moments: dict[str, Any]) -> xr.Dataset:
    moments = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), moments)
    distance, unit = moments["distance"], moments["target"].value
    predictions = [each.value for each in moments["predictions"]]
    errors = [each.value for each in moments["errors"]]
    both = ("layer", "iterate")
    _, layer_risk, iterate_risk = errors
    table = xr.Dataset(
        {
            "difference": (both, distance.value / unit),
            "difference_standard_error": (both, distance.standard_error / unit),
            "cosine": (both, _cosine(*predictions)),
            "error_cosine": (both, _cosine(*errors)),
            "layer_risk": ("layer", layer_risk),
            "iterate_risk": ("iterate", iterate_risk),
        },
        {"layer": np.arange(len(layer_risk)), "iterate": np.arange(len(iterate_risk))},
    ).fillna(np.inf)
    return table.assign(nearest=table.difference.argmin("iterate"))


def _cosine(product: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Products over lengths; 1 where both are 0, and 0 where one is, or one is not finite."""
    with np.errstate(all="ignore"):
        cosine = product / np.sqrt(np.multiply.outer(rows, columns))
    cosine = np.where(np.isfinite(cosine), np.clip(cosine, -1, 1), 0)
    return np.where(np.logical_and.outer(rows == 0, columns == 0), 1.0, cosine)
