"""Products of small matrices and batches of deep transformers, against the plain formulas; in float64."""

import dataclasses
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import compiled

from mesalens import GradientDescent, LinearTransformer, Prompt
from mesalens.models.linear_transformer import FEW_LAYERS
from mesalens.models.small_matrices import (
    LARGEST,
    gram,
    product,
    squared,
    times_symmetric,
    times_weights,
)


@pytest.fixture(autouse=True)
def in_double():
    with jax.enable_x64(True):
        yield


def close(found, expected):
    jax.tree.map(
        lambda f, e: np.testing.assert_allclose(
            f, e, rtol=1e-10, atol=1e-11 * (1 + np.abs(e).max())
        ),
        found,
        expected,
    )


def drawn(r, D, lead=()):
    """Rows, other rows, symmetric matrices, shared weights, and what gradients of F W are taken with."""
    rng = np.random.default_rng(r + D)
    shapes = ((3, r, D), (3, r, D), (3, D, D), (D, D + 2), (3, r, D + 2))
    rows, others, S, weights, upstream = (
        jnp.asarray(rng.normal(size=(*lead, *shape))) for shape in shapes
    )
    return rows, others, S + S.swapaxes(-1, -2), weights, upstream


def written(rows, others, S, weights, first):
    """Those with derivatives of their own, then the others."""
    own = gram(rows, first), times_symmetric(rows, S), times_weights(rows, weights)
    return own, (
        squared(rows, others),
        squared(rows, rows),
        product(rows, S),
        product(rows, weights),
    )


def plain(rows, others, S, weights, first, einsum=jnp.einsum):
    used = rows[:, :first]
    mixed = einsum("bri,brj->bij", rows, others)
    by_S, by_weights = einsum("brk,bkc->brc", rows, S), einsum("brk,kc->brc", rows, weights)
    rest = (mixed + mixed.swapaxes(1, 2)) / 2, einsum("bri,brj->bij", rows, rows), by_S, by_weights
    return (einsum("bri,brj->bij", used, used), by_S, by_weights), rest


def gradients(form, rows, others, S, weights, upstream, first):
    """Of the three with derivatives of their own, where the gradient of gram is symmetric."""

    def loss(rows, S, weights):
        values, _ = form(rows, others, S, weights, first)
        return sum(
            jnp.sum(v * u) for v, u in zip(values, (symmetric, others, upstream), strict=True)
        )

    symmetric = jnp.cos(S)
    return jax.grad(loss, argnums=(0, 1, 2))(rows, S, weights)


@pytest.mark.parametrize(("r", "D"), [(1, 7), (6, 5), (LARGEST + 1, LARGEST + 1)])
def test_products_and_their_gradients_are_those_of_the_formula(r, D):
    arrays, first = drawn(r, D), max(r - 1, 1)

    @jax.jit
    def both(*arrays):
        return (
            written(*arrays[:4], first),
            gradients(written, *arrays, first),
            gradients(plain, *arrays, first),
        )

    values, found, (of_rows, of_S, of_weights) = both(*arrays)
    close(values, plain(*arrays[:4], first, einsum=np.einsum))
    close(
        found, (of_rows, (of_S + of_S.swapaxes(1, 2)) / 2, of_weights)
    )  # by convention, symmetric


def test_an_axis_of_seeds_is_one_more():
    arrays = drawn(4, 3, lead=(2,))
    of_each = jax.jit(partial(gradients, written, first=3))
    found = jax.vmap(of_each)(*arrays)
    for seed in range(2):
        close(
            jax.tree.map(lambda leaf, seed=seed: leaf[seed], found),
            of_each(*(array[seed] for array in arrays)),
        )


def made(d, m, **options) -> LinearTransformer:
    start = jax.random.normal(jax.random.key(1), (m, d))
    model = LinearTransformer.initialise(
        d,
        m,
        init_scale=0.3 * options.get("layers", 1),
        initial_weights=start,
        key=jax.random.key(0),
        **options,
    )
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), model)


