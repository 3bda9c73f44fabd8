"""Alignment: how alike two learners are, prompt by prompt."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.analysis.risk import AnyLearner
from mesalens.prompt import Prompt
from mesalens.simulation import Estimate, expectation
from mesalens.tasks import Task


class Alignment(eqx.Module):
    """Three measures of how alike a learner and a reference are, each a mean over prompts.

    With `J = ∂ŷ/∂x_query`, an m × d matrix, the sensitivity of a prediction to its query:

        prediction_difference   E‖ŷ - ŷ_ref‖                  (0 where they agree)
        sensitivity_cosine      E[⟨J, J_ref⟩ / (‖J‖ ‖J_ref‖)]   (1 where they agree up to scale; 0 where one vanishes)
        sensitivity_difference  E‖J - J_ref‖_F                (0 where they agree)

    and `reference_prediction` E‖ŷ_ref‖, `reference_sensitivity` E‖J_ref‖_F, their natural units.

    Source: von Oswald et al. (2023), Section 3 and Figure 2.
    """

    prediction_difference: Estimate
    sensitivity_cosine: Estimate
    sensitivity_difference: Estimate
    reference_prediction: Estimate
    reference_sensitivity: Estimate


def sensitivity(learner: AnyLearner, prompt: Prompt) -> Float[Array, "m d"]:
    """∂ŷ/∂x_query at one prompt."""
    return jax.jacrev(lambda query: learner(dataclasses.replace(prompt, query=query)))(prompt.query)


def alignment_at(learner: AnyLearner, reference: AnyLearner, prompt: Prompt) -> dict[str, Float[Array, ""]]:
    """The terms of which the measures in `Alignment` are means, at one prompt."""
    prediction, expected = learner(prompt), reference(prompt)
    J, J_ref = sensitivity(learner, prompt), sensitivity(reference, prompt)
    lengths = jnp.linalg.norm(J) * jnp.linalg.norm(J_ref)
    return {
        "prediction_difference": jnp.linalg.norm(prediction - expected),
        "sensitivity_cosine": jnp.where(lengths > 0, jnp.sum(J * J_ref) / jnp.where(lengths > 0, lengths, 1), 0),
        "sensitivity_difference": jnp.linalg.norm(J - J_ref),
        "reference_prediction": jnp.linalg.norm(expected),
        "reference_sensitivity": jnp.linalg.norm(J_ref),
    }


@eqx.filter_jit
def alignment(
    learner: AnyLearner, reference: AnyLearner, task: Task, key: Key[Array, ""], *, prompts: int = 10_000
) -> Alignment:
    """How alike two learners are on the task, by simulation; see `Alignment`."""
    means = expectation(lambda prompt, _: alignment_at(learner, reference, prompt), task, key, prompts=prompts)
    return Alignment(**means)
