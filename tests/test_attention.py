"""Kinds of attention and what a row sees: against double loops over rows and heads in NumPy, in float64."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mesalens import InputError, Prompt, Transformer, random, train
from mesalens.models import (
    AllRows,
    Attention,
    AttentionKind,
    Causal,
    ContextOnly,
    KernelAttention,
    LinearAttention,
    ReLUAttention,
    SoftmaxAttention,
    Visibility,
)
from mesalens.tasks import Gaussian, LinearFunctions, RegressionTask

WIDTH, HEADS, KEY_SIZE, ROWS = 3, 2, 4, 5
exactly = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)


def laplace(query, key):
    return jnp.exp(-jnp.sum(jnp.abs(query - key)))


def scaled_exponential(query, key):
    return jnp.exp(query @ key / KEY_SIZE**0.5)


def distance(query, key):
    return 1 - jnp.sum((query - key) ** 2)


def in_numpy(kernel):
    return lambda query, keys: np.array(
        [float(kernel(jnp.asarray(query), jnp.asarray(key))) for key in keys]
    )


def softmax(query, keys):
    logits = np.array([query @ key for key in keys]) / np.sqrt(KEY_SIZE)
    return np.exp(logits) / np.exp(logits).sum()


def relu(query, keys):
    return np.array([max(query @ key / np.sqrt(KEY_SIZE), 0) for key in keys]) / len(keys)


def normalised(weights):
    return lambda query, keys: weights(query, keys) / weights(query, keys).sum()


KINDS = {
    "linear": (LinearAttention(), lambda query, keys: np.array([query @ key for key in keys])),
    "softmax": (SoftmaxAttention(), softmax),
    "relu": (ReLUAttention(), relu),
    "kernel": (KernelAttention(laplace), normalised(in_numpy(laplace))),
    "plain kernel": (KernelAttention(distance, normalised=False), in_numpy(distance)),
}
"""Each kind, and the weights of the rows that a query sees by its formula."""

VISIBILITIES = {
    "context": (ContextOnly(), lambda j: range(ROWS - 1)),
    "causal": (Causal(), lambda j: range(j + 1)),
    "all": (AllRows(), lambda j: range(ROWS)),
}
"""Each visibility, and the rows that row j sees."""


@pytest.fixture(autouse=True)
def in_double():
    with jax.enable_x64(True):
        yield


def drawn(kind, biases, seed=0) -> Attention:
    rng = np.random.default_rng(seed)
    shapes = [(HEADS, KEY_SIZE, WIDTH)] * 3 + [(HEADS, WIDTH, KEY_SIZE)]
    shapes += ([(HEADS, KEY_SIZE)] * 3 + [(WIDTH,)]) if biases else []
    return Attention(*(jnp.asarray(rng.normal(size=shape)) for shape in shapes), kind=kind)


def by_loops(attention, weigh, rows, sees):
    """Weights, 0 where a row is not seen, and what is added to each row."""
    arrays = {name: getattr(attention, name) for name in ("b_Q", "b_K", "b_V", "b_P")}
    biases = {name: 0 if array is None else np.asarray(array) for name, array in arrays.items()}
    weights, added = np.zeros((HEADS, ROWS, ROWS)), np.zeros((ROWS, WIDTH)) + biases["b_P"]
    for head in range(HEADS):
        b_Q, b_K, b_V = (
            biases[name] if np.isscalar(biases[name]) else biases[name][head]
            for name in ("b_Q", "b_K", "b_V")
        )
        W_Q, W_K, W_V, P = (
            np.asarray(getattr(attention, name)[head]) for name in ("W_Q", "W_K", "W_V", "P")
        )
        for j in range(ROWS):
            keys = [W_K @ rows[i] + b_K for i in sees(j)]
            weights[head, j, list(sees(j))] = weigh(W_Q @ rows[j] + b_Q, keys)
            for i in sees(j):
                added[j] += P @ (weights[head, j, i] * (W_V @ rows[i] + b_V))
    return weights, added


@pytest.mark.parametrize("biases", [False, True], ids=["no biases", "biases"])
@pytest.mark.parametrize("visibility", VISIBILITIES)
@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_what_loops_over_rows_and_heads_make(kind, visibility, biases):
    (kind, weigh), (visibility, sees) = KINDS[kind], VISIBILITIES[visibility]
    attention, rows = drawn(kind, biases), np.random.default_rng(1).normal(size=(ROWS, WIDTH))
    keys, seen = visibility.keys(jnp.asarray(rows)), visibility.seen(ROWS)
    weights, added = (
        attention.weights(jnp.asarray(rows), keys, seen),
        attention(jnp.asarray(rows), keys, seen),
    )
    weights_by_loops, added_by_loops = by_loops(attention, weigh, rows, sees)
    exactly(weights, weights_by_loops[..., : len(keys)])
    exactly(added, added_by_loops)


@pytest.mark.slow
@pytest.mark.parametrize("biases", [False, True])
def test_the_exponential_kernel_is_softmax(biases):
    rows = jnp.asarray(np.random.default_rng(2).normal(size=(ROWS, WIDTH)))
    seen = Causal().seen(ROWS)

    def result(kind):
        attention = drawn(kind, biases)
        loss = lambda attention: jnp.sum(attention(rows, rows, seen) ** 2)  # noqa: E731
        return (
            attention.weights(rows, rows, seen),
            attention(rows, rows, seen),
            jax.tree.leaves(eqx.filter_grad(loss)(attention)),
        )

    jax.tree.map(exactly, result(KernelAttention(scaled_exponential)), result(SoftmaxAttention()))


def test_relu_weights_are_not_negative_and_divided_by_the_rows_that_are_seen():
    scores = jnp.asarray([[-1.0, 3.0, 5.0], [2.0, -4.0, 6.0], [4.0, 2.0, -2.0]])
    everything = ReLUAttention().weights(scores, None, 4)
    exactly(everything, np.maximum(scores, 0) / 2 / 3)
    exactly(
        ReLUAttention().weights(scores, Causal().seen(3), 4),
        [[0, 0, 0], [1 / 2, 0, 0], [2 / 3, 1 / 3, 0]],
    )


@pytest.mark.slow
@pytest.mark.parametrize("seen", [None, Causal().seen(ROWS)], ids=["all", "causal"])
def test_a_kernel_that_is_0_everywhere_gives_0_and_finite_gradients(seen):
    """A window so narrow that no key is in it, with a slope of 0."""
    attention = drawn(
        KernelAttention(lambda query, key: jnp.maximum(0, 1e-9 - jnp.sum((query - key) ** 2))),
        biases=True,
    )
    rows = jnp.asarray(np.random.default_rng(3).normal(size=(ROWS, WIDTH)))
    exactly(attention.weights(rows, rows, seen), 0)
    value, gradient = eqx.filter_value_and_grad(
        lambda attention: jnp.sum(attention(rows, rows, seen) ** 2)
    )(attention)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    exactly(value, ROWS * jnp.sum(attention.b_P**2))


def test_softmax_of_large_scores_is_finite():
    weights = SoftmaxAttention().weights(
        jnp.asarray([[1e4, -1e4], [0.0, 1e4]]), Causal().seen(2), 1
    )
    exactly(weights, [[1, 0], [0, 1]])


@pytest.mark.parametrize("name", VISIBILITIES)
def test_what_a_row_sees(name):
    visibility, sees = VISIBILITIES[name]
    rows = jnp.arange(ROWS * 2.0).reshape(ROWS, 2)
    keys = visibility.keys(rows)
    np.testing.assert_array_equal(keys, rows[: max(max(sees(j)) for j in range(ROWS)) + 1])
    seen = (
        np.ones((ROWS, len(keys)), bool) if visibility.seen(ROWS) is None else visibility.seen(ROWS)
    )
    np.testing.assert_array_equal(
        seen, [[i in sees(j) for i in range(len(keys))] for j in range(ROWS)]
    )


PROMPT = Prompt(
    *(np.random.default_rng(4).normal(size=shape) for shape in ((ROWS - 1, 2), (ROWS - 1, 1), (2,)))
)


def model_of(kind, visibility, biases=True, **parts) -> Transformer:
    """Two layers with heads, all weights normal."""
    parts = {"layers": 2, "heads": HEADS, "key_size": KEY_SIZE, "biases": biases, **parts}
    parts |= {"attention": kind, "visibility": visibility, "key": jax.random.key(0)}
    rng = np.random.default_rng(5)
    return jax.tree.map(
        lambda leaf: (
            jnp.asarray(0.5 * rng.normal(size=leaf.shape)) if hasattr(leaf, "shape") else leaf
        ),
        eqx.filter_eval_shape(lambda: Transformer.initialise(2, **parts)),
    )


@pytest.mark.parametrize(
    ("kind", "visibility"), [("relu", "causal"), ("kernel", "context"), ("plain kernel", "all")]
)
def test_kinds_within_a_transformer(kind, visibility):
    (kind, weigh), (visibility, sees) = KINDS[kind], VISIBILITIES[visibility]
    model = model_of(kind, visibility)
    prediction, iterates, weights = eqx.filter_jit(
        lambda model: (model(PROMPT), model.iterates(PROMPT), model.attention_weights(PROMPT))
    )(model)
    rows = np.concatenate([np.concatenate([PROMPT.xs, PROMPT.ys], 1), [[*PROMPT.query, 0]]])
    expected = [-rows[-1, 2:]]
    for number, layer in enumerate(model.stored_layers):
        weights_by_loops, added = by_loops(layer.attention, weigh, rows, sees)
        exactly(weights[number], weights_by_loops[..., : weights.shape[-1]])
        rows = rows + added
        expected.append(-rows[-1, 2:])
    exactly(iterates, expected)
    exactly(prediction, expected[-1])


def test_the_first_layer_may_have_another_kind():
    model = Transformer.initialise(
        2,
        layers=3,
        attention=ReLUAttention(),
        first_attention=LinearAttention(),
        key=jax.random.key(0),
    )
    kinds = [type(layer.attention.kind) for layer in model.stored_layers]
    assert kinds == [LinearAttention, ReLUAttention, ReLUAttention]
    plain = Transformer.initialise(2, layers=2, key=jax.random.key(0))
    assert {type(layer.attention.kind) for layer in plain.stored_layers} == {SoftmaxAttention}
    assert isinstance(plain.visibility, ContextOnly)


@pytest.mark.parametrize("kind", ["relu", pytest.param("kernel", marks=pytest.mark.slow)])
def test_kinds_are_trained(kind):
    kind = KINDS[kind][0]
    task = RegressionTask(Gaussian(2), LinearFunctions(2), context_length=4)
    with jax.enable_x64(False):  # the precision of training
        training = train(
            lambda key: model_of(kind, Causal(), biases=False, layers=1),
            task,
            optax.adam(1e-2),
            steps=40,
            every=20,
            batch_size=256,
            key=random.key(0),
        ).require_finite()
    first, last = training.metrics.loss.values[0, 1:]
    assert last < first


def test_axes_are_abstract():
    for base in (AttentionKind, Visibility):
        with pytest.raises(TypeError):
            base()


def test_a_bias_of_queries_without_one_of_keys_gets_a_sentence():
    plain = drawn(LinearAttention(), biases=False)
    with pytest.raises(InputError, match="b_Q and b_K"):
        Attention(plain.W_Q, plain.W_K, plain.W_V, plain.P, b_Q=jnp.ones((HEADS, KEY_SIZE)))