def prompts_of(n, d, m) -> Prompt:
    rng = np.random.default_rng(n)
    return Prompt(*(rng.uniform(-1, 1, (2, *shape)) for shape in ((n, d), (n, m), (d,))))


@pytest.mark.parametrize(
    ("n", "d", "m", "options"),
    [
        (1, 1, 1, {"layers": 1}),
        (3, 4, 1, {"layers": 3, "heads": 2}),  # tokens are carried
        (13, 2, 3, {"layers": 2, "heads": 2}),  # S is carried
        pytest.param(
            9, 2, 1, {"layers": FEW_LAYERS + 1, "looped": True}, marks=pytest.mark.slow
        ),  # in a loop
        (9, 2, 1, {"layers": 2, "heads": 2, "activation_clip": 0.5}),
    ],
)
def test_a_batch_is_what_each_prompt_gives_in_value_and_gradient(n, d, m, options):
    model, prompts, upstream = (
        made(d, m, **options),
        prompts_of(n, d, m),
        jnp.arange(2.0 * m).reshape(2, m) - 1,
    )
    ways = {
        "batch": lambda model, prompts: model.batch(prompts),
        "call": lambda model, prompts: jax.vmap(model)(prompts),
        "tokens": lambda model, prompts: jax.vmap(type(model).token_by_token, (None, 0))(
            model, prompts
        ),
    }
    if n > d + m and model.activation_clip is None:
        ways |= {"condensed": lambda model, prompts: model.batch(prompts.condense())}

    @jax.jit
    def every(model, prompts):
        def of(way):
            values, back = jax.vjp(lambda model: way(model, prompts), model)
            return values, back(upstream)

        return {name: of(way) for name, way in ways.items()}, jax.vmap(model.residual_stream)(
            prompts
        )

    found, stream = every(model, prompts)
    reference = found.pop("tokens")
    for name in found:
        close(found[name], reference)
    if model.activation_clip is not None:  # the clip is at work
        assert np.abs(stream[:, 1:]).max() == model.activation_clip < np.abs(stream[:, 0]).max()


@pytest.mark.slow
def test_one_layer_by_the_code_of_many_is_one_layer():
    model, prompts = made(3, 2, layers=1, heads=2), prompts_of(5, 3, 2)
    once = jax.vmap(model)(prompts)
    far_clip = dataclasses.replace(model, activation_clip=1e6)
    looped = made(3, 2, layers=1, heads=2, looped=True)
    assert not looped.looped
    for same in (looped, far_clip, model.repeated(1)):
        close(same.batch(prompts), once)
        close(jax.vmap(same.token_by_token)(prompts), once)


def test_one_step_of_gd_plus_plus_is_one_of_gradient_descent():
    prompts = prompts_of(5, 3, 2)
    corrected = GradientDescent(0.4, 1, data_correction=jnp.array([0.7]))
    close(compiled(corrected.batch, prompts), compiled(GradientDescent(0.4).batch, prompts))


@pytest.mark.parametrize(
    ("clip", "factor"), [(None, 2), pytest.param(10.0, 30, marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_memory_grows_with_n_and_not_with_its_square(clip, factor):
    """The rows of tokens are counted; without a clip, only S is carried from layer to layer."""
    n, d, layers, batch = 10_000, 10, 5, 8
    model, prompts = eqx.filter_eval_shape(
        lambda: (
            LinearTransformer.initialise(
                d, layers=layers, activation_clip=clip, key=jax.random.key(0)
            ),
            Prompt(*(jnp.zeros((batch, *shape)) for shape in ((n, d), (n, 1), (d,)))),
        )
    )
    loss = jax.value_and_grad(lambda model, prompts: jnp.sum(model.batch(prompts) ** 2))
    memory = jax.jit(loss).lower(model, prompts).compile().memory_analysis()
    assert memory.temp_size_in_bytes < factor * batch * n * (d + 1) * 8 < batch * n**2
