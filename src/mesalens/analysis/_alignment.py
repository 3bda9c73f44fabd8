"""Alignment: how similar two learners are, prompt by prompt."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.checks import InputError
from mesalens.display import InNotebook
from mesalens.learners import AnyLearner
from mesalens.learners.base import is_differentiable, predict
from mesalens.prompt import AnyPrompt
from mesalens.simulation import Estimate, expectation
from mesalens.tasks import Task


class Alignment(eqx.Module, InNotebook):
    """Three measures of how similar a learner and a reference are, each a mean over prompts.

    With `J = ∂ŷ/∂x_query`, an m × d matrix, the sensitivity of a prediction to its query:

        prediction_difference   E‖ŷ - ŷ_ref‖                  (0 where they agree)
        sensitivity_cosine      E[⟨J, J_ref⟩ / (‖J‖ ‖J_ref‖)]   (1 where they agree up to scale)
        sensitivity_difference  E‖J - J_ref‖_F                (0 where they agree)

    and their units, `reference_prediction` E‖ŷ_ref‖ and `reference_sensitivity` E‖J_ref‖_F. The
    cosine is 0 where one of the sensitivities is 0, and NaN where one is not finite.

    Source: von Oswald et al. (2023), Section 3 and Figure 2.
    """

    prediction_difference: Estimate
    sensitivity_cosine: Estimate
    sensitivity_difference: Estimate
    reference_prediction: Estimate
    reference_sensitivity: Estimate


def sensitivity(learner: AnyLearner, prompt: AnyPrompt) -> Float[Array, "m d"]:
    """∂ŷ/∂x_query at one prompt.

    Raises:
        ValueError: if the learner is not differentiable.
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
    """The terms at one prompt whose means are the measures in `Alignment`."""
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
    """How similar two learners are on the task, by simulation; see `Alignment`.

    Raises:
        ValueError: if one of the learners is not differentiable; `compare` measures the rest.
    """

    def terms(prompt, _):
        return alignment_at(learner, reference, prompt)

    return Alignment(**expectation(terms, task, key, prompts=prompts))
