"""The weights with which two heads of softmax attention are a step on centred covariates."""

import jax.numpy as jnp

from mesalens.checks import count, positive
from mesalens.learners import GradientDescent
from mesalens.models import (
    Attention,
    Embedding,
    Joint,
    SoftmaxAttention,
    Transformer,
    TransformerLayer,
)
from mesalens.theory.construction import inputs_only, require_from_zero


def softmax_descent_transformer(
    learner: GradientDescent, *, dim: int, outputs: int = 1, scale: float
) -> Transformer:
    r"""One layer of softmax attention whose two heads of opposite sign are nearly a step from zero.

    $$W_K = \operatorname{diag}(I_d, 0), \quad
    W_Q = \pm \kappa \sqrt K \operatorname{diag}(P, 0), \quad
    W_V = \operatorname{diag}(0, -I_m), \quad P_\text{out} = \pm \frac{\eta}{2 \kappa} I$$

    With κ = `scale`, `a_i = x_i^T P x_q` and `p_i(κ) = softmax_i(κ a_i)` the prediction is an odd
    function of a, even in κ:

    $$\hat y = \frac{\eta}{2 \kappa} \sum_i y_i (p_i(\kappa) - p_i(-\kappa))
    = \frac{\eta}{n} \sum_i y_i \left[b_i + \frac{\kappa^2}{6} (b_i^3 - 3 v b_i - t)\right]
    + O(\kappa^4),$$

    where `b_i = (x_i - x̄)^T P x_q`, and v and t are the means of b² and b³ over the context. Its
    limit is a step of descent with centred covariates: weights that sum to 1 allow no other, and a
    constant added to all labels changes nothing. For linear functions and x ~ N(0, Σ) the centred
    scatter of n examples is Wishart with n - 1 degrees of freedom, so that the limit is worth one
    example less than the step itself; [`centred_step_risk`][mesalens.theory.centred_step_risk] has
    its risk. Rounding grows as 1/κ: in float32, κ = 0.005 over the size of a is most exact.

    The limit is not the best of such pairs, so a trained one may be slightly better: for
    d = n = 10 and W ~ N(0, I) the least risk over κ is lower by 0.3 percent for x ~ N(0, I)
    (κ = 0.2) and by 1.4 percent for x ~ U[-1, 1]^d (κ = 0.9; both by simulation).

    One head alone is kernel smoothing (`SoftmaxHead`), `gain (ȳ + κ/n Σ_i y_i b_i + O(κ²))`:
    the mean label, larger by 1/κ, comes with any step it takes, and nothing cancels it.

    Args:
        learner: One step of descent from zero.
        dim: d, the number of entries of a covariate.
        outputs: m, the number of entries of a label.
        scale: κ, positive and small.

    Returns:
        The transformer, with one layer.

    Raises:
        ValueError: For several steps, a start other than zero, a preconditioner that is not d × d,
            a scale that is not positive, or a size below 1.

    Source: derived here. He et al. (ICML 2025, arXiv 2503.12734) find that training makes several
    heads of softmax attention a step of this kind, with output weights that sum to zero, and call
    it debiased gradient descent.
    """
    positive("scale", scale)
    count("dim", dim)
    count("outputs", outputs)
    require_from_zero(learner, "weights of softmax attention sum to 1 and read no residual")
    width = dim + outputs
    W_Q = scale * width**0.5 * inputs_only(learner.preconditioner, dim, outputs)
    P = jnp.reshape(learner.step_size, ()) / (2 * scale) * jnp.eye(width)
    W_K, W_V = inputs_only(None, dim, outputs), jnp.pad(-jnp.eye(outputs), (dim, 0))
    pairs = ([W_Q, -W_Q], [W_K, W_K], [W_V, W_V], [P, -P])
    attention = Attention(*(jnp.stack(pair) for pair in pairs), kind=SoftmaxAttention())
    return Transformer(
        Joint(), Embedding(), (TransformerLayer(attention),), layers=1, dim=dim, outputs=outputs
    )
