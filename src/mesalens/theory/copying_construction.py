"""The weights with which softmax attention finds the label of each x, so that linear attention can be gradient descent."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from mesalens.checks import InputError, count, one_of, positive
from mesalens.learners import GradientDescent
from mesalens.models import Attention, Embedding, Interleaved, Sinusoidal, Transformer, TransformerLayer
from mesalens.models.attention import Keys
from mesalens.theory.construction import gradient_descent_transformer


def copying_transformer(
    learner: GradientDescent,
    *,
    dim: int,
    outputs: int = 1,
    context_length: int,
    positions: Sinusoidal,
    sharpness: float,
    keys: Keys = "context",
) -> Transformer:
    """One softmax layer that copies, then a linear layer for each step of the given descent from zero, on interleaved tokens.

    With R one step along the rows and c(p) the encoding of row p, the first layer's logits are those of one offset s = ±1,

        W_K = (0 | I),    W_Q = β √K (0 | R^s),    a_ji = softmax_i β f(p_i - p_j - s),    f(Δ) = Σ_k cos(ω_k Δ),

    β = `sharpness`, so that row j reads row p_j + s. With the gap `g = f(0) - max f(Δ)`, over Δ = 1 … 2n, any other row weighs at most
    exp(-β g): as β grows the copy is exact, the error of the prediction falls as exp(-β g), and in the end is rounding. Where the
    neighbours are nearest, as with six or more waves up to 10 000, `g = Σ_k (1 - cos ω_k)`, and a copy is 2 exp(-β g) of itself too small, to
    first order.

    - "context": s = 1; the row of x_i reads the label behind it into m spare entries, for which a projection makes room,
      `(x_i, 0, 0) -> (x_i, y_i, 0)`. Linear layers read the sum of the copy and of `-W_k x_i`, the residual. The rows of labels have no x
      and are no keys; the query's row copies `y_n`, but is no key either, and nobody reads it. Any number of steps, GD++ too. For every β,
      large or small, the prediction is exactly that of the same descent on the labels `Σ_j a_ij y_j`.
    - "all": s = 1, without spare entries, `(x_i, 0) -> (x_i, y_i)`. The query's row finds none behind it and reads the nearest, itself,
      whose label is 0; `y_n` weighs exp(-β (f(1) - f(2))) there. (Could it not see itself, it would copy `y_n` into its prediction: hence
      the spare entries above.) One step: more layers are steps with (x_q, 0) among the examples.
    - "causal": s = -1; the row of y_i reads the x before it, `(0, y_i) -> (x_i, y_i)`. Rows of x have the label 0 and add nothing, the first
      neither, which reads itself; the query's row reads that of `y_n`, whose x is 0. One step: a later residual of an example would be
      that of descent on those before it.

    Raises `ValueError` for several steps where there is one, a start other than zero, momentum, keys "all" with encodings for which another
    row is nearer to the one behind the query than the query itself (few frequencies), a sharpness not above 0, or sizes below 1.

    Von Oswald et al. (2023), Section 5 (from memory), ask whether attention builds the tokens of the standard construction by itself: their
    Proposition 3 says that a layer with concatenated encodings can, and trained models of a softmax and a linear layer copy in the
    first and come near one step of descent in the second. Heads that read the row before are those of Olsson et al. (2022), half of an
    induction head. The weights, rates and limits above are derived here.
    """
    one_of("keys", keys, ("context", "causal", "all"))
    positive("the sharpness", sharpness)
    count("dim", dim)
    count("outputs", outputs)
    count("the context length", context_length)
    if learner.initial_weights is not None and np.any(learner.initial_weights):
        raise InputError("interleaved tokens hold no -W_0 x; leave initial_weights out.")
    if learner.steps > 1 and keys != "context":
        raise InputError(
            f'with keys "{keys}" later layers read other rows than the examples with their residuals; give one step, or keys "context".'
        )
    if keys == "all":
        nearness = np.cos(np.outer(np.arange(1, 2 * context_length + 2), positions.frequencies())).sum(1)
        if nearness[0] <= nearness[1:].max():
            raise InputError(
                f"with {positions.entries} entries of wave lengths up to {positions.longest:g} the query's row is not the nearest to the one "
                "behind it; give more entries."
            )

    spare = outputs if keys == "context" else 0
    x, copies = np.arange(dim), dim + np.arange(outputs)
    labels, tokens = copies + spare, dim + spare + outputs
    width = tokens + positions.size
    shift, read, written = (-1, x, x) if keys == "causal" else (1, labels, copies)

    W_Q, W_K, W_V = np.zeros((3, width, width))
    W_Q[tokens:, tokens:] = sharpness * width**0.5 * positions.step(shift)
    W_K[tokens:, tokens:] = np.eye(positions.size)
    W_V[written, read] = 1
    factors = (jnp.asarray(factor[None], float) for factor in (W_Q, W_K, W_V, np.eye(width)))
    copying = TransformerLayer(Attention(*factors, kernel="softmax"))

    # Rows (x, copy, y, c) are read as tokens (x, copy + y), and tokens (x, y) are written as rows (x, 0, y, 0)
    reading, writing = np.eye(dim + outputs, width), np.zeros((width, dim + outputs))
    reading[copies, labels] = writing[x, x] = writing[labels, copies] = 1
    reading, writing = jnp.asarray(reading, float), jnp.asarray(writing, float)
    descent = gradient_descent_transformer(learner, dim=dim, outputs=outputs, context_length=context_length)
    steps = [
        TransformerLayer(Attention(W_Q @ reading, W_K @ reading, W_V @ reading, writing @ P))
        for W_Q, W_K, W_V, P in zip(descent.W_Q, descent.W_K, descent.W_V, descent.P, strict=True)
    ]
    projection = None
    if spare:
        projection = eqx.nn.Linear(dim + outputs, tokens, use_bias=False, key=jax.random.key(0))
        projection = eqx.tree_at(lambda linear: linear.weight, projection, writing[:tokens])
    return Transformer(
        Interleaved(),
        Embedding(projection, positions=positions),
        (copying, *(steps * learner.steps if descent.looped else steps)),
        layers=1 + learner.steps,
        dim=dim,
        outputs=outputs,
        keys=keys,
    )
