"""Second derivatives of a loss by the weights that training changes."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from mesalens.learners import Learner

Loss = Callable[[Any], Float[Array, ""]]
"""A loss of a learner, twice differentiable in it."""


def robust_condition_number(loss: Loss, learner: Learner) -> Float[Array, ""]:
    """A robust condition number of the Hessian H of a loss.

    It is `max_i |H_ii| / median_i |H_ii|`. H is the Hessian with respect to the trained weights.
    Its diagonal is exact: one product of H with each unit vector. Weights without effect have H_ii
    = 0 and count in the median.

    Args:
        loss: A loss of a learner, twice differentiable.
        learner: The learner at which it is evaluated.

    Returns:
        The number, of shape ().

    Source: the code of Ahn et al. (2024), arXiv 2310.01082.
    """
    function, weights = at_weights(loss, learner)
    units = jnp.eye(weights.size, dtype=weights.dtype)
    # In batches: all products at once would need the memory of as many batches of prompts
    diagonal = jax.lax.map(lambda u: _along(u, function, weights), units, batch_size=16)
    return jnp.abs(diagonal).max() / jnp.median(jnp.abs(diagonal))


def directional_smoothness(loss: Loss, before: Learner, after: Learner) -> Float[Array, ""]:
    """The curvature `u^T ∇²L(w) u` of a loss along a step from w to w', u = (w' - w) / ‖w' - w‖.

    w are the trained weights. For a quadratic loss it is ⟨∇L(w') - ∇L(w), w' - w⟩ / ‖w' - w‖². It
    is NaN for a step of length 0.

    Args:
        loss: A loss L of a learner, twice differentiable.
        before: The learner before the step.
        after: The learner after the step.

    Returns:
        The curvature, of shape ().

    Source: the code of Ahn et al. (2024), arXiv 2310.01082.
    """
    function, weights = at_weights(loss, before)
    step = at_weights(loss, after)[1] - weights
    return _along(step / jnp.linalg.norm(step), function, weights)


def at_weights(loss: Loss, learner: Learner) -> tuple[Loss, Float[Array, " weights"]]:
    """The loss as a function of all trained weights in one vector, and the vector."""
    trained, rest = eqx.partition(learner, learner.trainable())
    weights, as_learner = ravel_pytree(trained)
    return lambda vector: loss(eqx.combine(as_learner(vector), rest)), weights


def _along(u: Float[Array, " weights"], function: Loss, weights: Float[Array, " weights"]):
    # Twice backwards: models may have derivatives of their own, which JAX cannot take forwards
    return u @ jax.grad(lambda vector: u @ jax.grad(function)(vector))(weights)
