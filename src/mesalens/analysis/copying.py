"""Copying: whether the first layer puts each y beside its x, as an induction-like head does."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mesalens.checks import InputError
from mesalens.models import Interleaved, Transformer
from mesalens.prompt import Prompt
from mesalens.simulation import Estimate, expectation
from mesalens.tasks import Task


class Copying(eqx.Module):
    """What the rows of x_1, …, x_n have, after the first layer, from the tokens of the context.

    With `J_ji = ‖∂h_j / ∂e_i‖_F`, the sensitivity of row j after the layer to token i, means over prompts and over the rows j of x:

        own        J_jj
        next       J_j,j+1, the token of the y that belongs to the x
        other      mean of J_ji over all other tokens i of the context
        attention  the weight with which row j attends to token j + 1, summed over heads

    Source: von Oswald et al. (2023), Section 5 and Figure 6 (sensitivities; means over all rows there).
    """

    own: Estimate
    next: Estimate
    other: Estimate
    attention: Estimate


def copying_at(model: Transformer, prompt: Prompt) -> dict[str, Float[Array, ""]]:
    """The terms of which the measures in `Copying` are means, at one prompt.

    Raises `ValueError` where x and y are in one token, the prompt is condensed or of another d or m than the model, or layers differ in
    their number of heads.
    """
    if not isinstance(model.tokens, Interleaved):
        raise InputError(
            f"{type(model.tokens).__name__} tokens have x and y together, so that nothing is to be copied; give a model of Interleaved tokens."
        )
    of_x = jnp.arange(0, 2 * prompt.context_length, 2)
    J = model.sensitivities(prompt)[of_x, :-1]
    own, following = J[jnp.arange(len(of_x)), of_x], J[jnp.arange(len(of_x)), of_x + 1]
    weights = model.attention_weights(prompt)[0].sum(0)
    return {
        "own": own.mean(),
        "next": following.mean(),
        "other": ((J.sum(1) - own - following) / max(J.shape[1] - 2, 1)).mean(),
        "attention": weights[of_x, of_x + 1].mean(),
    }


@eqx.filter_jit
def copying(model: Transformer, task: Task, key: Key[Array, ""], *, prompts: int = 256) -> Copying:
    """Whether the first layer copies, by simulation; see `Copying`. Raises `ValueError` as `copying_at` does."""
    return Copying(**expectation(lambda prompt, _: copying_at(model, prompt), task, key, prompts=prompts, chunk=64))


def attention_maps(
    model: Transformer, task: Task, key: Key[Array, ""], *, prompts: int = 2048
) -> Float[Array, "layers H rows seen"]:
    """E[a], the mean over prompts of how each row weights those that it sees, in every layer and head.

    Raises `ValueError` where prompts are condensed or of another d or m than the model, or layers differ in their number of heads.
    """
    return eqx.filter_jit(expectation)(
        lambda prompt, _: model.attention_weights(prompt), task, key, prompts=prompts
    ).value
