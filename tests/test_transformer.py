"""The transformer of orthogonal parts: against loops over rows, against the linear one, and who sees whom."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from compiled import compiled
from hypothesis import given, settings
from hypothesis import strategies as st

from mesalens import InputError, LinearTransformer, Prompt, Transformer
from mesalens.learners.base import predict
from mesalens.models import (
    AllRows,
    Attention,
    Causal,
    ContextOnly,
    Factors,
    Interleaved,
    Joint,
    Learned,
    LinearAttention,
    Scalars,
    Sinusoidal,
    SoftmaxAttention,
)
from mesalens.storage import load_arrays, named_arrays, save_arrays
from mesalens.tasks import Gaussian, LinearFunctions, RegressionTask
from mesalens.training import train

KEY = jax.random.key(0)
SOFTMAX, LINEAR = SoftmaxAttention(), LinearAttention()
LINEAR_FIRST = {"attention": SOFTMAX, "first_attention": LINEAR}
SOFTMAX_FIRST = {"attention": LINEAR, "first_attention": SOFTMAX}
exactly = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)


def prompt_of(n, d, m, seed=0) -> Prompt:
    rng = np.random.default_rng(seed)
    return Prompt(
        *(jnp.asarray(rng.uniform(-1, 1, shape), float) for shape in ((n, d), (n, m), (d,)))
    )


def drawn(make, seed=0):
    """What `make` makes, with all weights and biases normal: those before training hide what depends on biases."""
    rng = np.random.default_rng(seed)
    shapes = eqx.filter_eval_shape(make)
    return jax.tree.map(
        lambda leaf: (
            jnp.asarray(0.6 * rng.normal(size=leaf.shape), float)
            if hasattr(leaf, "shape")
            else leaf
        ),
        shapes,
    )


def transformer(d, m=1, *, seed=0, **parts) -> Transformer:
    return drawn(lambda: Transformer.initialise(d, m, key=KEY, **parts), seed)


def affine(linear, row):
    """Here begins the reference, `by_loops`: NumPy, one row after the other."""
    return np.asarray(linear.weight) @ row + (0 if linear.bias is None else np.asarray(linear.bias))


def gelu_mlp(mlp, row):
    first, last = mlp.layers
    hidden = affine(first, row)
    return affine(
        last, hidden / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    )


def normalised(norm, row):
    if norm is None:
        return row
    return np.asarray(norm.weight) * (row - row.mean()) / np.sqrt(
        row.var() + norm.eps
    ) + np.asarray(norm.bias)


def tokens_of(tokens, prompt):
    d, m = prompt.dim, prompt.outputs
    start = (
        np.zeros(m)
        if getattr(tokens, "initial_weights", None) is None
        else -tokens.initial_weights @ prompt.query
    )
    rows = []
    for x, y in zip(prompt.xs, prompt.ys, strict=True):
        pieces = [(x, y)] if isinstance(tokens, Joint) else [(x, np.zeros(m)), (np.zeros(d), y)]
        rows += [np.concatenate(piece) for piece in pieces]
    return [*rows, np.concatenate([prompt.query, start])]


def embedded(embedding, rows):
    made = []
    for number, row in enumerate(rows):
        row = row if embedding.projection is None else affine(embedding.projection, row)
        row = row if embedding.mlp is None else row + gelu_mlp(embedding.mlp, row)
        if embedding.positions is not None:
            encoding = np.asarray(embedding.positions(len(rows)))[number]
            row = (
                row + encoding
                if embedding.combination == "add"
                else np.concatenate([row, encoding])
            )
        made.append(row)
    return made


def head_of(attention, head):
    """Functions from a row to its query, its key, its value, and from a sum of values to a row."""

    def part(matrices, biases):
        matrix, bias = np.asarray(matrices[head]), 0 if biases is None else np.asarray(biases[head])
        return lambda row: matrix @ row + bias

    return (
        part(attention.W_Q, attention.b_Q),
        part(attention.W_K, attention.b_K),
        part(attention.W_V, attention.b_V),
        part(attention.P, None),
    )


def layer_by_loops(layer, rows, visibility):
    """The rows after a layer, and the weights of its attention, 0 where a row is not seen."""
    attention, normed = layer.attention, [normalised(layer.attention_norm, row) for row in rows]
    weights = np.zeros((len(attention.P), len(rows), len(rows)))
    after = []
    for j, row in enumerate(rows):
        seen = {ContextOnly: range(len(rows) - 1), Causal: range(j + 1), AllRows: range(len(rows))}[
            type(visibility)
        ]
        row = row if attention.b_P is None else row + np.asarray(attention.b_P)
        for head in range(len(attention.P)):
            query, key, value, project = head_of(attention, head)
            scores = np.array([query(normed[j]) @ key(normed[i]) for i in seen])
            if isinstance(attention.kind, SoftmaxAttention):
                scores = np.exp(scores / np.sqrt(len(attention.W_Q[head])))
                scores /= scores.sum()
            weights[head, j, list(seen)] = scores
            row = row + project(
                sum(score * value(normed[i]) for score, i in zip(scores, seen, strict=True))
            )
        after.append(
            row if layer.mlp is None else row + gelu_mlp(layer.mlp, normalised(layer.mlp_norm, row))
        )
    return after, weights[..., :-1] if isinstance(visibility, ContextOnly) else weights


def by_loops(model, prompt):
    """Iterates, residual stream and attention weights."""
    stream, weights = [embedded(model.embedding, tokens_of(model.tokens, prompt))], []
    for number in range(model.layers):
        layer = model.stored_layers[0 if len(model.stored_layers) == 1 else number]
        rows, of_layer = layer_by_loops(layer, stream[-1], model.visibility)
        stream.append(rows)
        weights.append(of_layer)
    read = partial(affine, model.readout) if model.readout is not None else partial(minus_y, model)
    return [read(rows[-1]) for rows in stream], stream, weights


def minus_y(model, row):
    behind = model.embedding.positions is not None and model.embedding.combination == "concatenate"
    return -row[: len(row) - (model.embedding.positions.size if behind else 0)][-model.outputs :]


@eqx.filter_jit
def everything(model, prompt):
    return (
        model.iterates(prompt),
        model.residual_stream(prompt),
        model.attention_weights(prompt),
        model(prompt),
    )


FULL = {
    "layers": 2,
    "heads": 2,
    "key_size": 3,
    "layer_norm": True,
    "mlp_widening": 2,
    "biases": True,
}


@pytest.mark.parametrize(
    "parts",
    [
        {
            **FULL,
            **SOFTMAX_FIRST,
            "tokens": Interleaved(),
            "visibility": Causal(),
            "embedding_size": 6,
            "input_mlp_widening": 2,
            "positions": Sinusoidal(4),
        },
        {
            **FULL,
            **LINEAR_FIRST,
            "tokens": Joint(jnp.ones((2, 2))),
            "embedding_size": 3,
            "input_mlp_widening": 1,
            "positions": Learned(jnp.ones((5, 3))),
            "combination": "add",
            "readout": True,
        },
        {
            **FULL,
            "attention": SOFTMAX,
            "visibility": AllRows(),
            "looped": True,
            "positions": Sinusoidal(4),
            "combination": "add",
        },
        {
            "attention": LINEAR,
            "tokens": Interleaved(),
            "visibility": AllRows(),
            "layers": 2,
            "looped": True,
            "biases": True,
            "positions": Learned(jnp.ones((8, 3))),
            "readout": True,
        },
    ],
    ids=[
        "causal-interleaved",
        "context-joint-added-read",
        "all-looped-softmax",
        "all-looped-linear",
    ],
)
def test_the_whole_transformer_is_what_loops_over_rows_make(parts):
    with jax.enable_x64(True):
        model, prompt = transformer(2, 2, **parts), prompt_of(3, 2, 2)
        iterates, stream, weights, prediction = everything(model, prompt)
        assert stream.dtype == np.float64
        iterates_by_loops, stream_by_loops, weights_by_loops = by_loops(model, prompt)
        exactly(stream, stream_by_loops)
        exactly(iterates, iterates_by_loops)
        exactly(weights, weights_by_loops)
        exactly(prediction, iterates_by_loops[-1])


@pytest.mark.parametrize(
    ("alone", "parts"),
    [
        (True, {"layers": 2, "attention": LINEAR, "first_attention": SOFTMAX, "heads": 2}),
        (True, {"layers": 3, "looped": True, "key_size": 2, "readout": True}),
        (True, {"embedding_size": 7, "input_mlp_widening": 2, "attention": LINEAR}),
        (False, {"layers": 2, "layer_norm": True}),
        (False, {"biases": True}),
        (False, {"mlp_widening": 2}),
        (False, {"visibility": Causal()}),
    ],
)
def test_a_batch_is_what_each_prompt_gives_in_value_and_gradient(alone, parts):
    model = transformer(3, 2, tokens=Interleaved(), positions=Sinusoidal(2), **parts)
    prompts = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(prompt_of(4, 3, 2, s) for s in (0, 1, 2))
    )
    assert model._attends_alone(9) == alone

    def results(way):
        values, back = eqx.filter_vjp(way, model, prompts)
        return values, back(jnp.arange(6.0).reshape(3, 2) - 1)

    batch, each = eqx.filter_jit(
        lambda: (results(lambda m, p: m.batch(p)), results(lambda m, p: jax.vmap(m)(p)))
    )()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), batch, each)


@eqx.filter_jit
def both_forms(linear, prompt):
    def results(model):
        value, gradient = eqx.filter_value_and_grad(lambda model: jnp.sum(model(prompt) ** 2))(
            model
        )
        return (
            value,
            gradient,
            model(prompt),
            model.iterates(prompt),
            model.residual_stream(prompt),
            model.effective(),
        )

    return results(linear), results(Transformer.from_linear(linear))


@pytest.mark.parametrize(
    ("d", "m", "layers", "heads", "looped"),
    [(3, 1, 1, 1, False), (2, 3, 3, 2, False), (3, 2, 3, 1, True)],
)
@given(seed=st.integers(0, 999))
@settings(max_examples=5, deadline=None)
def test_without_further_parts_it_is_the_linear_transformer(d, m, layers, heads, looped, seed):
    with jax.enable_x64(True):
        structure = partial(Factors.initialise, key_size=d + 2)
        parts = {"layers": layers, "heads": heads, "looped": looped, "structure": structure}
        start = jnp.ones((m, d))
        linear = drawn(
            lambda: LinearTransformer.initialise(d, m, initial_weights=start, key=KEY, **parts),
            seed,
        )
        (value, gradient, *rest), (same_value, same_gradient, *same_rest) = both_forms(
            linear, prompt_of(4, d, m, seed)
        )
        exactly(same_value, value)
        jax.tree.map(exactly, same_rest, rest)
        for factor in ("W_Q", "W_K", "W_V", "P"):
            of_layers = [getattr(layer.attention, factor) for layer in same_gradient.stored_layers]
            expected = getattr(gradient.weights, factor)
            exactly(of_layers, expected, atol=1e-9 * np.abs(expected).max())
        exactly(same_gradient.tokens.initial_weights, gradient.initial_weights)


def test_weights_of_any_structure_become_attention():
    linear = drawn(
        lambda: LinearTransformer.initialise(2, 2, layers=2, structure=Scalars.initialise, key=KEY)
    )
    prompt = prompt_of(4, 2, 2)
    model = compiled(Transformer.from_linear, linear)
    predicted, expected = compiled(model, prompt), compiled(linear, prompt)
    np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-5)


def test_it_says_what_the_linear_one_says_of_itself():
    for looped in (True, False):
        linear = drawn(
            lambda looped=looped: LinearTransformer.initialise(
                3, 2, layers=2, looped=looped, key=KEY
            )
        )
        model = compiled(Transformer.from_linear, linear)
        assert (model.dim, model.outputs, model.layers, model.looped) == (3, 2, 2, looped)
        assert len(model.stored_layers) == (1 if looped else 2)


@eqx.filter_jit
def stream_and_weights(model, prompt):
    return model.residual_stream(prompt), model.attention_weights(prompt)


@pytest.mark.parametrize("visibility", [ContextOnly(), Causal(), AllRows()])
def test_attention_weights_are_distributions_or_plain_products_over_the_rows_that_are_seen(
    visibility,
):
    model = transformer(3, **SOFTMAX_FIRST, layers=2, heads=3, visibility=visibility)
    stream, weights = stream_and_weights(model, prompt_of(4, 3, 1))
    assert weights.shape == (2, 3, 5, 4 if isinstance(visibility, ContextOnly) else 5)
    softmax, linear = np.asarray(weights)
    np.testing.assert_allclose(softmax.sum(axis=-1), 1, rtol=1e-6)
    assert (softmax >= 0).all()
    unseen = np.triu(np.ones((5, 5), bool), 1)[:, : weights.shape[-1]] & isinstance(
        visibility, Causal
    )
    assert (softmax[:, unseen] == 0).all() and (linear[:, unseen] == 0).all()
    assert (softmax[:, ~unseen] > 0).all()
    attention = model.stored_layers[1].attention
    products = np.einsum("hka,ja,hkb,ib->hji", attention.W_Q, stream[1], attention.W_K, stream[1])
    seen = np.where(unseen, 0, products[..., : weights.shape[-1]])
    np.testing.assert_allclose(linear, seen, rtol=1e-4, atol=1e-5)


residual_stream = eqx.filter_jit(lambda model, prompt: model.residual_stream(prompt))
LAYOUTS = [(Joint(), 6), (Interleaved(), 3)]  # 7 rows both


@eqx.filter_jit
def with_row_changed(tokens, prompt, row, change):
    return tokens.prompt(tokens(prompt).at[row].add(change), outputs=prompt.outputs)


@pytest.mark.parametrize(("tokens", "n"), LAYOUTS)
@pytest.mark.parametrize("attention", [SOFTMAX, LINEAR])
@given(row=st.integers(1, 6), change=st.floats(-3, 3), seed=st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_where_keys_are_causal_no_row_sees_a_later_one(tokens, n, attention, row, change, seed):
    model = transformer(
        2, seed=seed, layers=2, attention=attention, tokens=tokens, visibility=Causal()
    )
    prompt = prompt_of(n, 2, 1, seed)
    stream, changed = (
        residual_stream(model, p)
        for p in (prompt, with_row_changed(tokens, prompt, np.asarray(row), np.float32(change)))
    )
    np.testing.assert_array_equal(changed[:, :row], stream[:, :row])
    if abs(change) > 0.01:
        assert not np.array_equal(changed[0, row], stream[0, row])


@pytest.mark.parametrize(("tokens", "n"), LAYOUTS)
def test_where_keys_are_all_rows_every_row_sees_every_other(tokens, n):
    """So that the check above has something to find."""
    prompt = prompt_of(n, 2, 1)
    for attention in (SOFTMAX, LINEAR):
        model = transformer(2, attention=attention, tokens=tokens, visibility=AllRows())
        stream = residual_stream(model, prompt)
        for row in range(7):
            other = with_row_changed(tokens, prompt, np.asarray(row), np.float32(1))
            changed = residual_stream(model, other)
            assert (np.abs(changed[1] - stream[1]).max(axis=-1) > 1e-4).all()


@pytest.mark.parametrize(("tokens", "n"), LAYOUTS)
def test_where_keys_are_the_contexts_no_row_but_its_own_sees_the_query(tokens, n):
    prompt = prompt_of(n, 2, 1)
    other = Prompt(prompt.xs, prompt.ys, prompt.query + 1)
    model = transformer(2, **SOFTMAX_FIRST, layers=2, tokens=tokens, biases=True, layer_norm=True)
    stream, changed = residual_stream(model, prompt), residual_stream(model, other)
    np.testing.assert_array_equal(changed[:, :-1], stream[:, :-1])
    assert not np.allclose(changed[1:, -1] - changed[:-1, -1], stream[1:, -1] - stream[:-1, -1])


def test_sensitivities_are_how_far_a_row_goes_when_a_token_does():
    with jax.enable_x64(True):
        model = transformer(
            2, **SOFTMAX_FIRST, layers=2, embedding_size=3, biases=True, visibility=Causal()
        )
        prompt, small = prompt_of(2, 2, 1), 1e-6

        def after_two_layers(tokens):
            rows = embedded(model.embedding, tokens)
            for layer in model.stored_layers:
                rows, _ = layer_by_loops(layer, rows, Causal())
            return np.array(rows)

        tokens, squares = np.array(tokens_of(model.tokens, prompt)), np.zeros((3, 3))
        for i, entry in np.ndindex(3, 3):
            step = np.zeros((3, 3))
            step[i, entry] = small
            slopes = (after_two_layers(tokens + step) - after_two_layers(tokens - step)) / (
                2 * small
            )
            squares[:, i] += np.sum(slopes**2, axis=1)
        found = eqx.filter_jit(lambda: model.sensitivities(prompt, 2))()
        np.testing.assert_allclose(found, np.sqrt(squares), rtol=1e-6, atol=1e-8)
        assert not np.triu(found, 1).any() and np.tril(found).sum() > 1


def test_before_the_first_layer_a_row_has_its_own_token_alone():
    model, prompt = transformer(2, 2, positions=Sinusoidal(2)), prompt_of(2, 2, 2)
    found = eqx.filter_jit(lambda: model.sensitivities(prompt, 0))()
    np.testing.assert_allclose(found, 2 * np.eye(3), rtol=1e-6)  # ‖I_4‖_F = 2
    for layer in (-1, 2):
        with pytest.raises(InputError, match=f"layer.*0 to 1.*{layer}"):
            model.sensitivities(prompt, layer)


@given(st.permutations(range(5)))
@settings(max_examples=8, deadline=None)
def test_without_positions_the_order_of_joint_tokens_does_not_matter(order):
    model, prompt = transformer(2, **SOFTMAX_FIRST, layers=2, heads=2), prompt_of(5, 2, 1)
    shuffled = Prompt(prompt.xs[np.array(order)], prompt.ys[np.array(order)], prompt.query)
    np.testing.assert_allclose(
        residual_stream(model, shuffled),
        residual_stream(model, prompt)[:, [*order, 5]],
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("combination", ["add", "concatenate"])
def test_with_positions_the_order_matters(combination):
    prompt = prompt_of(5, 3, 1)
    reverse = Prompt(prompt.xs[::-1], prompt.ys[::-1], prompt.query)
    model = transformer(3, positions=Sinusoidal(4), combination=combination)
    difference = residual_stream(model, reverse)[-1, -1] - residual_stream(model, prompt)[-1, -1]
    assert np.abs(difference).max() > 1e-3


@pytest.mark.slow
def test_weights_start_as_truncated_normals_each_of_its_own_and_biases_at_zero():
    parts = {
        "heads": 2,
        "key_size": 20,
        "mlp_widening": 2,
        "embedding_size": 40,
        "input_mlp_widening": 2,
    }
    model = eqx.filter_jit(
        lambda key: Transformer.initialise(30, layers=2, biases=True, key=key, **parts)
    )(KEY)
    linears = [model.embedding.projection, *model.embedding.mlp.layers]
    matrices = [
        (linear.weight, fan_in) for linear, fan_in in zip(linears, (31, 40, 80), strict=True)
    ]
    for layer in model.stored_layers:
        attention = layer.attention
        linears += layer.mlp.layers
        for weights, fan_in in (
            (attention.W_Q, 40),
            (attention.W_K, 40),
            (attention.W_V, 40),
            (attention.P, 2 * 20),
        ):
            matrices += [(head, fan_in) for head in weights]
        matrices += [(layer.mlp.layers[0].weight, 40), (layer.mlp.layers[1].weight, 80)]
        assert not any(
            np.any(bias) for bias in (attention.b_Q, attention.b_K, attention.b_V, attention.b_P)
        )
    assert not any(np.any(linear.bias) for linear in linears)
    for weights, fan_in in matrices:
        deviation = np.sqrt(0.002 / 2 / fan_in)
        assert float(weights.std()) == pytest.approx(deviation, rel=0.08)
        assert float(jnp.abs(weights).max()) < 2.001 * deviation / 0.8796
    beginnings = np.array([np.ravel(weights)[:800] / np.std(weights) for weights, _ in matrices])
    np.testing.assert_allclose(np.corrcoef(beginnings), np.eye(len(matrices)), atol=0.2)


def with_every_part(seed=0):
    parts = {
        **FULL,
        "layers": 1,
        "visibility": Causal(),
        "tokens": Joint(jnp.ones((1, 2))),
        "embedding_size": 3,
        "input_mlp_widening": 1,
        "positions": Learned(jnp.ones((4, 3))),
        "readout": True,
    }
    return transformer(2, seed=seed, **parts)


@pytest.mark.slow
def test_training_changes_every_part_but_where_the_query_starts():
    """Two steps, from two seeds."""
    before = with_every_part()
    task = RegressionTask(Gaussian(2), LinearFunctions(2), context_length=3)
    options = {"steps": 2, "batch_size": 16, "seeds": 2, "every": 2}
    training = train(lambda key: before, task, optax.sgd(0.1), key=KEY, **options)
    then, now = named_arrays(before), named_arrays(training.learners)
    moved = {name: np.abs(now[name] - then[name]).reshape(2, -1).max(axis=1) for name in then}
    assert len(moved) == 1 + 2 + 4 + 1 + (8 + 2 + 4 + 2) + 2
    assert (moved.pop("tokens.initial_weights") == 0).all()
    # b_K adds the same to every logit of a query: it moves by the rounding of the other gradients
    rounding = 1e-6 * max(change.max() for change in moved.values())
    assert (moved.pop("stored_layers.0.attention.b_K") < rounding).all()
    assert [name for name in moved if not (moved[name] > 0.01).all()] == []


def test_what_is_trainable_is_every_float_array_but_w_0():
    model = with_every_part()
    mask = model.trainable()
    assert mask.tokens.initial_weights is False
    assert mask.embedding.mlp.activation is False
    assert sum(jax.tree.leaves(mask)) == len(named_arrays(model)) - 1


def test_weights_are_kept_in_a_file(tmp_path):
    template, model = with_every_part(), with_every_part(seed=1)
    save_arrays(model, tmp_path / "weights.safetensors")
    loaded = load_arrays(template, tmp_path / "weights.safetensors")
    jax.tree.map(np.testing.assert_array_equal, named_arrays(loaded), named_arrays(model))
    assert jax.tree.structure(loaded) == jax.tree.structure(model)


@pytest.mark.parametrize(
    ("parts", "keywords"),
    [
        ({"layers": 0}, "layers.*0"),
        ({"heads": 0}, "heads.*0"),
        ({"key_size": 0}, "key_size.*0"),
        ({"mlp_widening": 0}, "mlp_widening.*0"),
        ({"input_mlp_widening": -1}, "input_mlp_widening.*-1"),
        ({"embedding_size": 0}, "embedding_size.*0"),
        ({"init_scale": 0.0}, r"init_scale.*0\.0"),
        ({"embedding_size": 1, "outputs": 2}, "embedding_size.*2.*1"),
        ({"first_attention": LINEAR, "layers": 2, "looped": True}, "first_attention.*looped"),
        ({"positions": Sinusoidal(4), "combination": "add"}, "size 4.*width 3"),
    ],
)
def test_parts_that_do_not_fit_get_a_sentence(parts, keywords):
    with pytest.raises(InputError, match=keywords):
        Transformer.initialise(2, key=KEY, **parts)


@pytest.mark.parametrize(
    ("prompt", "keywords"),
    [
        (prompt_of(4, 2, 1), "d = 3 and m = 1.*d = 2 and m = 1"),
        (prompt_of(4, 3, 2), "d = 3 and m = 1.*d = 3 and m = 2"),
        (prompt_of(4, 2, 2), "d = 3 and m = 1.*d = 2 and m = 2"),
    ],
)
def test_a_prompt_of_another_size_gets_a_sentence(prompt, keywords):
    with pytest.raises(InputError, match=keywords):
        transformer(3)(prompt)


@pytest.mark.parametrize(
    "ask",
    [predict, lambda model, prompt: model(prompt), lambda model, prompt: model.iterates(prompt)],
)
def test_a_condensed_prompt_gets_a_sentence(ask, monkeypatch):
    monkeypatch.setattr(
        jaxtyping.config, "jaxtyping_disable", True
    )  # as where types are not checked
    with pytest.raises(InputError, match="condensed"):
        ask(transformer(3), prompt_of(6, 3, 1).condense())


def test_weights_that_do_not_fit_get_a_sentence():
    layers = transformer(2, layers=2)
    with pytest.raises(InputError, match=r"weights.*2 layers.*3"):
        Transformer(layers.tokens, layers.embedding, layers.stored_layers, layers=3, dim=2)
    clipped = drawn(lambda: LinearTransformer.initialise(2, activation_clip=1.0, key=KEY))
    with pytest.raises(InputError, match="activation_clip"):
        Transformer.from_linear(clipped)
    attention = transformer(2, biases=True).stored_layers[0].attention
    with pytest.raises(InputError, match="b_Q and b_K"):
        Attention(attention.W_Q, attention.W_K, attention.W_V, attention.P, b_K=attention.b_K)


def test_factors_and_layers_that_do_not_fit_each_other_get_a_sentence(monkeypatch):
    one, two = (transformer(2, heads=heads) for heads in (1, 2))
    both = Transformer(
        one.tokens, one.embedding, one.stored_layers + two.stored_layers, layers=2, dim=2
    )
    for ask in (both.effective, lambda: both.attention_weights(prompt_of(4, 2, 1))):
        with pytest.raises(InputError, match=r"\[1, 2\] heads.*stored_layers"):
            ask()
    monkeypatch.setattr(
        jaxtyping.config, "jaxtyping_disable", True
    )  # as where types are not checked
    W, P = jnp.ones((1, 2, 3)), jnp.ones((1, 3, 2))
    for factors, keywords in (
        ((W, W, W, W), r"P must.*\(1, 3, 2\).*\(1, 2, 3\)"),
        ((W, P, W, P), r"W_K must.*\(1, 2, 3\).*\(1, 3, 2\)"),
        ((W[0], W, W, P), r"W_Q must.*\(H, K, D\).*\(2, 3\)"),
    ):
        with pytest.raises(InputError, match=keywords):
            Attention(*factors)
    of_seeds = eqx.filter_vmap(Attention)(*(jnp.stack([factor] * 5) for factor in (W, W, W, P)))
    assert of_seeds.P.shape == (5, 1, 3, 2)
