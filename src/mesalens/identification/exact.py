"""Exact distances of candidates from one layer of linear self-attention, computed from moments."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mesalens._precision import in_precision
from mesalens.identification.fit import Fitted
from mesalens.learners import GradientDescent
from mesalens.models import LinearTransformer
from mesalens.tasks import RegressionTask, Task
from mesalens.theory import ContextMoments, has_exact_moments, population_risk, task_moments


def exact_distances(learner: Any, task: Task, fits: Mapping[str, Fitted]) -> dict[str, float]:
    """The exact distances on the task of those candidates that are layers themselves, by name.

    A layer from W_0 = 0 predicts `ŷ_k = Γ_k · (S ⊗ x_q)`. A preconditioned step of descent is such
    a layer, and the difference of two layers is a layer with the heads of both. Its mean square is
    its risk if all targets are 0, and what the context explains is

        V = Σ_k tr(Γ_k^T (second - mean mean^T) Γ_k query),

    in the notation of `ContextMoments`. The result is empty for other learners, or if the moments
    of the task are unknown.
    """
    if not isinstance(learner, LinearTransformer) or learner.layers != 1:
        return {}
    if learner.start is not None or learner.activation_clip is not None:
        return {}
    if not isinstance(task, RegressionTask):
        return {}
    if not (has_exact_moments(task) and task.covariates.independent):
        return {}
    moments = task_moments(task)
    no_targets = dataclasses.replace(
        moments, target=0 * moments.target, cross=0 * moments.cross, null_risk=0.0, replicates=()
    )
    centred = dataclasses.replace(
        no_targets, second=moments.second - np.outer(moments.mean, moments.mean)
    )
    found: dict[str, float] = {}
    with jax.enable_x64(True):
        A, B = in_precision(learner, jnp.float64).effective()
        unit = _mean_square(A, B, learner.outputs, centred)
        for name, fitted in fits.items():
            algorithm = fitted.learner
            if not isinstance(algorithm, GradientDescent) or algorithm.steps != 1:
                continue
            if algorithm.initial_weights is not None:
                continue
            other_A, other_B = _as_layer(algorithm, learner.outputs, task)
            heads = jnp.concatenate([A, other_A], axis=1), jnp.concatenate([B, -other_B], axis=1)
            found[name] = max(_mean_square(*heads, learner.outputs, no_targets) / unit, 0.0)
    return found


def _as_layer(step: GradientDescent, outputs: int, task: Task) -> tuple[Any, Any]:
    """A and B, of shape (1, 1, D, D), of the layer that is a step of descent from zero.

    With `A = diag(P, 0)` and `B = diag(0, -η/n I)` the label of the query token becomes minus the
    prediction, `-η/n Σ_i y_i x_i^T P x_q`.
    """
    d, n = task.dim, task.context_length
    P = np.eye(d) if step.preconditioner is None else np.asarray(step.preconditioner, float)
    rate = float(np.ravel(np.asarray(step.step_size, float))[0])
    A, B = np.zeros((2, 1, 1, d + outputs, d + outputs))
    A[..., :d, :d] = P
    B[..., d:, d:] = -rate / n * np.eye(outputs)
    return jnp.asarray(A), jnp.asarray(B)


def _mean_square(A: Any, B: Any, outputs: int, moments: ContextMoments) -> float:
    layer = LinearTransformer.from_effective(A, B, layers=1, outputs=outputs)
    return float(population_risk(layer, moments))
