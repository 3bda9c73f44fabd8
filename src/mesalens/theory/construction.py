"""The weights with which linear self-attention is gradient descent."""

from typing import Any

import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens.checks import InputError, count
from mesalens.learners import GradientDescent
from mesalens.learners.descent import Descent, require_shape
from mesalens.models import Factors, LinearTransformer


def gradient_descent_transformer(
    learner: GradientDescent, *, dim: int, outputs: int = 1, context_length: int
) -> LinearTransformer:
    r"""The linear transformer whose k-th layer is the k-th step of gradient descent.

    $$W_K = \operatorname{diag}(I_d, 0), \quad W_Q = \operatorname{diag}(P, 0), \quad
    W_V = \begin{pmatrix} 0 & 0 \\ W_0 & -I_m \end{pmatrix}, \quad
    P_\text{out} = \frac{\eta}{n} I$$

    Layer k takes every label `y_j` to `y_j - ΔW_k x_j`, with `ΔW_k = W_{k+1} - W_k`: the labels
    become the residuals of the regression so far, and with the start `-W_0 x_q` of the query token
    the prediction after k layers is `W_k x_q`. Steps of the same size make a looped transformer.

    GD++ changes the covariates too: with `W_V = diag(-I_d, -I_m)` and `P_out = diag(γ/n I_d, η/n
    I_m)` a layer takes every `x_j`, the query included, to `(I - γ/n Σ_i x_i x_i^T P) x_j`. From a
    W_0 other than zero no layers do this beyond one step: a later layer reads `M_k x_i` and `y_i -
    (W_k - W_0) x_i`, and the residual `y_i - W_k x_i` needs `W_0 x_i`; fixed weights A with `A M_k
    = W_0` for the M_k of every context do not exist. There is no construction for momentum either,
    as no layer carries the previous step.

    The paper states it for `P = I`. The preconditioner P of `GradientDescent` goes into the
    queries.

    Args:
        learner: The gradient descent.
        dim: d, the number of entries of a covariate.
        outputs: m, the number of entries of a label.
        context_length: n, the number of examples of the prompts.

    Returns:
        The transformer, with as many layers as there are steps.

    Raises:
        ValueError: If there is momentum, or several steps of GD++ from a W_0; if W_0 or P does not
            match d and m; and if a size is below 1.

    Source: von Oswald et al. (2023), Proposition 1 and Appendix A.1; Appendix A.10 (GD++).

    Examples:
        >>> from mesalens import GradientDescent, Prompt, theory
        >>> descent = GradientDescent(0.2, steps=3)
        >>> model = theory.gradient_descent_transformer(descent, dim=1, context_length=2)
        >>> prompt = Prompt([[1.0], [2.0]], [[2.0], [4.0]], [3.0])
        >>> print(f"{model(prompt)[0]:.3f} {descent(prompt)[0]:.3f}")
        5.250 5.250
    """
    if learner.momentum is not None:
        raise InputError("momentum must be None, as no layer carries the previous step.")
    corrections, start = learner.data_correction, learner.initial_weights
    if corrections is not None and start is not None and learner.steps > 1:
        raise InputError(
            "initial_weights and data_correction cannot be combined for several steps, as W_0 x_i "
            "cannot be computed from transformed covariates; give one of the two."
        )
    for name, size in (("dim", dim), ("outputs", outputs), ("context_length", context_length)):
        count(name, size)
    dtype = jnp.result_type(float) if start is None else start.dtype

    W_V = jnp.pad(-jnp.eye(outputs, dtype=dtype), (dim, 0))
    if start is not None:
        require_shape("initial_weights", start, (outputs, dim))
        W_V = W_V.at[dim:, :dim].set(start)
    if corrections is None:
        corrections = learner.step_size
    else:
        W_V = W_V.at[:dim, :dim].set(-jnp.eye(dim, dtype=dtype))
    rates = jnp.broadcast_arrays(*map(jnp.atleast_1d, (corrections, learner.step_size)))
    # Repeated in one call, the gradient of a rate would be summed in another order, and GD++ that
    # is trained on the edge of stability would end elsewhere
    parts = zip(rates, (dim, outputs), strict=True)
    rates = jnp.concatenate([jnp.repeat(rate[:, None], n, axis=1) for rate, n in parts], axis=1)
    P = rates[:, :, None] / context_length * jnp.eye(dim + outputs, dtype=dtype)
    W_Q = inputs_only(learner.preconditioner, dim, outputs, dtype)
    W_K = inputs_only(None, dim, outputs, dtype)
    factors = (jnp.broadcast_to(W, P.shape)[:, None] for W in (W_Q, W_K, W_V, P))
    return LinearTransformer(
        Factors(*factors), layers=learner.steps, outputs=outputs, initial_weights=start
    )


def inputs_only(P: Any, dim: int, outputs: int, dtype: Any = float) -> Float[Array, "D D"]:
    """`diag(P, 0)`, which reads the d entries of x; the preconditioner P is I by default."""
    if P is not None:
        require_shape("preconditioner", P, (dim, dim))
    return jnp.pad(jnp.asarray(jnp.eye(dim) if P is None else P, dtype), (0, outputs))


def require_from_zero(learner: Descent, why: str, *, steps: bool = False) -> None:
    """Raises `ValueError` for initial weights other than 0, and for several steps if not allowed.

    `why` is the reason given in the error.
    """
    if learner.steps > 1 and not steps:
        raise InputError(f"steps must be 1 for this construction, as {why}; got {learner.steps}.")
    start = learner.initial_weights
    if start is not None and (isinstance(start, jax.core.Tracer) or np.any(start)):
        raise InputError(f"initial_weights must be 0 for this construction, as {why}.")
