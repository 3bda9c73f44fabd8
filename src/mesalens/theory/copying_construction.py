"""The weights with which softmax attention builds the tokens of gradient descent."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from mesalens.checks import InputError, positive
from mesalens.learners import GradientDescent
from mesalens.models import (
    AllRows,
    Attention,
    Causal,
    ContextOnly,
    Embedding,
    Interleaved,
    Sinusoidal,
    SoftmaxAttention,
    Transformer,
    TransformerLayer,
    Visibility,
)
from mesalens.theory.construction import gradient_descent_transformer, require_from_zero


def copying_transformer(
    learner: GradientDescent,
    *,
    dim: int,
    outputs: int = 1,
    context_length: int,
    positions: Sinusoidal,
    sharpness: float,
    visibility: Visibility | None = None,
) -> Transformer:
    r"""One softmax layer that copies, then a linear layer for each step of descent from zero.

    It reads interleaved tokens. With R one step along the rows and c(p) the encoding of row p, the
    logits of the first layer are those of one offset s = ±1,

    $$W_K = (0 \mid I), \qquad W_Q = \beta \sqrt K (0 \mid R^s)$$

    $$a_{ji} = \operatorname{softmax}_i \, \beta f(p_i - p_j - s), \qquad
    f(\Delta) = \sum_k \cos(\omega_k \Delta),$$

    with β = `sharpness`, so that row j reads row p_j + s. With the gap `g = f(0) - max f(Δ)` over Δ
    = 1 … 2n any other row has at most the weight exp(-β g): as β grows the copy becomes exact, and
    the error of the prediction falls as exp(-β g) down to rounding. If the neighbours are nearest,
    as with six or more waves up to 10,000, `g = Σ_k (1 - cos ω_k)`, and a copy is too small by 2
    exp(-β g) of itself, to first order.

    - `ContextOnly`: s = 1. The row of x_i reads the label after it into m spare entries, for which
      a projection makes room, `(x_i, 0, 0) -> (x_i, y_i, 0)`. Linear layers read the sum of the
      copy and of `-W_k x_i`, the residual. The rows of labels have no x and are not keys; the row
      of the query copies `y_n`, but is not a key either, and no row reads it. It takes any number
      of steps, and GD++. For every β the prediction is exactly that of the same descent on the
      labels `Σ_j a_ij y_j`.
    - `AllRows`: s = 1, without spare entries, `(x_i, 0) -> (x_i, y_i)`. The row of the query finds
      none after it and reads the nearest, itself, whose label is 0; `y_n` has the weight
      exp(-β (f(1) - f(2))) there. (If it could not see itself, it would copy `y_n` into its
      prediction: hence the spare entries above.) One step: more layers are steps with (x_q, 0)
      among the examples.
    - `Causal`: s = -1. The row of y_i reads the x before it, `(0, y_i) -> (x_i, y_i)`. Rows of x
      have the label 0 and add nothing, nor does the first, which reads itself; the row of the query
      reads that of `y_n`, whose x is 0. One step: a later residual of an example would be that of
      descent on the examples before it.

    Args:
        learner: Gradient descent from zero.
        dim: d, the number of entries of a covariate.
        outputs: m, the number of entries of a label.
        context_length: n, the number of examples in a prompt.
        positions: The encoding c of rows.
        sharpness: β, positive.
        visibility: Which rows each row sees. `ContextOnly` by default.

    Returns:
        The transformer, with one layer more than there are steps.

    Raises:
        ValueError: For a visibility other than these three; for several steps unless it is
            `ContextOnly`; for a start other than zero, momentum, `AllRows` with encodings for which
            another row is nearer to the one after the query than the query itself (few
            frequencies), a sharpness that is not positive, or a size below 1.

    Source: von Oswald et al. (2023), Section 5, ask whether attention builds the tokens of the
    standard construction by itself: their Proposition 3 says that a layer with concatenated
    encodings can, and trained models of a softmax and a linear layer copy in the first and come
    near one step of descent in the second. Heads that read the row before are those of Olsson et
    al. (2022), half of an induction head. The weights, rates and limits are derived here.
    """
    visibility = ContextOnly() if visibility is None else visibility
    if not isinstance(visibility, ContextOnly | Causal | AllRows):
        raise InputError(f"visibility must be ContextOnly, Causal or AllRows; got {visibility!r}.")
    positive("sharpness", sharpness)
    several = isinstance(visibility, ContextOnly)
    why = "interleaved tokens hold no -W_0 x"
    if not several:
        why = f"with {type(visibility).__name__} later residuals mix"
    require_from_zero(learner, why, steps=several)
    descent = gradient_descent_transformer(
        learner, dim=dim, outputs=outputs, context_length=context_length
    )
    if isinstance(visibility, AllRows):
        offsets = np.arange(1, 2 * context_length + 2)
        nearness = np.cos(np.outer(offsets, positions.frequencies())).sum(1)
        if nearness[0] <= nearness[1:].max():
            raise InputError(
                "positions must have more entries, so that the row of the query is the nearest to "
                f"the one after it; got {positions.entries} with longest={positions.longest:g}."
            )

    spare = outputs if several else 0
    x, copies = np.arange(dim), dim + np.arange(outputs)
    labels, tokens = copies + spare, dim + spare + outputs
    width = tokens + positions.size
    causal = isinstance(visibility, Causal)
    shift, read, written = (-1, x, x) if causal else (1, labels, copies)

    eye = np.eye(width)
    W_Q = np.pad(sharpness * width**0.5 * positions.step(shift), (tokens, 0))
    W_K = np.pad(np.eye(positions.size), (tokens, 0))
    W_V = eye[:, written] @ eye[read]
    factors = (jnp.asarray(factor[None], float) for factor in (W_Q, W_K, W_V, eye))
    copying = TransformerLayer(Attention(*factors, kind=SoftmaxAttention()))

    # Rows (x, copy, y, c) are read as tokens (x, copy + y), written back as rows (x, 0, y, 0)
    writing = jnp.asarray(eye[:, [*x, *labels]], float)
    reading = jnp.maximum(writing.T, jnp.eye(dim + outputs, width))
    steps = [
        TransformerLayer(Attention(A @ reading, reading[None], reading[None], writing @ B))
        for A, B in zip(*descent.effective(), strict=True)
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
        visibility=visibility,
    )
