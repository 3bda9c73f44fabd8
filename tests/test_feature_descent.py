"""Gradient descent on learned features: against loops, and against the transformer that it is."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from compiled import compiled

from mesalens import GradientDescent, InputError, Prompt, Transformer
from mesalens.models import Embedding, FeatureDescent, Joint, Sinusoidal
from mesalens.theory import gradient_descent_transformer

KEY = jax.random.key(0)
exactly = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)


def prompt_of(n, d, m) -> Prompt:
    rng = np.random.default_rng(1)
    return Prompt(
        *(jnp.asarray(rng.uniform(-1, 1, shape), float) for shape in ((n, d), (n, m), (d,)))
    )


def embedding_of(d, m, size) -> Embedding:
    """A projection of tokens to a size and an MLP, all weights and biases normal."""
    rng = np.random.default_rng(2)
    shapes = eqx.filter_eval_shape(
        lambda: Embedding(
            eqx.nn.Linear(d + m, size, key=KEY), eqx.nn.MLP(size, size, 5, 1, jnp.tanh, key=KEY)
        )
    )
    return jax.tree.map(
        lambda leaf: (
            jnp.asarray(0.5 * rng.normal(size=leaf.shape), float)
            if hasattr(leaf, "shape")
            else leaf
        ),
        shapes,
    )


def embedded(embedding, token):
    first, last = embedding.mlp.layers
    row = np.asarray(embedding.projection.weight @ token + embedding.projection.bias)
    return (
        row
        + np.asarray(last.weight) @ np.tanh(np.asarray(first.weight) @ row + first.bias)
        + np.asarray(last.bias)
    )


@eqx.filter_jit
def results(learner, prompt):
    return learner(prompt), learner.iterates(prompt)


def test_it_is_descent_on_features_of_x_and_y_written_with_loops():
    with jax.enable_x64(True):
        prompt, embedding, step_sizes = prompt_of(5, 2, 2), embedding_of(2, 2, 6), [0.5, 0.3, 0.8]
        rows = [
            embedded(embedding, np.concatenate(pair))
            for pair in zip(prompt.xs, prompt.ys, strict=True)
        ]
        query = embedded(embedding, np.concatenate([prompt.query, [0, 0]]))
        weights, expected = np.zeros((2, 4)), [-query[4:]]
        for step_size in step_sizes:
            weights = weights - step_size / 5 * sum(
                np.outer(weights @ row[:4] - row[4:], row[:4]) for row in rows
            )
            expected.append(weights @ query[:4] - query[4:])
        learner = FeatureDescent(embedding, GradientDescent(jnp.array(step_sizes), 3), outputs=2)
        prediction, iterates = results(learner, prompt)
        exactly(iterates, expected)
        exactly(prediction, expected[-1])


@pytest.mark.parametrize(
    "descent",
    [
        lambda: GradientDescent(0.7),
        lambda: GradientDescent(
            jnp.array([0.5, 0.3]), 2, preconditioner=jnp.arange(16.0).reshape(4, 4) / 9
        ),
        lambda: GradientDescent(jnp.array([0.5, 0.3, 0.8]), 3, data_correction=0.2),
        lambda: GradientDescent(0.5, 3),
    ],
    ids=["one step", "preconditioned", "GD++", "looped"],
)
def test_it_is_the_transformer_whose_attention_is_the_construction(descent):
    with jax.enable_x64(True):
        prompt, embedding, descent = prompt_of(5, 2, 2), embedding_of(2, 2, 6), descent()
        layers = compiled(gradient_descent_transformer, descent, dim=4, outputs=2, context_length=5)
        transformer = Transformer(
            Joint(),
            embedding,
            compiled(Transformer.from_linear, layers).stored_layers,
            layers=descent.steps,
            dim=2,
            outputs=2,
        )
        prediction, iterates = results(FeatureDescent(embedding, descent, outputs=2), prompt)
        same_prediction, same_iterates = results(transformer, prompt)
        exactly(same_prediction, prediction)
        exactly(same_iterates, iterates)
        assert (np.abs(np.diff(iterates, axis=0)) > 1e-3).all()


def test_on_features_that_are_x_and_y_it_is_the_descent_itself_from_whatever_start():
    prompt = prompt_of(5, 3, 2)
    descent = GradientDescent(0.4, 2, initial_weights=jnp.arange(6.0).reshape(2, 3))
    for found, expected in zip(
        results(FeatureDescent(Embedding(), descent, outputs=2), prompt),
        results(descent, prompt),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_training_changes_the_embedding_and_the_rates_alone():
    descent = GradientDescent(
        0.5,
        2,
        initial_weights=jnp.ones((1, 5)),
        preconditioner=jnp.eye(5),
        data_correction=0.1,
        momentum=0.2,
    )
    mask = FeatureDescent(embedding_of(2, 1, 6), descent).trainable()
    assert (
        sum(jax.tree.leaves(mask.embedding)) == 2 + 4
    )  # of the projection, and of the two layers of the MLP
    assert mask.embedding.mlp.activation is False
    assert mask.descent.initial_weights is mask.descent.preconditioner is False
    assert mask.descent.step_size is mask.descent.data_correction is mask.descent.momentum is True


def test_encodings_behind_are_features_and_not_the_label():
    plain, encoded = (
        FeatureDescent(Embedding(positions=positions), GradientDescent(0.5))
        for positions in (None, Sinusoidal(4))
    )
    prompt = Prompt(np.ones((3, 2)), np.ones((3, 1)), np.ones(2))
    features, start = encoded.features(prompt)
    assert features.dim == plain.features(prompt)[0].dim + 4
    np.testing.assert_array_equal(features.ys, prompt.ys)
    np.testing.assert_array_equal(start, [0])


def test_prompts_that_it_cannot_read_get_a_sentence(monkeypatch):
    monkeypatch.setattr(
        jaxtyping.config, "jaxtyping_disable", True
    )  # as where types are not checked
    learner = FeatureDescent(Embedding(), GradientDescent(0.5))
    prompt = Prompt(np.ones((9, 2)), np.ones((9, 1)), np.ones(2))
    with pytest.raises(InputError, match="condensed"):
        learner(prompt.condense())
    with pytest.raises(InputError, match="m = 2"):
        learner(Prompt(np.ones((3, 2)), np.ones((3, 2)), np.ones(2)))
