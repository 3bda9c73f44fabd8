"""The weights with which linear self-attention is gradient descent."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mesalens.checks import InputError, count
from mesalens.learners import GradientDescent
from mesalens.learners.descent import require_shape
from mesalens.models import LinearTransformer


def gradient_descent_transformer(
    learner: GradientDescent, *, dim: int, outputs: int = 1, context_length: int
) -> LinearTransformer:
    """The linear transformer whose k-th layer is the k-th step of the given gradient descent, for prompts of n examples.

        W_K = diag(I_d, 0),    W_Q = diag(P, 0),    W_V = [[0, 0], [W_0, -I_m]],    P_out = (η/n) I

    Layer k takes every label `y_j` to `y_j - ΔW_k x_j`, with `ΔW_k = W_{k+1} - W_k`: the labels become the residuals of the
    regression so far, and with the start `-W_0 x_q` of the query token the prediction is `W_k x_q` after k layers. Steps
    of one size make a looped transformer, steps of several sizes an unshared one.

    GD++ changes the covariates too: `W_V = diag(-I_d, -I_m)` and `P_out = diag(γ/n I_d, η/n I_m)`, so that a layer takes every `x_j`
    to `(I - γ/n Σ_i x_i x_i^T P) x_j`, the query's included. It has no such layers from a start W_0 other than zero, beyond one step:
    a later layer has `M_k x_i` and `y_i - (W_k - W_0) x_i` to read, and the residual `y_i - W_k x_i` needs `W_0 x_i`; the fixed
    weights A with `A M_k = W_0` for every context's M_k do not exist. Momentum has none either: no layer carries the step before.

    Raises `ValueError` for these two, where W_0 or P does not fit d and m, and for a context without examples.

    The paper states it for `P = I`; the preconditioner P of `GradientDescent` fits into the queries.

    Source: von Oswald et al. (2023), Proposition 1 and Appendix A.1; Appendix A.10 (GD++).
    """
    if learner.momentum is not None:
        raise InputError(
            "there is no such transformer with momentum, as no layer carries the step before; leave momentum out."
        )
    corrections = learner.data_correction
    if corrections is not None and learner.initial_weights is not None and learner.steps > 1:
        raise InputError(
            "there is no such transformer for GD++ from initial weights, as the changed covariates do not give W_0 x_i back; "
            "leave initial_weights or data_correction out."
        )
    for name, size in (("dim", dim), ("outputs", outputs), ("context_length", context_length)):
        count(name, size)
    for name, matrix, shape in (
        ("initial_weights", learner.initial_weights, (outputs, dim)),
        ("the preconditioner", learner.preconditioner, (dim, dim)),
    ):
        if matrix is not None:
            require_shape(name, matrix, shape)
    start = learner.initial_weights
    dtype = jnp.result_type(float) if start is None else start.dtype
    start_weights = jnp.zeros((outputs, dim), dtype) if start is None else start
    preconditioner = jnp.eye(dim, dtype=dtype) if learner.preconditioner is None else learner.preconditioner

    width = dim + outputs
    zeros = jnp.zeros((width, width), dtype)
    W_K = zeros.at[:dim, :dim].set(jnp.eye(dim, dtype=dtype))
    W_Q = zeros.at[:dim, :dim].set(preconditioner)
    W_V = zeros.at[dim:, :dim].set(start_weights).at[dim:, dim:].set(-jnp.eye(outputs, dtype=dtype))
    if corrections is None:
        corrections = learner.step_size
    else:
        W_V = W_V.at[:dim, :dim].set(-jnp.eye(dim, dtype=dtype))

    step_sizes, corrections = jnp.broadcast_arrays(*(jnp.atleast_1d(rate) for rate in (learner.step_size, corrections)))
    rates = jnp.concatenate([jnp.repeat(corrections[:, None], dim, 1), jnp.repeat(step_sizes[:, None], outputs, 1)], 1)
    P = rates[:, :, None] / context_length * jnp.eye(width, dtype=dtype)

    def stored(matrix: Float[Array, "D D"]) -> Float[Array, "stored 1 D D"]:
        return jnp.broadcast_to(matrix, (len(rates), 1, width, width))

    return LinearTransformer(
        W_Q=stored(W_Q),
        W_K=stored(W_K),
        W_V=stored(W_V),
        P=P[:, None],
        layers=learner.steps,
        outputs=outputs,
        initial_weights=start,
    )
