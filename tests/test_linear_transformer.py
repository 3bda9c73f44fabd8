"""The linear transformer: its two forward passes, its symmetries, its initial weights."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesalens import InputError, LinearTransformer, Prompt


def made(dim, outputs, seed, **shape) -> LinearTransformer:
    start = jax.random.normal(jax.random.key(seed + 1), (outputs, dim))
    return LinearTransformer.initialise(
        dim, outputs, init_scale=0.5, initial_weights=start, key=jax.random.key(seed), **shape
    )


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
        (1, 1, 1, 2, 1, False),
        (4, 2, 3, 1, 3, False),
        (3, 4, 2, 3, 2, False),
        (7, 3, 1, 4, 1, True),
    ],
)
@given(seed=st.integers(0, 999))
@settings(max_examples=10, deadline=None)
def test_fast_form_equals_token_by_token_in_value_and_gradient(n, d, m, layers, heads, looped, seed):
    with jax.enable_x64(True):
        model = made(d, m, seed, layers=layers, heads=heads, looped=looped, key_size=d + 2)
        (value, reference), (gradient, reference_gradient) = both_forms(model, prompt_of(n, d, m, seed))
        close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)
        close(value, reference)
        jax.tree.map(close, gradient, reference_gradient)


def test_one_layer_against_the_formula_written_with_loops():
    model, prompt = made(3, 2, 0, heads=2), prompt_of(5, 3, 2, 0)
    tokens = np.concatenate([prompt.xs, prompt.ys], axis=1)
    query = np.concatenate([prompt.query, -model.initial_weights @ prompt.query])
    changed = query.copy()
    for head in range(2):
        for token in tokens:
            score = (model.W_K[0, head] @ token) @ (model.W_Q[0, head] @ query)
            changed += np.asarray(model.P[0, head] @ (model.W_V[0, head] @ token)) * score
    np.testing.assert_allclose(model(prompt), -changed[3:], rtol=1e-4, atol=1e-5)


@given(st.permutations(range(6)))
@settings(max_examples=10, deadline=None)
def test_the_order_of_the_context_does_not_matter(order):
    model, prompt = made(3, 1, 4, layers=2), prompt_of(6, 3, 1, 4)
    shuffled = Prompt(prompt.xs[np.array(order)], prompt.ys[np.array(order)], prompt.query)
    np.testing.assert_allclose(model(shuffled), model(prompt), rtol=1e-4, atol=1e-5)


def test_the_context_never_sees_the_query():
    model, prompt = made(3, 1, 5, layers=3), prompt_of(6, 3, 1, 5)
    other = Prompt(prompt.xs, prompt.ys, prompt.query + 10)
    np.testing.assert_allclose(
        model.residual_stream(prompt)[:, :-1], model.residual_stream(other)[:, :-1], rtol=1e-5, atol=1e-6
    )


def test_a_looped_model_equals_an_unshared_one_with_the_same_layer_repeated():
    looped = made(3, 1, 6, layers=3, looped=True)
    assert looped.looped and looped.W_Q.shape[0] == 1
    repeat = [jnp.repeat(w, 3, axis=0) for w in (looped.W_Q, looped.W_K, looped.W_V, looped.P)]
    unshared = LinearTransformer(*repeat, layers=3, initial_weights=looped.initial_weights)
    assert not unshared.looped
    prompt = prompt_of(5, 3, 1, 6)
    np.testing.assert_allclose(looped(prompt), unshared(prompt), rtol=1e-5)


def test_effective_matrices_make_the_same_model():
    model, prompt = made(3, 2, 7, layers=2, heads=2), prompt_of(5, 3, 2, 7)
    A, B = model.effective()
    rebuilt = LinearTransformer.from_effective(A, B, layers=2, outputs=2, initial_weights=model.initial_weights)
    np.testing.assert_allclose(rebuilt(prompt), model(prompt), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 4])
def test_initial_weights_have_the_papers_variance_and_are_truncated(layers):
    model = LinearTransformer.initialise(60, layers=layers, heads=2, key_size=30, key=jax.random.key(0))
    for weights, fan_in in ((model.W_Q, 61), (model.W_K, 61), (model.W_V, 61), (model.P, 60)):
        assert weights.shape[0] == layers
        deviation = np.sqrt(0.002 / layers / fan_in)
        assert float(weights.std()) == pytest.approx(deviation, rel=0.05)
        assert float(jnp.abs(weights).max()) < 2.001 * deviation / 0.8796


def test_the_start_is_not_trained():
    mask = made(3, 1, 0).trainable()
    assert mask.initial_weights is False
    assert mask.W_Q is mask.W_K is mask.W_V is mask.P is True


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"layers": 0}, "layers is 0"),
        ({"heads": 0}, "heads is 0"),
        ({"key_size": 0}, "key_size"),
        ({"init_scale": 0.0}, "init_scale"),
    ],
)
def test_bad_sizes_get_a_sentence(sizes, sentence):
    with pytest.raises(InputError, match=sentence):
        LinearTransformer.initialise(2, key=jax.random.key(0), **sizes)


@pytest.mark.parametrize(
    ("times", "damping", "sentence"),
    [(0, 1.0, "times is 0"), (2, -0.5, "damping is -0.5"), (2, 0.0, "damping is 0.0"), (2, np.nan, "damping is nan")],
)
def test_bad_repetitions_get_a_sentence(times, damping, sentence):
    with pytest.raises(InputError, match=sentence):
        made(3, 1, 0).repeated(times, damping=damping)


def test_a_prompt_of_another_size_gets_a_sentence():
    with pytest.raises(InputError, match="reads d = 3 and m = 1, and the prompt has d = 4"):
        made(3, 1, 0)(prompt_of(5, 4, 1, 0))


def test_weights_for_another_number_of_layers_get_a_sentence():
    model = made(3, 1, 0, layers=2)
    with pytest.raises(InputError, match="weights for 2 layers in a transformer of 3"):
        LinearTransformer(model.W_Q, model.W_K, model.W_V, model.P, layers=3)
