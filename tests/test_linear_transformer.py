"""The linear transformer: its two forward passes, its symmetries, its initial weights."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import compiled
from hypothesis import given, settings
from hypothesis import strategies as st

from mesalens import InputError, LinearTransformer, Prompt
from mesalens.models import Factors


def made(dim, outputs, seed, key_size=None, **shape) -> LinearTransformer:
    start = jax.random.normal(jax.random.key(seed + 1), (outputs, dim))
    structure = partial(Factors.initialise, key_size=key_size)
    options = {"init_scale": 0.5, "initial_weights": start, "structure": structure, **shape}
    key = jax.random.key(seed)
    return LinearTransformer.initialise(dim, outputs, key=key, **options)


def prompt_of(n, d, m, seed) -> Prompt:
    rng = np.random.default_rng(seed)
    return Prompt(rng.uniform(-1, 1, (n, d)), rng.uniform(-1, 1, (n, m)), rng.uniform(-1, 1, d))


@eqx.filter_jit
def both_forms(model, prompt):
    values = model(prompt), model.token_by_token(prompt)
    gradients = (
        eqx.filter_grad(lambda model: jnp.sum(model(prompt) ** 2))(model),
        eqx.filter_grad(lambda model: jnp.sum(model.token_by_token(prompt) ** 2))(model),
    )
    return values, gradients


@pytest.mark.parametrize(
    ("n", "d", "m", "layers", "heads", "looped"),
    [
        (5, 3, 1, 1, 1, False),
        pytest.param(1, 1, 1, 2, 1, False, marks=pytest.mark.slow),
        pytest.param(4, 2, 3, 1, 3, False, marks=pytest.mark.slow),
        (3, 4, 2, 3, 2, False),
        (7, 3, 1, 4, 1, True),
    ],
)
@given(seed=st.integers(0, 999))
@settings(max_examples=10, deadline=None)
def test_fast_form_equals_token_by_token_in_value_and_gradient(
    n, d, m, layers, heads, looped, seed
):
    with jax.enable_x64(True):
        model = made(d, m, seed, layers=layers, heads=heads, looped=looped, key_size=d + 2)
        (value, reference), (gradient, reference_gradient) = both_forms(
            model, prompt_of(n, d, m, seed)
        )
        close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)
        close(value, reference)
        jax.tree.map(close, gradient, reference_gradient)


def test_one_layer_against_the_formula_written_with_loops():
    model, prompt = made(3, 2, 0, heads=2), prompt_of(5, 3, 2, 0)
    tokens = np.concatenate([prompt.xs, prompt.ys], axis=1)
    query = np.concatenate([prompt.query, -model.initial_weights @ prompt.query])
    changed, weights = query.copy(), model.weights
    for head in range(2):
        for token in tokens:
            score = (weights.W_K[0, head] @ token) @ (weights.W_Q[0, head] @ query)
            changed += np.asarray(weights.P[0, head] @ (weights.W_V[0, head] @ token)) * score
    np.testing.assert_allclose(compiled(model, prompt), -changed[3:], rtol=1e-4, atol=1e-5)


@given(st.permutations(range(6)))
@settings(max_examples=10, deadline=None)
def test_the_order_of_the_context_does_not_matter(order):
    model, prompt = made(3, 1, 4, layers=2), prompt_of(6, 3, 1, 4)
    shuffled = Prompt(prompt.xs[np.array(order)], prompt.ys[np.array(order)], prompt.query)
    predicted, expected = compiled(model, shuffled), compiled(model, prompt)
    np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-5)


def test_the_context_never_sees_the_query():
    model, prompt = made(3, 1, 5, layers=3), prompt_of(6, 3, 1, 5)
    other = Prompt(prompt.xs, prompt.ys, prompt.query + 10)
    stream, changed = (compiled(model.residual_stream, each) for each in (prompt, other))
    np.testing.assert_allclose(stream[:, :-1], changed[:, :-1], rtol=1e-5, atol=1e-6)


def test_a_looped_model_equals_an_unshared_one_with_the_same_layer_repeated():
    looped = made(3, 1, 6, layers=3, looped=True)
    assert looped.looped and looped.stored == 1
    repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf, 3, axis=0), looped.weights)
    unshared = LinearTransformer(repeated, layers=3, initial_weights=looped.initial_weights)
    assert not unshared.looped
    prompt = prompt_of(5, 3, 1, 6)
    predicted, expected = compiled(looped, prompt), compiled(unshared, prompt)
    np.testing.assert_allclose(predicted, expected, rtol=1e-5)


def test_effective_matrices_make_the_same_model():
    model, prompt = made(3, 2, 7, layers=2, heads=2), prompt_of(5, 3, 2, 7)
    A, B = compiled(model.effective)
    rebuilt = LinearTransformer.from_effective(
        A, B, layers=2, outputs=2, initial_weights=model.initial_weights
    )
    predicted, expected = compiled(rebuilt, prompt), compiled(model, prompt)
    np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 4])
def test_initial_weights_have_the_papers_variance_and_are_truncated(layers):
    structure = partial(Factors.initialise, key_size=30)
    options = {"layers": layers, "heads": 2, "structure": structure, "key": jax.random.key(0)}
    model = LinearTransformer.initialise(60, **options).weights
    for weights, fan_in in ((model.W_Q, 61), (model.W_K, 61), (model.W_V, 61), (model.P, 60)):
        assert weights.shape[0] == layers
        deviation = np.sqrt(0.002 / layers / fan_in)
        assert float(weights.std()) == pytest.approx(deviation, rel=0.05)
        assert float(jnp.abs(weights).max()) < 2.001 * deviation / 0.8796


def test_the_start_is_not_trained():
    mask = made(3, 1, 0).trainable()
    assert mask.initial_weights is False
    assert mask.weights.W_Q is mask.weights.W_K is mask.weights.W_V is mask.weights.P is True


@pytest.mark.parametrize(
    ("sizes", "keywords"),
    [
        ({"layers": 0}, "layers.*0"),
        ({"heads": 0}, "heads.*0"),
        ({"structure": partial(Factors.initialise, key_size=0)}, "key_size.*0"),
        ({"init_scale": 0.0}, r"init_scale.*0\.0"),
        ({"initial_weights": jnp.ones((2, 1))}, r"initial_weights.*\(1, 2\).*\(2, 1\)"),
        ({"activation_clip": -1.0}, r"activation_clip.*-1\.0"),
    ],
)
def test_bad_sizes_get_a_sentence(sizes, keywords):
    with pytest.raises(InputError, match=keywords):
        LinearTransformer.initialise(2, key=jax.random.key(0), **sizes)


@pytest.mark.parametrize(
    ("times", "damping", "keywords"),
    [
        (0, 1.0, "times.*0"),
        (2, -0.5, r"damping.*-0\.5"),
        (2, 0.0, r"damping.*0\.0"),
        (2, np.nan, "damping.*nan"),
    ],
)
def test_bad_repetitions_get_a_sentence(times, damping, keywords):
    with pytest.raises(InputError, match=keywords):
        made(3, 1, 0).repeated(times, damping=damping)


def test_layers_with_weights_of_their_own_cannot_be_repeated():
    with pytest.raises(InputError, match=r"2 layers.*looped"):
        made(3, 1, 0, layers=2).repeated(2)


def test_a_prompt_of_another_size_gets_a_sentence():
    with pytest.raises(InputError, match=r"d = 3.*d = 4"):
        made(3, 1, 0)(prompt_of(5, 4, 1, 0))


def test_weights_for_another_number_of_layers_get_a_sentence():
    model = made(3, 1, 0, layers=2)
    with pytest.raises(InputError, match=r"weights.*2 layers.*3"):
        LinearTransformer(model.weights, layers=3)
