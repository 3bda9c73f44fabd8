"""Copying: whether the first layer copies each y to its x, as induction heads do."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.learners.base import require
from mesalens.models import Interleaved, Transformer
from mesalens.prompt import Prompt
from mesalens.simulation import Estimate, expectation
from mesalens.tasks import Task


class Copying(eqx.Module):
    """How much the rows of x_1, …, x_n depend on the context's tokens after the first layer.

    With `J_ji = ‖∂h_j / ∂e_i‖_F`, the sensitivity of row j after the layer to token i, the fields
    are means over prompts and over the rows j of x.

    Attributes:
        own: `J_jj`, the dependence on its own token.
        next: `J_j,j+1`, the dependence on the token of the y that belongs to the x.
        other: The mean of `J_ji` over all other tokens i of the context.
        attention: The attention weight of row j to token j + 1, summed over heads.

    Source: von Oswald et al. (2023), Section 5 and Figure 6 (sensitivities; means over all rows
    there).
    """

    own: Estimate
    next: Estimate
    other: Estimate
    attention: Estimate


def copying_at(model: Transformer, prompt: Prompt) -> dict[str, Float[Array, ""]]:
    """The terms at one prompt whose means are the measures in `Copying`.

    Args:
        model: A transformer that reads interleaved tokens.
        prompt: One prompt.

    Returns:
        The terms, by the names of the fields of [`Copying`][mesalens.analysis.Copying].

    Raises:
        ValueError: If the model is not a `Transformer` of `Interleaved` tokens, the prompt is
            condensed or has another d or m than the model, or layers have different numbers of
            heads.
    """
    require(model, Transformer, "copying")
    require(model.tokens, Interleaved, "copying")
    n = prompt.context_length
    J = model.sensitivities(prompt)[:-1:2, :-1]  # rows of x_1, …, x_n, context tokens
    own, following = jnp.diagonal(J.reshape(n, n, 2))
    weights = model.attention_weights(prompt)[0].sum(0)
    return {
        "own": own.mean(),
        "next": following.mean(),
        "other": ((J.sum(1) - own - following) / max(J.shape[1] - 2, 1)).mean(),
        "attention": jnp.diagonal(weights[:-1:2, 1::2]).mean(),
    }


@eqx.filter_jit
def copying(model: Transformer, task: Task, key: Key[Array, ""], *, prompts: int = 256) -> Copying:
    """How much the first layer of a transformer copies each y to its x, by simulation.

    Args:
        model: A transformer that reads interleaved tokens.
        task: The distribution of prompts.
        key: A random key.
        prompts: The number of prompts.

    Returns:
        The measures with their standard errors.

    Raises:
        ValueError: As `copying_at`.
    """

    def terms(prompt, _):
        return copying_at(model, prompt)

    return Copying(**expectation(terms, task, key, prompts=prompts, chunk=64))


@eqx.filter_jit
def attention_maps(
    model: Transformer, task: Task, key: Key[Array, ""], *, prompts: int = 2048
) -> Float[Array, "layers H rows seen"]:
    """The mean attention weights of each row, in every layer and head, by simulation.

    Args:
        model: A transformer.
        task: The distribution of prompts.
        key: A random key.
        prompts: The number of prompts.

    Returns:
        The mean weights, of shape (layers, heads, rows, seen rows).

    Raises:
        ValueError: If the model is not a `Transformer`, prompts are condensed or have another d or
            m than the model, or layers have different numbers of heads.
    """
    require(model, Transformer, "attention_maps")

    def weights(prompt, _):
        return model.attention_weights(prompt)

    return expectation(weights, task, key, prompts=prompts).value
