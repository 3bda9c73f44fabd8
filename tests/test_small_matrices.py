"""Products of small matrices and batches of deep transformers, against the plain formulas; in float64."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import compiled

from mesalens import GradientDescent, LinearTransformer, Prompt
from mesalens._fenced import fenced
from mesalens.models import linear_batch, small_matrices
from mesalens.models.linear_batch import FEW_LAYERS
from mesalens.models.small_matrices import (
    LANES,
    LARGEST,
    LARGEST_SUMMED,
    MOST_ROWS,
    MOST_TILES,
    lanes_for,
    tiled,
    untiled,
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


PLAIN = {  # of matrices, one a batch entry, and weights
    small_matrices.times: "brk,bkc->brc",
    small_matrices.times_transposed: "brk,bck->brc",
    small_matrices.transposed_times: "bkr,bkc->brc",
    small_matrices.times_weights: "brk,kc->brc",
    small_matrices.weights_times: "rk,bkc->brc",
    small_matrices.summed_products: "bkr,bkc->rc",
    small_matrices.summed_outer_products: "brk,bck->rc",
}


@pytest.mark.parametrize("function", PLAIN, ids=lambda function: function.__name__)
@pytest.mark.parametrize(
    ("batch", "lanes", "rows", "terms", "columns"),
    [
        (5, 3, 2, 4, 3),
        (1, 1, 2, 3, 4),
        (3 * MOST_TILES + 2, 3, 1, 2, 2),  # tiles are summed in groups
        (5, 2, LARGEST_SUMMED + 1, MOST_ROWS + 3, LARGEST_SUMMED + 2),
    ],
)
def test_products_are_those_of_each_matrix(function, batch, lanes, rows, terms, columns):
    form, rng = PLAIN[function], np.random.default_rng(0)
    sizes = dict(zip("brkc", (batch, rows, terms, columns), strict=True))
    left, right = (
        rng.normal(size=[sizes[i] for i in axes]) for axes in form.split("->")[0].split(",")
    )
    stacked = [tiled(jnp.asarray(f), lanes) if f.ndim == 3 else f for f in (left, right)]
    found = jax.jit(function)(*stacked)
    if found.ndim == 4:
        found = untiled(found, batch)
    close(found, np.einsum(form, left, right))


@pytest.mark.parametrize("lanes", [1, 3])
def test_products_with_symmetrised_matrices(lanes):
    rng = np.random.default_rng(1)
    F, G = rng.normal(size=(2, 4, 3, 3))
    stacks = tiled(jnp.asarray(F), lanes), tiled(jnp.asarray(G), lanes)
    both = small_matrices.symmetrised_times(*stacks), small_matrices.times_symmetrised(*stacks)
    found = [untiled(stack, 4) for stack in both]
    close(found, [(F + F.swapaxes(1, 2)) @ G, F @ (G + G.swapaxes(1, 2))])


def test_large_matrices_have_one_lane():
    assert lanes_for(100, LARGEST) == LANES
    assert lanes_for(5, LARGEST) == 5
    assert lanes_for(100, LARGEST + 1) == 1


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-300, -2.5, np.inf, -np.inf, np.nan])
def test_a_fenced_value_is_the_value(value):
    found = np.asarray(compiled(fenced, jnp.array([value])))
    np.testing.assert_array_equal(found, [value])
    assert np.signbit(found) == np.signbit(value)


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


def prompts_of(n, d, m, batch=2) -> Prompt:
    rng = np.random.default_rng(n)
    return Prompt(*(rng.uniform(-1, 1, (batch, *shape)) for shape in ((n, d), (n, m), (d,))))


def plain(model, prompts):
    return jax.vmap(type(model).token_by_token, (None, 0))(model, prompts)


def values_and_gradients(way, model, prompts):
    """Of a batch, with respect to the model and the prompts."""
    upstream = jnp.arange(float(len(prompts.query) * model.outputs)) - 1
    upstream = upstream.reshape(-1, model.outputs)
    values, back = jax.vjp(way, model, prompts)
    return values, back(upstream)


@pytest.mark.parametrize(
    ("n", "d", "m", "batch", "options"),
    [
        (1, 1, 1, 2, {"layers": 1}),
        (3, 4, 1, 2, {"layers": 3, "heads": 2}),  # tokens by scores
        (5, 4, 1, LANES + 2, {"layers": 2}),  # S, in two tiles
        (13, 2, 3, 2, {"layers": 2, "heads": 2}),
        pytest.param(3, LARGEST, 1, 2, {"layers": 2}, marks=pytest.mark.slow),  # one lane
        pytest.param(LARGEST + 9, LARGEST, 1, 2, {"layers": 2}, marks=pytest.mark.slow),
        pytest.param(
            9, 2, 1, 2, {"layers": FEW_LAYERS + 1, "looped": True}, marks=pytest.mark.slow
        ),  # in a loop
        (9, 2, 1, 2, {"layers": 2, "heads": 2, "activation_clip": 0.5}),
        (2, 2, 1, 2, {"layers": 2, "activation_clip": 0.5}),
        pytest.param(
            MOST_ROWS + 3, 2, 1, 2, {"layers": 2, "activation_clip": 0.5}, marks=pytest.mark.slow
        ),
    ],
)
def test_a_batch_is_what_each_prompt_gives_in_value_and_gradient(n, d, m, batch, options):
    model, prompts = made(d, m, **options), prompts_of(n, d, m, batch)
    ways = {
        "batch": lambda model, prompts: model.batch(prompts),
        "call": lambda model, prompts: jax.vmap(model)(prompts),
        "tokens": plain,
    }
    if n > d + m and model.activation_clip is None:
        ways |= {"condensed": lambda model, prompts: model.batch(prompts.condense())}

    @jax.jit
    def every(model, prompts):
        found = {name: values_and_gradients(way, model, prompts) for name, way in ways.items()}
        return found, jax.vmap(model.residual_stream)(prompts)

    found, stream = every(model, prompts)
    reference = found.pop("tokens")
    for name in found:
        close(found[name], reference)
    if model.activation_clip is not None:  # the clip is at work
        assert np.abs(stream[:, 1:]).max() == model.activation_clip < np.abs(stream[:, 0]).max()


def test_an_axis_of_seeds_is_one_more():
    prompts = prompts_of(5, 2, 1)
    models = [made(2, 1, layers=3)]
    models.append(jax.tree.map(lambda leaf: 0.5 * leaf, models[0]))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)

    def of(model):
        return values_and_gradients(lambda m, p: m.batch(p), model, prompts)

    found = jax.jit(jax.vmap(of))(stacked)
    for seed, model in enumerate(models):
        each = jax.tree.map(lambda leaf, seed=seed: leaf[seed], found)
        close(each, compiled(lambda m: values_and_gradients(plain, m, prompts), model))


@pytest.mark.parametrize("heads", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("scales", "place", "factors"),
    [
        pytest.param((1, 5, 1), 1, (0.999, 1.001), id="label"),
        pytest.param((3, 0.01, 0.1), 0, (0.999, 3.0), id="covariate"),
        pytest.param((0.1, 0.01, 5), 2, (0.999, 1.001), id="query"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_tokens_are_carried_if_one_is_clipped(scales, place, factors, inside, heads, monkeypatch):
    """The limit is near the largest entry before the last layer: a label's or the query's, which
    are known, or a covariate's, which is only bounded.
    """
    model, prompts = made(2, 1, layers=3, heads=heads), prompts_of(40, 2, 1)
    model = jax.tree.map(lambda leaf: 0.3 * leaf, model)
    arrays = (prompts.xs, prompts.ys, prompts.query)
    prompts = Prompt(*(scale * array for scale, array in zip(scales, arrays, strict=True)))
    stream = np.abs(compiled(jax.vmap(model.residual_stream), prompts)[:, 1:-1])
    of_context = stream[..., :-1, :].max(axis=(0, 1, 2))
    entries = [of_context[:2].max(), of_context[2], stream[..., -1, :].max()]
    assert np.argmax(entries) == place and sorted(entries)[1] < 0.99 * entries[place]
    limit = float(factors[inside] * entries[place])
    model = dataclasses.replace(model, activation_clip=limit)
    taken, always = [], linear_batch.either

    def noted(fast, otherwise, *arguments):
        taken.append(fast(*arguments)[1])
        return always(fast, otherwise, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(linear_batch, "either", noted)
        safe = compiled(lambda m: (m.batch(prompts), taken.pop())[1], model)
    assert bool(safe) == inside
    found = compiled(lambda m: values_and_gradients(lambda m, p: m.batch(p), m, prompts), model)
    close(found, compiled(lambda m: values_and_gradients(plain, m, prompts), model))


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
