"""What a transformer reads: the layout of a prompt as rows, which row is which, and what is done to rows first."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesalens import InputError, Prompt
from mesalens.models import Embedding, Interleaved, Joint, Learned, Sinusoidal

KEY = jax.random.key(0)


def prompt_of(n, d, m, seed=0) -> Prompt:
    rng = np.random.default_rng(seed)
    return Prompt(*(np.float32(rng.normal(size=shape)) for shape in ((n, d), (n, m), (d,))))


PROMPT = prompt_of(2, 3, 2)


def test_joint_tokens_are_x_and_y_of_an_example_in_one_row():
    (x_1, x_2), (y_1, y_2) = np.asarray(PROMPT.xs), np.asarray(PROMPT.ys)
    rows = [[*x_1, *y_1], [*x_2, *y_2], [*PROMPT.query, 0, 0]]
    np.testing.assert_array_equal(Joint()(PROMPT), rows)


def test_interleaved_tokens_are_x_and_y_of_an_example_in_two_rows():
    (x_1, x_2), (y_1, y_2) = np.asarray(PROMPT.xs), np.asarray(PROMPT.ys)
    no_x, no_y = [0, 0, 0], [0, 0]
    rows = [[*x_1, *no_y], [*no_x, *y_1], [*x_2, *no_y], [*no_x, *y_2], [*PROMPT.query, *no_y]]
    np.testing.assert_array_equal(Interleaved()(PROMPT), rows)


def test_the_query_starts_at_minus_what_w_0_predicts():
    start = np.float32([[1, 2, 3], [-1, 0, 4]])
    tokens = Joint(jnp.asarray(start))
    np.testing.assert_allclose(tokens.query(PROMPT)[3:], -start @ PROMPT.query, rtol=1e-6)
    np.testing.assert_array_equal(tokens(PROMPT)[:-1], Joint()(PROMPT)[:-1])
    np.testing.assert_array_equal(tokens.query(PROMPT)[:3], PROMPT.query)


@jax.jit
def there_and_back(tokens, prompt):
    rows = tokens(prompt)
    return rows, tokens.prompt(rows, outputs=prompt.outputs)


@pytest.mark.parametrize("tokens", [Joint(), Interleaved()])
@given(n=st.integers(1, 4), d=st.integers(1, 3), m=st.integers(1, 3))
@settings(max_examples=8, deadline=None)
def test_rows_are_as_many_as_stated_and_the_prompt_can_be_read_back(tokens, n, d, m):
    prompt = prompt_of(n, d, m)
    rows, again = there_and_back(tokens, prompt)
    assert rows.shape == (tokens.rows(n), d + m)
    jax.tree.map(np.testing.assert_array_equal, again, prompt)


@pytest.mark.parametrize(
    ("tokens", "rows", "outputs", "keywords"),
    [
        (Interleaved(), (4, 3), 1, "rows.*4"),
        (Interleaved(), (5, 3), 3, "outputs=3.*width 3"),
        (Joint(), (5, 2), 2, "outputs=2.*width 2"),
        (Joint(), (5, 2), 0, "outputs.*0"),
    ],
)
def test_rows_of_no_prompt_get_a_sentence(tokens, rows, outputs, keywords):
    with pytest.raises(InputError, match=keywords):
        tokens.prompt(jnp.zeros(rows), outputs=outputs)


def test_sinusoidal_encodings_are_sines_and_cosines_of_a_geometric_series_of_frequencies():
    encodings = Sinusoidal(6, 100.0)(4)
    assert encodings.shape == (4, 6)
    for row in range(4):
        for wave, frequency in enumerate((1, 100 ** (-1 / 3), 100 ** (-2 / 3))):
            pair = np.sin(row * frequency), np.cos(row * frequency)
            np.testing.assert_allclose(
                encodings[row, 2 * wave : 2 * wave + 2], pair, rtol=1e-5, atol=1e-7
            )


@given(waves=st.integers(1, 5), longest=st.floats(2, 1e5), ahead=st.integers(-4, 4))
@settings(max_examples=30, deadline=None)
@pytest.mark.slow
def test_one_rotation_takes_every_row_to_the_next(waves, longest, ahead):
    positions = Sinusoidal(2 * waves, longest)
    encodings, step = np.asarray(positions(5)), positions.step(1)
    np.testing.assert_allclose(encodings[1:], encodings[:-1] @ step.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        positions.step(ahead), np.linalg.matrix_power(step, ahead), rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(step @ step.T, np.eye(2 * waves), atol=1e-12)


@given(waves=st.integers(1, 5), longest=st.floats(2, 1e5))
@settings(max_examples=10, deadline=None)
def test_sinusoidal_encodings_are_like_each_other_by_distance_alone_and_most_like_themselves(
    waves, longest
):
    encodings = np.asarray(Sinusoidal(2 * waves, longest)(8), np.float64)
    products = encodings @ encodings.T
    for distance in range(8):
        np.testing.assert_allclose(
            np.diag(products, distance), products[0, distance], rtol=1e-5, atol=1e-5
        )
    assert (products[0, 1:] < products[0, 0]).all()


@pytest.mark.parametrize(
    ("make", "keywords"),
    [
        (lambda: Sinusoidal(5), "entries.*even.*5"),
        (lambda: Sinusoidal(0), "entries.*0"),
        (lambda: Sinusoidal(4, 0.0), r"longest.*0\.0"),
        (lambda: Learned.initialise(0, 4, key=KEY), "rows.*0"),
        (lambda: Learned.initialise(4, 0, key=KEY), "size.*0"),
        (lambda: Learned.initialise(4, 3, key=KEY)(5), "rows.*4.*5"),
    ],
)
def test_encodings_that_cannot_be_get_a_sentence(make, keywords):
    with pytest.raises(InputError, match=keywords):
        make()


def test_learned_encodings_are_the_first_rows_of_a_table_and_small_at_first():
    positions = Learned.initialise(50, 60, key=KEY)
    assert positions.size == 60
    np.testing.assert_array_equal(positions(7), positions.table[:7])
    np.testing.assert_array_equal(positions(50), positions.table)
    assert float(positions.table.std()) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(
    ("tokens", "embedded", "biased_projection", "biased_mlp"),
    [
        (3, 7, True, True),
        (3, 7, False, True),
        (3, 7, True, False),
        (3, 7, False, False),
        (7, 3, True, True),
    ],
)
def test_rows_are_projected_and_then_changed_by_an_mlp(
    tokens, embedded, biased_projection, biased_mlp
):
    """However the two are multiplied: each row by hand, `h = E e`, then `h + MLP(h)`."""
    rng = np.random.default_rng(0)

    def make(key):
        projection = eqx.nn.Linear(tokens, embedded, use_bias=biased_projection, key=key)
        return Embedding(
            projection, eqx.nn.MLP(embedded, embedded, 5, 2, jnp.tanh, use_bias=biased_mlp, key=key)
        )

    embedding = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape) if hasattr(leaf, "shape") else leaf,
        eqx.filter_eval_shape(make, KEY),
    )
    layers = [(layer.weight, layer.bias) for layer in (embedding.projection, *embedding.mlp.layers)]
    rows = rng.normal(size=(2, tokens))
    embedded_rows = eqx.filter_jit(embedding)(rows)
    projection, *hidden, last = [
        lambda row, weight=weight, bias=bias: weight @ row + (0 if bias is None else bias)
        for weight, bias in layers
    ]
    for row, embedded_row in zip(rows, embedded_rows, strict=True):
        projected = activation = projection(row)
        for layer in hidden:
            activation = np.tanh(layer(activation))
        np.testing.assert_allclose(embedded_row, projected + last(activation), rtol=1e-4, atol=1e-5)


def test_encodings_are_put_behind_rows_or_added_to_them():
    rows, positions = jnp.arange(12.0).reshape(3, 4), Sinusoidal(4)
    np.testing.assert_array_equal(Embedding()(rows), rows)
    behind = Embedding(positions=positions)
    np.testing.assert_array_equal(behind(rows), np.concatenate([rows, positions(3)], axis=1))
    added = Embedding(positions=positions, combination="add")
    np.testing.assert_allclose(added(rows), rows + positions(3), rtol=1e-6)
    assert (behind.token_width(4), behind.width(4)) == (4, 8)
    assert (added.token_width(4), added.width(4)) == (4, 4)
    assert Embedding(eqx.nn.Linear(4, 6, key=KEY), positions=positions).width(4) == 10


def test_encodings_of_another_width_cannot_be_added():
    with pytest.raises(InputError, match=r"size 6.*width 4"):
        Embedding(positions=Sinusoidal(6), combination="add")(jnp.zeros((3, 4)))
