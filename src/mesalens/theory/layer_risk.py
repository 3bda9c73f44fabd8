"""The exact risk of any layer of linear self-attention, as a function of its weights."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens.checks import InputError
from mesalens.models import LinearTransformer
from mesalens.theory.moments import ContextMoments
from mesalens.theory.symmetric import bilinear


def population_risk(layer: LinearTransformer, moments: ContextMoments) -> Float[Array, ""]:
    """E‖ŷ - y_query‖² of one layer with any number of heads, a differentiable polynomial of degree 8 in its factors.

    With `b_hk` the row of `B_h` that writes to output k, `A_h` the columns that read the query `e_q = (x_q, -W_0 x_q)`, and
    `Γ_k = -Σ_h sym(b_hk ⊗ A_h)`, the prediction is `ŷ_k = (W_0 x_q)_k + Γ_k · (S ⊗ x_q)`, and, in the notation of `ContextMoments`,

        R = E‖y_q - W_0 x_q‖² - 2 Σ_k Γ_k · (cross - mean ⊗ E[z_q (W_0 x_q)^T])_k + Σ_k tr(Γ_k^T second Γ_k query).

    It has the precision of the weights: give them in float64, inside `jax.enable_x64(True)`, where small differences matter.

    Raises `ValueError` for more than one layer, or another size than the task's.
    """
    d, m = moments.inputs.shape[0], moments.outputs
    if layer.layers != 1 or (layer.dim, layer.outputs) != (d, m):
        raise InputError(
            f"the transformer has {layer.layers} layers, d = {layer.dim}, m = {layer.outputs}; the exact risk is known for one "
            f"layer, and this task has d = {d}, m = {m}."
        )
    A, B = (matrices[0] for matrices in layer.effective())
    inputs = jnp.asarray(moments.inputs, A.dtype)
    # In the coordinates z: x = R z, so S = T S_z T^T with T = diag(R, I)
    T = jax.scipy.linalg.block_diag(inputs, jnp.eye(m, dtype=A.dtype))
    start = None if layer.initial_weights is None else layer.initial_weights @ inputs
    read = A[:, :, :d] @ inputs
    if start is not None:
        read = read - A[:, :, d:] @ start
    rows, columns = B[:, d:] @ T, (T.T @ read).swapaxes(1, 2)
    gamma = -jnp.moveaxis(jnp.sum(bilinear(rows[:, None], columns[:, :, None]), axis=0), -1, 0)

    second, query = jnp.asarray(moments.second, A.dtype), jnp.asarray(moments.query, A.dtype)
    cross, null = jnp.asarray(moments.cross, A.dtype), jnp.asarray(moments.null_risk, A.dtype)
    if start is not None:
        target = jnp.asarray(moments.target, A.dtype)
        null = null - 2 * jnp.sum(start.T * target) + jnp.sum((start @ query) * start)
        cross = cross - jnp.multiply.outer(jnp.asarray(moments.mean, A.dtype), query @ start.T)
    explained = jnp.einsum("pq,qrk,rs->psk", second, gamma, query)
    return null + jnp.sum(gamma * (explained - 2 * cross))


def layer_risk(layer: LinearTransformer, moments: ContextMoments) -> float:
    """`population_risk` in float64, as a number."""
    with jax.enable_x64(True):
        in_double = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), layer)
        return float(population_risk(in_double, moments))


def layer_risks(layers: LinearTransformer, moments: ContextMoments) -> Float[np.ndarray, " seeds"]:
    """`layer_risk` of every layer in a pytree with a leading axis, as training leaves it."""
    with jax.enable_x64(True):
        in_double = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), layers)
        return np.asarray(eqx.filter_jit(eqx.filter_vmap(lambda layer: population_risk(layer, moments)))(in_double))


def distances(
    layers: LinearTransformer, others: LinearTransformer, moments: ContextMoments
) -> Float[np.ndarray, " seeds"]:
    """E‖ŷ - ŷ'‖² / E‖ŷ‖² for each layer and its partner in another such pytree, exactly.

    The difference of two layers is a layer with the heads of both, and its second moment its risk where every target is 0.
    """
    nothing = dataclasses.replace(
        moments, target=0 * moments.target, cross=0 * moments.cross, null_risk=0.0, replicates=()
    )
    negative = eqx.tree_at(lambda layer: layer.P, others, -np.asarray(others.P))
    difference = jax.tree.map(
        lambda one, other: np.concatenate([one, other], axis=2), layers, negative
    )  # on the axis of heads
    return layer_risks(difference, nothing) / layer_risks(layers, nothing)
