"""The weights with which a layer of linear self-attention is a step of softmax regression."""

import equinox as eqx

from mesalens.checks import count
from mesalens.learners import GradientDescent, LogisticDescent
from mesalens.models import LinearTransformer
from mesalens.theory.construction import gradient_descent_transformer, require_from_zero


def logistic_descent_transformer(
    learner: LogisticDescent, *, dim: int, outputs: int, context_length: int
) -> LinearTransformer:
    r"""The layer of linear self-attention that is one step of softmax regression from zero.

    $$W_K = W_Q = \operatorname{diag}(I_d, 0), \quad W_V = \operatorname{diag}(0, -C), \quad
    P_\text{out} = \frac{\eta}{n} I, \quad C = I_m - \frac{1}{m} 1 1^T$$

    At W_0 = 0 every class has probability 1/m for every x, so the residual `softmax(W_0 x_i) - y_i`
    is `-C y_i`, linear in the token:

    $$\Delta W = \frac{\eta}{n} \sum_i (C y_i) x_i^T, \qquad
    e_q = (x_q, 0) \to (x_q, -\Delta W x_q),$$

    and the prediction, minus the y-part of the query token, is the logits `ΔW x_q`. It is the step
    of least squares with centred labels. As centring adds the same number to all logits, the
    probabilities are those of `gradient_descent_transformer` on the same labels. From any other
    W_0, and so from the second step on, the residual contains `softmax(W x_i)`, which is not linear
    in the token, and no linear layer computes it.

    Args:
        learner: One step of descent from zero.
        dim: d, the number of entries of a covariate.
        outputs: m, the number of classes.
        context_length: n, the number of one-hot labels of the prompts.

    Returns:
        The transformer, with one layer.

    Raises:
        ValueError: For several steps, a start other than zero, fewer than two classes, or a size
            below 1.

    Source: derived here, as Proposition 1 of von Oswald et al. (2023) is for least squares.
    """
    require_from_zero(learner, "softmax(W x) is not linear in a token unless W is 0")
    count("outputs", outputs, at_least=2)
    descent = gradient_descent_transformer(
        GradientDescent(learner.step_size), dim=dim, outputs=outputs, context_length=context_length
    )
    return eqx.tree_at(
        lambda transformer: transformer.weights.W_V,
        descent,
        replace_fn=lambda W_V: W_V.at[:, :, dim:, dim:].add(1 / outputs),
    )
