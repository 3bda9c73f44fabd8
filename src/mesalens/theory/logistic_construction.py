"""The weights with which a layer of linear self-attention is a step of softmax regression."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mesalens.checks import InputError, count
from mesalens.learners import LogisticDescent
from mesalens.models import LinearTransformer


def logistic_descent_transformer(
    learner: LogisticDescent, *, dim: int, outputs: int, context_length: int
) -> LinearTransformer:
    """The layer of linear self-attention that is one step of the given descent from zero, for prompts of n one-hot labels.

        W_K = W_Q = diag(I_d, 0),    W_V = diag(0, -C),    P_out = (η/n) I,    C = I_m - 1 1^T / m

    At W_0 = 0 every class has probability 1/m whatever x is, so the residual `softmax(W_0 x_i) - y_i` is `-C y_i`, linear in the token:

        ΔW = η/n Σ_i (C y_i) x_i^T,      e_q = (x_q, 0)  ->  (x_q, -ΔW x_q),

    and the prediction, minus the y-part of the query token, is the logits `ΔW x_q`. It is the step of least squares with centred
    labels; as centring adds the same number to all logits, the probabilities are those of `gradient_descent_transformer` on the same
    labels. From any other W_0, and so from the second step on, the residual has `softmax(W x_i)`, which is no linear function of the
    token, and there is no such layer.

    Raises `ValueError` for several steps, a start other than zero, or fewer than two classes.

    Source: derived here, as Proposition 1 of von Oswald et al. (2023) is for least squares.
    """
    if learner.steps > 1:
        raise InputError(
            f"there is no such transformer for {learner.steps} steps, as softmax(W x) is no linear function of a token once W is not 0; "
            "give one step."
        )
    if learner.initial_weights is not None and np.any(learner.initial_weights):
        raise InputError(
            "there is no such transformer from initial weights other than 0, as softmax(W_0 x) is no linear function of a token; "
            "leave initial_weights out."
        )
    count("the number of classes", outputs, at_least=2)
    count("dim", dim)
    count("the context length", context_length)

    dtype = jnp.result_type(float)
    width = dim + outputs
    zeros = jnp.zeros((width, width), dtype)
    W_K = zeros.at[:dim, :dim].set(jnp.eye(dim, dtype=dtype))
    W_V = zeros.at[dim:, dim:].set(1 / outputs - jnp.eye(outputs, dtype=dtype))
    P = jnp.reshape(learner.step_size, ()) / context_length * jnp.eye(width, dtype=dtype)

    def stored(matrix: Float[Array, "D D"]) -> Float[Array, "1 1 D D"]:
        return matrix[None, None]

    return LinearTransformer(W_Q=stored(W_K), W_K=stored(W_K), W_V=stored(W_V), P=stored(P), layers=1, outputs=outputs)
