"""The models of parts `sine` and `teachers` before training."""

import equinox as eqx
import jax
import jax.numpy as jnp

from mesalens import learners, models

STEP_SIZE = 0.1
"""η before training, on the mean over the context. Source: the released code."""

STEEPNESS = 20.0
"""By how much weights into hidden units are larger."""

LABELS = 0.03
"""By how much labels are smaller in the projection."""

BALANCE = 160.0
"""By how much W_K^T W_Q is smaller and P W_V larger. The layer computes the same."""


def attention(s, task, start, key):
    """A token projection and an MLP with a residual under one layer of linear self-attention."""
    model = models.Transformer.initialise(
        task.dim,
        task.outputs,
        attention=models.LinearAttention(),
        embedding_size=s.embedding_size,
        input_mlp_widening=s.widening,
        init_scale=s.init_scale,
        key=key,
    )
    if start == "published":
        return model
    return at_covariates(model, task, jax.random.fold_in(key, 1))


def descent(s, task, start, key):
    """The same projection and MLP under one step of gradient descent."""
    features, step = attention(s, task, start, key).embedding, jnp.asarray(STEP_SIZE)
    return models.FeatureDescent(features, learners.GradientDescent(step), task.outputs)


def at_covariates(model, task, key):
    """Other initial weights, which need fewer steps and seldom end in a second state.

    Each hidden unit w bends at a covariate x of the task: its bias is -w E (x, 0). Without that all
    bend at 0, and bends must first spread over the inputs.

    One layer can take the role of descent in two ways. Values read labels and scores compare
    features, v(y_i) φ(x_i)^T A φ(x_q), or values read features and scores read labels: a single
    product f(x_i) y_i g(x_q), which learns the sine of a wave and misses its cosine, at twice the
    risk. Scores that start near 0 while values do not, and labels that start small beside
    covariates, favour the first way: values then have some weight on labels from the start, and
    scores for all features grow at once. The second needs values of one particular shape.
    """

    def parts(model):
        embedding, layer = model.embedding, model.stored_layers[0].attention
        hidden = embedding.mlp.layers[0]
        factors = layer.W_Q, layer.W_K, layer.W_V, layer.P
        return embedding.projection.weight, hidden.weight, hidden.bias, *factors

    E, w, bias, W_Q, W_K, W_V, P = parts(model)
    E, w = E.at[:, task.dim :].multiply(LABELS), STEEPNESS * w
    xs = task.covariates.sample(key, bias.shape)
    bias = -jnp.sum((w @ E[:, : task.dim]) * xs, axis=1)
    c = BALANCE**0.5
    return eqx.tree_at(parts, model, (E, w, bias, W_Q / c, W_K / c, c * W_V, c * P))
