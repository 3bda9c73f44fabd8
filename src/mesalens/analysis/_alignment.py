"""Alignment: how similar two learners are, prompt by prompt."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.checks import InputError
from mesalens.learners import AnyLearner
from mesalens.learners.base import is_differentiable, predict
from mesalens.prompt import AnyPrompt
from mesalens.simulation import Estimate, expectation
from mesalens.tasks import Task


class Alignment(eqx.Module):
    """How similar a learner and a reference are: means over prompts.

    The sensitivity of a prediction to its query is the m × d matrix `J = ∂ŷ/∂x_query`.

    Attributes:
        prediction_difference: `E‖ŷ - ŷ_ref‖`, 0 if they agree.
        sensitivity_cosine: `E[⟨J, J_ref⟩ / (‖J‖ ‖J_ref‖)]`, 1 if they agree up to scale. The term
            of a prompt is 0 if one of the sensitivities is 0, and NaN if one is not finite.
        sensitivity_difference: `E‖J - J_ref‖_F`, 0 if they agree.
        reference_prediction: `E‖ŷ_ref‖`, the unit of `prediction_difference`.
        reference_sensitivity: `E‖J_ref‖_F`, the unit of `sensitivity_difference`.

    Source: von Oswald et al. (2023), Section 3 and Figure 2.
    """

    prediction_difference: Estimate
    sensitivity_cosine: Estimate
    sensitivity_difference: Estimate
    reference_prediction: Estimate
    reference_sensitivity: Estimate


def sensitivity(learner: AnyLearner, prompt: AnyPrompt) -> Float[Array, "m d"]:
    """The sensitivity J = ∂ŷ/∂x_query of a prediction to its query.

    Args:
        learner: A differentiable learner.
        prompt: One prompt.

    Returns:
        J, of shape (m, d).

    Raises:
        ValueError: If the learner is not differentiable.
    """
    if not is_differentiable(learner):
        raise InputError(
            f"a sensitivity needs a differentiable learner; {type(learner).__name__} is not."
        )

    def at(query):
        return predict(learner, dataclasses.replace(prompt, query=query))

    return jax.jacrev(at)(prompt.query)


def alignment_at(
    learner: AnyLearner, reference: AnyLearner, prompt: AnyPrompt
) -> dict[str, Float[Array, ""]]:
    """The terms at one prompt whose means are the measures in `Alignment`.

    Args:
        learner: A differentiable learner.
        reference: Another one.
        prompt: One prompt.

    Returns:
        The terms, by the names of the fields of [`Alignment`][mesalens.analysis.Alignment].

    Raises:
        ValueError: If one of the learners is not differentiable.
    """
    predictions = predict(learner, prompt), predict(reference, prompt)
    sensitivities = sensitivity(learner, prompt), sensitivity(reference, prompt)
    return alignment_terms(*predictions, *sensitivities)


def alignment_terms(prediction, expected, J, J_ref) -> dict[str, Float[Array, ""]]:
    """The terms in `alignment_at`; those of predictions alone if a sensitivity is None."""
    terms = {
        "prediction_difference": jnp.linalg.norm(prediction - expected),
        "reference_prediction": jnp.linalg.norm(expected),
    }
    if J is None or J_ref is None:
        return terms
    # The divisor is replaced before the division, so that gradients are finite, too
    lengths = jnp.linalg.norm(J) * jnp.linalg.norm(J_ref)
    return terms | {
        "sensitivity_cosine": jnp.sum(J * J_ref) / jnp.where(lengths == 0, 1, lengths),
        "sensitivity_difference": jnp.linalg.norm(J - J_ref),
        "reference_sensitivity": jnp.linalg.norm(J_ref),
    }


@eqx.filter_jit
def alignment(
    learner: AnyLearner,
    reference: AnyLearner,
    task: Task,
    key: Key[Array, ""],
    *,
    prompts: int = 10_000,
) -> Alignment:
    """How similar two differentiable learners are on a task, by simulation.

    Args:
        learner: A differentiable learner.
        reference: Another one.
        task: The distribution of prompts.
        key: A random key.
        prompts: The number of prompts.

    Returns:
        The measures with their standard errors.

    Raises:
        ValueError: If one of the learners is not differentiable;
            [`compare`][mesalens.analysis.compare] measures the rest.
    """

    def terms(prompt, _):
        return alignment_at(learner, reference, prompt)

    return Alignment(**expectation(terms, task, key, prompts=prompts))
