"""The weights with which two heads of softmax attention are a step of gradient descent on centred covariates."""

import jax.numpy as jnp
import numpy as np

from mesalens.checks import InputError, count, positive
from mesalens.learners import GradientDescent
from mesalens.models import Attention, Embedding, Joint, Transformer, TransformerLayer


def softmax_descent_transformer(learner: GradientDescent, *, dim: int, outputs: int = 1, scale: float) -> Transformer:
    """One layer of softmax attention whose two heads differ in sign, for the given step from zero and prompts of any length.

        W_K = diag(I_d, 0),    W_Q = ±κ √K diag(P, 0),    W_V = diag(0, -I_m),    P_out = ±η/(2κ) I

    With κ = `scale`, `a_i = x_i^T P x_q` and p_i(κ) = softmax_i(κ a_i) the prediction is an odd function of a, even in κ:

        ŷ = η/(2κ) Σ_i y_i (p_i(κ) - p_i(-κ))  =  η/n Σ_i y_i [b_i + κ²/6 (b_i³ - 3 v b_i - t)] + O(κ⁴),

    `b_i = (x_i - x̄)^T P x_q`, v and t the means of b² and b³ over the context. Its limit is a step of descent with centred covariates:
    weights that sum to 1 leave no other, and a constant added to all labels changes nothing. For linear functions and x ~ N(0, Σ) the
    centred scatter of n examples is Wishart with n - 1 degrees of freedom, so that the limit is worth one example less than
    the step itself; `centred_step_risk` has its risk. Rounding grows as 1/κ: in float32, κ = 0.005 over the size of a is most exact.

    The limit is not the best of such pairs, so a trained one may be a little better: for d = n = 10 and W ~ N(0, I) the least risk over κ
    is lower by 0.3 percent for x ~ N(0, I) (κ = 0.2) and by 1.4 percent for x ~ U[-1, 1]^d (κ = 0.9; both by simulation).

    One head alone is kernel smoothing (`NadarayaWatson`), `gain (ȳ + κ/n Σ_i y_i b_i + O(κ²))`: the mean label comes with any step it takes,
    larger by 1/κ, and there is nothing to cancel it with.

    Raises `ValueError` for several steps, a start other than zero, a preconditioner that is not d × d, or a scale not above 0.

    Source: derived here. He et al. (ICML 2025, arXiv 2503.12734) find that training makes several heads of softmax attention a step of
    this kind, with output weights that sum to zero, and call it debiased gradient descent.
    """
    positive("the scale", scale)
    count("dim", dim)
    count("outputs", outputs)
    if learner.steps > 1:
        raise InputError(f"one layer takes one step, not {learner.steps}; give a learner of one step.")
    if learner.initial_weights is not None and np.any(learner.initial_weights):
        raise InputError("weights of attention that sum to 1 read no residual of W_0; leave initial_weights out.")
    preconditioner = np.eye(dim) if learner.preconditioner is None else learner.preconditioner
    if preconditioner.shape != (dim, dim):
        raise InputError(f"the preconditioner has shape {preconditioner.shape}; give ({dim}, {dim}), or another dim.")

    width = dim + outputs
    W_Q, W_K, W_V = jnp.zeros((3, width, width))
    W_Q = W_Q.at[:dim, :dim].set(scale * width**0.5 * preconditioner)
    W_K = W_K.at[:dim, :dim].set(jnp.eye(dim))
    W_V = W_V.at[dim:, dim:].set(-jnp.eye(outputs))
    P = jnp.reshape(learner.step_size, ()) / (2 * scale) * jnp.eye(width)
    attention = Attention(
        jnp.stack([W_Q, -W_Q]),
        jnp.stack([W_K, W_K]),
        jnp.stack([W_V, W_V]),
        jnp.stack([P, -P]),
        kernel="softmax",
    )
    return Transformer(Joint(), Embedding(), (TransformerLayer(attention),), layers=1, dim=dim, outputs=outputs)
