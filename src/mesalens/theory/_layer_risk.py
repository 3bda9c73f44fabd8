"""The exact risk of any layer of linear self-attention, as a function of its weights."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens._precision import in_precision
from mesalens.checks import InputError
from mesalens.models import LinearTransformer
from mesalens.tasks import Task
from mesalens.theory._task_moments import task_moments
from mesalens.theory.moments import ContextMoments
from mesalens.theory.symmetric import bilinear


def population_risk(layer: LinearTransformer, moments: ContextMoments) -> Float[Array, ""]:
    r"""The risk E‖ŷ - y_query‖² of one layer, a differentiable polynomial in its weights.

    With `b_hk` the row of `B_h` that writes to output k, `A_h` the columns that read the query
    `e_q = (x_q, -W_0 x_q)`, and `Γ_k = -Σ_h sym(b_hk ⊗ A_h)`, the prediction is
    `ŷ_k = (W_0 x_q)_k + Γ_k · (S ⊗ x_q)`, and, in the notation of
    [`ContextMoments`][mesalens.theory.ContextMoments],

    $$\begin{aligned} R = & \; E\|y_q - W_0 x_q\|^2
    - 2 \sum_k \Gamma_k \cdot (\text{cross} - \text{mean} \otimes E[z_q (W_0 x_q)^T])_k \\
    & + \sum_k \operatorname{tr}(\Gamma_k^T \, \text{second} \, \Gamma_k \, \text{query}).
    \end{aligned}$$

    The last term has `joint` in place of `second ⊗ query` if there is one.

    It has the precision of the weights: give them in float64, inside `jax.enable_x64(True)`, where
    small differences matter.

    Args:
        layer: One layer, with any number of heads.
        moments: The moments of the task.

    Returns:
        The risk, of shape ().

    Raises:
        ValueError: If there is more than one layer, or sizes differ from those of the task.
    """
    d, m = moments.inputs.shape[0], moments.outputs
    if layer.layers != 1 or (layer.dim, layer.outputs) != (d, m):
        raise InputError(
            f"layer must have layers=1, dim={d} and outputs={m} for the exact risk on this task; "
            f"got layers={layer.layers}, dim={layer.dim} and outputs={layer.outputs}."
        )
    A, B = (matrices[0] for matrices in layer.effective())

    def cast(values) -> Array:
        return jnp.asarray(values, A.dtype)

    inputs, query, cross = cast(moments.inputs), cast(moments.query), cast(moments.cross)
    read, null = A[:, :, :d] @ inputs, cast(moments.null_risk)
    if layer.start is not None:
        start = layer.start @ inputs
        read = read - A[:, :, d:] @ start
        null = null - 2 * jnp.sum(start.T * cast(moments.target))
        null = null + jnp.sum((start @ query) * start)
        if moments.joint is None:
            cross = cross - jnp.multiply.outer(cast(moments.mean), query @ start.T)
        else:
            cross = cross - cast(moments.joint.mean) @ start.T
    # In the coordinates z: x = R z, so S = T S_z T^T with T = diag(R, I)
    T = jax.scipy.linalg.block_diag(inputs, jnp.eye(m, dtype=A.dtype))
    rows, columns = B[:, d:] @ T, (T.T @ read).swapaxes(1, 2)
    gamma = -jnp.moveaxis(jnp.sum(bilinear(rows[:, None], columns[:, :, None]), axis=0), -1, 0)
    if moments.joint is None:
        explained = jnp.einsum("pq,qrk,rs->psk", cast(moments.second), gamma, query)
    else:
        explained = jnp.einsum("prqs,qsk->prk", cast(moments.joint.second), gamma)
    return null + jnp.sum(gamma * (explained - 2 * cross))


def layer_risk(layer: LinearTransformer, moments: ContextMoments | Task) -> float:
    """The exact risk E‖ŷ - y_query‖² of one layer, in float64.

    Args:
        layer: One layer of linear self-attention.
        moments: The task on which it is measured, or its `task_moments`, which are worth keeping
            for several layers.

    Returns:
        `population_risk` as a number.

    Raises:
        ValueError: As `population_risk`.

    Examples:
        >>> from mesalens import tasks, theory
        >>> task = tasks.RegressionTask(
        ...     tasks.Gaussian(5), tasks.LinearFunctions(5), context_length=14
        ... )
        >>> best = theory.optimal_layer(task)
        >>> print(f"{theory.layer_risk(best.layer(), task):.6f}")
        1.500000
    """
    moments = task_moments(moments) if isinstance(moments, Task) else moments
    with jax.enable_x64(True):
        return float(population_risk(in_precision(layer, jnp.float64), moments))


def layer_risks(layers: LinearTransformer, moments: ContextMoments) -> Float[np.ndarray, " seeds"]:
    """The exact risks of several layers, in float64.

    Args:
        layers: One layer of linear self-attention for each seed, on a leading axis, as in
            `Training.learners`.
        moments: The moments of the task.

    Returns:
        `layer_risk` of each layer, of shape (seeds,).
    """
    with jax.enable_x64(True):
        risks = eqx.filter_vmap(lambda layer: population_risk(layer, moments))
        return np.asarray(eqx.filter_jit(risks)(in_precision(layers, jnp.float64)))


def distances(
    layers: LinearTransformer, others: LinearTransformer, moments: ContextMoments
) -> Float[np.ndarray, " seeds"]:
    """The relative distances E‖ŷ - ŷ'‖² / E‖ŷ‖² of pairs of layers, exactly.

    The difference of two layers from W_0 = 0 is a layer with the heads of both, and its second
    moment is its risk where every target is 0.

    Args:
        layers: One layer of linear self-attention for each seed, on a leading axis.
        others: As many layers.
        moments: The moments of the task.

    Returns:
        The distance of each pair, of shape (seeds,).

    Raises:
        ValueError: If layers have initial weights; otherwise as `population_risk`.
    """
    if layers.start is not None or others.start is not None:
        raise InputError("initial_weights must be None in all layers to compare.")
    no_targets = dataclasses.replace(
        moments, target=0 * moments.target, cross=0 * moments.cross, null_risk=0.0, replicates=()
    )

    with jax.enable_x64(True):
        layers, others = in_precision((layers, others), jnp.float64)
        return np.asarray(_relative_distances(layers, others, no_targets))


@eqx.filter_jit
def _relative_distances(
    layers: LinearTransformer, others: LinearTransformer, no_targets: ContextMoments
) -> Float[Array, " seeds"]:
    """E‖ŷ - ŷ'‖² / E‖ŷ‖² of pairs; compiled once for all tasks and pairs of the same sizes."""

    def ratio(layer, other):
        (A, B), (other_A, other_B) = layer.effective(), other.effective()
        heads = jnp.concatenate([A, other_A], axis=1), jnp.concatenate([B, -other_B], axis=1)
        difference = LinearTransformer.from_effective(*heads, layers=1, outputs=layer.outputs)
        return population_risk(difference, no_targets) / population_risk(layer, no_targets)

    return eqx.filter_vmap(ratio)(layers, others)
