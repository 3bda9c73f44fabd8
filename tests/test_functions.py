"""Families of functions: they have the symmetries that they state, and the moments that their formulas imply."""

import functools
import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from compiled import compiled

from mesalens import InputError
from mesalens.tasks import (
    Constants,
    Cosines,
    CustomFunctions,
    FinitePool,
    Functions,
    Gaussian,
    LinearFunctions,
    Monomials,
    RotatedPolynomials,
    SineWaves,
    TwoLayerNetworks,
)
from mesalens.tasks.functions.networks import ACTIVATIONS
from mesalens.tasks.settings import RegressionSettings

PROMPTS = 50_000
POINTS = np.array(
    [[1.0, 0.3], [-0.4, 0.8], [0.5, 1.2], [1.0, 0.3]], np.float32
)  # the first one twice
ANGLE = 1.0  # reflections in two lines at an angle that is no fraction of π generate a dense subgroup of O(2)
REFLECTIONS = (
    np.diag([-1.0, 1.0]).astype(np.float32),
    np.array([[math.cos(ANGLE), math.sin(ANGLE)], [math.sin(ANGLE), -math.cos(ANGLE)]], np.float32),
)
FAMILIES = {  # name: the family, and whether it is sign-symmetric and rotation-invariant
    "linear": (LinearFunctions(2), True, True),
    "linear, isotropic": (
        LinearFunctions(2, covariance=2 * np.eye(2), mean=np.zeros((1, 2))),
        True,
        True,
    ),
    "linear, anisotropic": (LinearFunctions(2, covariance=np.diag([2.0, 0.5])), True, False),
    "linear, with a mean": (LinearFunctions(2, mean=[[1.0, -0.5]]), False, False),
    "networks": (TwoLayerNetworks(2, hidden=4), True, True),
    "networks, positive readout": (TwoLayerNetworks(2, hidden=4, readout_mean=1.0), False, True),
    "networks, odd": (
        TwoLayerNetworks(2, hidden=4, readout_mean=1.0, activation="tanh"),
        True,
        True,
    ),
    "squares": (Monomials(2, degree=2), False, True),
    "cubes": (Monomials(2), True, True),
    "cosines": (Cosines(2, frequency=1.5), False, True),
    "shifted cosines": (Cosines(2, phase=1.2), False, True),
    "sines": (Cosines(2, frequency=1.5, phase=math.pi / 2), True, True),
    "cubic": (RotatedPolynomials(2), True, True),
    "cubic of two coordinates": (
        RotatedPolynomials(2, terms=((1.0, (2, 1)), (-0.5, (0, 1)))),
        True,
        True,
    ),
    "polynomial": (RotatedPolynomials(2, terms=((1.0, (2,)), (0.5, (0, 1)))), False, True),
    "constants": (Constants(2), True, True),
    "pool": (FinitePool(2, size=12, pool_seed=2), False, False),
    "own": (
        CustomFunctions(
            2,
            lambda key, x: jnp.sin(jax.random.normal(key, (2,)) @ x),
            sign_symmetric=True,
            rotation_invariant=True,
        ),
        True,
        True,
    ),
    "own, nothing stated": (
        CustomFunctions(2, lambda key, x: 1 + jax.random.normal(key) * x[:1]),
        False,
        False,
    ),
}


@functools.cache
def values(name):
    """Values of one draw of f a row, at the points and at their two mirror images: three arrays (PROMPTS, 4)."""
    family, _, _ = FAMILIES[name]
    inputs = [
        np.broadcast_to(POINTS @ R, (PROMPTS, *POINTS.shape))
        for R in (np.eye(2, dtype=np.float32), *REFLECTIONS)
    ]
    return [
        np.asarray(compiled(family, jax.random.key(0), jnp.asarray(xs)), np.float64)[..., 0]
        for xs in inputs
    ]


def products(ys, orders):
    """E.g. y_1, y_1 y_2 y_3, y_1² y_2: the products of these orders of the values at the first three points."""
    chosen = itertools.chain.from_iterable(
        itertools.combinations_with_replacement(range(3), k) for k in orders
    )
    return np.stack([ys[:, list(indices)].prod(axis=1) for indices in chosen], axis=1)


def standard_errors_from_zero(terms):
    """The largest |mean| of a column, in its standard errors; columns that are 0 throughout count as 0."""
    error = terms.std(axis=0) / np.sqrt(len(terms))
    return np.max(np.abs(terms.mean(axis=0)) / np.maximum(error, 1e-30))


@pytest.mark.parametrize("name", FAMILIES)
def test_odd_moments_vanish_where_and_only_where_a_family_is_sign_symmetric(name):
    family, sign_symmetric, _ = FAMILIES[name]
    assert family.sign_symmetric is sign_symmetric
    distance = standard_errors_from_zero(products(values(name)[0], (1, 3)))
    assert distance < 5 if sign_symmetric else distance > 10


@pytest.mark.parametrize("name", FAMILIES)
def test_moments_at_mirrored_inputs_are_the_same_where_and_only_where_a_family_is_rotation_invariant(
    name,
):
    family, _, rotation_invariant = FAMILIES[name]
    assert family.rotation_invariant is rotation_invariant
    ys, *mirrored = values(name)
    original = products(ys, (1, 2, 3, 4))
    differences = [original - products(image, (1, 2, 3, 4)) for image in mirrored]
    # where f is constant, so that both sides agree up to rounding, there is nothing to compare
    distance = max(standard_errors_from_zero(np.where(np.abs(d) < 1e-5, 0, d)) for d in differences)
    assert distance < 5 if rotation_invariant else distance > 10


@pytest.mark.parametrize("name", FAMILIES)
def test_label_covariate_moment_of_gaussian_inputs_is_a_multiple_of_the_identity(name):
    family, _, rotation_invariant = FAMILIES[name]
    input_key, key = jax.random.split(jax.random.key(1))
    xs = compiled(Gaussian(2).sample, input_key, (PROMPTS, 4))
    ys = np.asarray(compiled(family, key, xs), np.float64)[..., 0]
    xs = np.asarray(xs, np.float64)
    anisotropy = []
    for weights, other in ((ys[:, 0] * ys[:, 1], 1), (ys[:, 0] ** 2, 0)):
        moment = np.einsum("p,pa,pb->pab", weights, xs[:, 0], xs[:, other])
        anisotropy += [moment[:, 0, 0] - moment[:, 1, 1], moment[:, 0, 1], moment[:, 1, 0]]
    distance = standard_errors_from_zero(np.stack(anisotropy, axis=1))
    assert distance < 5 if rotation_invariant else distance > 10


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_is_labelled_by_one_function_and_each_prompt_by_its_own(name):
    ys = values(name)[0]
    np.testing.assert_allclose(ys[:, 0], ys[:, 3], rtol=1e-5, atol=1e-6)
    assert np.mean(ys[:-1, 0] == ys[1:, 0]) < 0.1 + 0.2 * (
        name == "networks"
    )  # relu: all four units off at 1 in 16


@pytest.mark.parametrize("name", FAMILIES)
def test_scale_multiplies_every_draw_in_single_precision(name):
    family, _, _ = FAMILIES[name]
    xs = jnp.broadcast_to(POINTS, (PROMPTS, *POINTS.shape))
    scaled = eqx.tree_at(lambda f: f.scale, family, 3.0)(jax.random.key(0), xs)
    assert scaled.dtype == jnp.float32
    np.testing.assert_allclose(scaled[..., 0], 3 * values(name)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("functions", "moment", "exact"),
    [
        # w · x is Gaussian with variance s² = |x|² / d
        (Monomials(2), lambda y: y**2, lambda r: 15 * (r / 2**0.5) ** 6),
        (
            Cosines(2, frequency=1.5, phase=0.4),
            lambda y: y,
            lambda r: math.cos(0.4) * math.exp(-0.5 * (1.5 * r) ** 2 / 2),
        ),
        (TwoLayerNetworks(2, hidden=4), lambda y: y**2, lambda r: r**2 / 4),
        (
            TwoLayerNetworks(2, hidden=4, readout_mean=1.0),
            lambda y: y,
            lambda r: 2 * r / 2**0.5 / (2 * math.pi) ** 0.5,
        ),
        # a Haar-distributed coordinate is |x| cos θ with a uniform angle
        (RotatedPolynomials(2), lambda y: y**2, lambda r: 5 / 16 * r**6 - 6 / 8 * r**4 + r**2 / 2),
        (RotatedPolynomials(2, terms=[(1.0, (2, 2))]), lambda y: y, lambda r: r**4 / 8),
        (Constants(2, scale=1.5), lambda y: y**2, lambda r: 1.5**2),
    ],
)
def test_moments_at_a_point_are_those_of_the_formula(functions, moment, exact):
    xs = jnp.broadcast_to(POINTS, (PROMPTS, *POINTS.shape))
    terms = moment(np.asarray(functions(jax.random.key(2), xs), np.float64)[:, 2, 0])
    assert terms.mean() == pytest.approx(exact(1.3), abs=5 * terms.std() / PROMPTS**0.5)


def test_rows_of_the_rotation_are_orthonormal():
    squared_length = RotatedPolynomials(3, 2, terms=[(1.0, (2,)), (1.0, (0, 2)), (1.0, (0, 0, 2))])
    xs = np.random.default_rng(3).normal(size=(4, 5, 3)).astype(np.float32)
    ys = eqx.filter_jit(squared_length)(jax.random.key(4), jnp.asarray(xs))
    np.testing.assert_allclose(
        ys, np.repeat(np.sum(xs**2, -1, keepdims=True), 2, axis=-1), rtol=1e-5
    )


@pytest.mark.parametrize(
    "family",
    [
        LinearFunctions,
        Monomials,
        Cosines,
        SineWaves,
        RotatedPolynomials,
        TwoLayerNetworks,
        Constants,
    ],
)
def test_one_input_and_two_outputs_that_are_independent(family):
    ys = compiled(family(1, 2), jax.random.key(5), jnp.full((20_000, 1, 1), 0.7))
    assert ys.shape == (20_000, 1, 2)
    assert ys.dtype == jnp.float32
    assert np.isfinite(ys).all()
    assert abs(np.corrcoef(np.asarray(ys[:, 0]).T)[0, 1]) < 5 / 20_000**0.5
    one_prompt = jax.eval_shape(
        family(1, 2), jax.random.key(5), jax.ShapeDtypeStruct((3, 1), jnp.float32)
    )
    assert one_prompt.shape == (3, 2)


def test_every_prompt_is_labelled_by_one_of_the_pool_and_all_of_them_equally_often():
    functions, prompts = FinitePool(3, 2, size=7, scale=0.5), 20_000
    xs = jax.random.normal(jax.random.key(6), (prompts, 4, 3))
    ys = np.asarray(compiled(functions, jax.random.key(7), xs))
    candidates = np.einsum("pnd,jmd->jpnm", xs, np.asarray(functions.pool))
    errors = np.abs(candidates - ys).max(axis=(2, 3))
    assert np.sort(errors, axis=0)[0].max() < 1e-5
    counts = np.bincount(errors.argmin(axis=0), minlength=7)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    again = np.asarray(compiled(functions, jax.random.key(8), xs))
    assert 0.8 < np.mean(np.abs(again - ys).max(axis=(1, 2)) > 1e-5) < 0.9  # 6/7


def test_the_pool_is_gaussian_and_depends_on_its_seed_alone():
    functions = FinitePool(10, 2, size=1000, scale=2.0)
    pool = functions.pool
    assert (pool.shape, pool.dtype) == ((1000, 2, 10), jnp.float32)
    assert scipy.stats.kstest(np.ravel(pool), scipy.stats.norm(0, 2).cdf).pvalue > 1e-3
    np.testing.assert_array_equal(pool, 2 * FinitePool(10, 2, size=1000).pool)
    other = FinitePool(10, 2, size=1000, scale=2.0, pool_seed=1).pool
    assert abs(np.corrcoef(np.ravel(pool), np.ravel(other))[0, 1]) < 5 / 20_000**0.5
    with jax.enable_x64(True):
        np.testing.assert_array_equal(functions.pool, pool)


def test_a_pool_is_given_by_its_size_in_settings():
    settings = RegressionSettings.read({"dim": 3, "functions": {"kind": "pool", "size": 8}})
    functions = settings.build().functions
    assert isinstance(functions, FinitePool) and functions.pool.shape == (8, 1, 3)


def test_weights_have_the_prior_mean_and_around_it_the_prior_covariance():
    mean = np.array([[1.0, -0.5], [0.0, 2.0]])
    functions = LinearFunctions(2, 2, covariance=[[1.0, 0.4], [0.4, 0.5]], mean=mean, scale=1.5)
    np.testing.assert_array_equal(functions.weight_mean(), 1.5 * mean)
    np.testing.assert_array_equal(LinearFunctions(2, 2).weight_mean(), np.zeros((2, 2)))
    weights = np.asarray(functions.sample(jax.random.key(6), (PROMPTS,)), np.float64).reshape(-1, 4)
    deviations = weights - functions.weight_mean().reshape(-1)
    assert standard_errors_from_zero(deviations) < 5
    covariance = np.kron(np.eye(2), functions.row_covariance())
    assert (
        standard_errors_from_zero(np.einsum("pi,pj->pij", deviations, deviations) - covariance) < 5
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_odd_where_stated(name):
    activation, odd = ACTIVATIONS[name]
    u = jnp.linspace(0.1, 3, 20)
    assert np.allclose(activation(-u), -activation(u), atol=1e-6) is odd


TURN = 2 * math.pi
SINES = {  # name: the family, and whether it is sign-symmetric and rotation-invariant
    "half a turn": (SineWaves(), False, True),
    "half a turn, the other half": (SineWaves(phase=(-math.pi, 0.0)), False, True),
    "part of a turn": (SineWaves(phase=(0.0, 2.0)), False, False),
    "one phase": (SineWaves(phase=(0.0, 0.0)), False, False),
    "a turn": (SineWaves(phase=(0.3, 0.3 + TURN)), True, True),
    "two turns": (SineWaves(phase=(-TURN, TURN)), True, True),
    "a turn and a half": (SineWaves(phase=(0.5, 0.5 + 1.5 * TURN)), False, False),
    "amplitudes of both signs": (SineWaves(phase=(0.0, 2.0), amplitude=(-0.5, 0.5)), True, False),
}
NUMBERS = (1.0, -0.4, 0.5)


def sines_at(family, numbers, prompts=200_000):
    """Values of one draw of f a row, in float64."""
    xs = jnp.broadcast_to(jnp.array(numbers, jnp.float32)[:, None], (prompts, len(numbers), 1))
    return np.asarray(family(jax.random.key(9), xs), np.float64)[..., 0]


LIKE_OTHERS = ("half a turn, the other half", "two turns", "a turn and a half")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in LIKE_OTHERS else ()) for n in SINES],
)
def test_sine_waves_have_the_symmetries_that_they_state_and_no_other(name):
    family, sign_symmetric, rotation_invariant = SINES[name]
    assert (family.sign_symmetric, family.rotation_invariant) == (
        sign_symmetric,
        rotation_invariant,
    )
    ys = sines_at(family, NUMBERS)
    distance = standard_errors_from_zero(products(ys, (1, 3)))
    assert distance < 5 if sign_symmetric else distance > 10
    mirrored = sines_at(family, [-x for x in NUMBERS])
    difference = products(ys, (1, 2, 3, 4)) - products(mirrored, (1, 2, 3, 4))
    distance = standard_errors_from_zero(difference)
    assert distance < 5 if rotation_invariant else distance > 10


def test_moments_of_sine_waves_are_those_of_quadrature():
    family = SineWaves(amplitude=(0.2, 0.7), phase=(-0.5, 1.4), scale=1.5)
    ys = sines_at(family, NUMBERS)
    for places in ((0,), (2,), (0, 0), (0, 1), (0, 1, 2), (1, 1, 2, 2)):

        def value(phase, amplitude, places=places):
            return math.prod(1.5 * amplitude * math.sin(NUMBERS[place] + phase) for place in places)

        exact = scipy.integrate.dblquad(value, 0.2, 0.7, -0.5, 1.4)[0] / (0.5 * 1.9)
        terms = ys[:, list(places)].prod(axis=1)
        assert terms.mean() == pytest.approx(exact, abs=5 * terms.std() / len(terms) ** 0.5)


def test_amplitudes_and_phases_are_uniform_and_independent():
    ys = sines_at(SineWaves(scale=2.0), [0.0, math.pi / 2])  # scale a sin φ and scale a cos φ
    amplitudes, phases = np.hypot(*ys.T) / 2, np.arctan2(*ys.T)
    for drawn, low, high in ((amplitudes, 0.1, 0.5), (phases, 0.0, math.pi)):
        assert low - 1e-5 < drawn.min() and drawn.max() < high + 1e-5
        assert scipy.stats.kstest(drawn, scipy.stats.uniform(low, high - low).cdf).pvalue > 1e-4
    assert abs(np.corrcoef(amplitudes, phases)[0, 1]) < 5 / len(ys) ** 0.5


def test_settings_know_sine_waves():
    settings = RegressionSettings(dim=1, functions={"kind": "sine", "scale": 2.0})
    functions = settings.build().functions
    assert isinstance(functions, SineWaves)
    assert functions.scale == 2.0


def test_own_functions_are_those_of_the_family_that_they_spell_out():
    xs = jnp.asarray(np.random.default_rng(7).normal(size=(5, 3, 2)), jnp.float32)
    linear = LinearFunctions(2, 2)
    own = CustomFunctions(2, lambda key, x: jax.random.normal(key, (2, 2)) @ x, 2, scale=2.0)
    first = CustomFunctions(2, lambda key, x: x[0])

    @jax.jit
    def labels(key):
        return own(key, xs), jax.vmap(linear)(jax.random.split(key, 5), xs), first(key, xs)

    ys, linear_ys, numbers = labels(jax.random.key(8))
    np.testing.assert_allclose(ys, 2 * linear_ys, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(numbers, xs[..., :1])


def test_a_family_with_only_a_call_promises_nothing():
    class Tents(Functions):
        def __call__(self, key, xs):
            return jnp.abs(xs[..., :1])

    assert not Tents(2).sign_symmetric
    assert not Tents(2).rotation_invariant


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: LinearFunctions(2, mean=[1.0, 2.0]),
            r"mean.*\(1, 2\).*\(2,\)",
        ),
        (
            lambda: LinearFunctions(2, mean=[[1.0, np.inf]]),
            "mean.*finite",
        ),
        (
            lambda: LinearFunctions(2, mean="abc"),
            "mean",
        ),
        (lambda: TwoLayerNetworks(2, hidden=0), "hidden.*0"),
        (
            lambda: TwoLayerNetworks(2, activation="tahn"),
            "activation.*'tahn'.*tanh",
        ),
        (lambda: TwoLayerNetworks(2, readout_mean=math.nan), "readout_mean.*nan"),
        (lambda: Monomials(2, degree=0), "degree.*0"),
        (lambda: Monomials(2, scale=0.0), "scale.*0.0"),
        (lambda: Cosines(2, frequency=-1.0), "frequency.*-1.0"),
        (lambda: Cosines(2, phase=math.inf), "phase.*inf"),
        (lambda: SineWaves(2), "dim.*2"),
        (
            lambda: SineWaves(amplitude=(0.5, 0.1)),
            "amplitude.*0.5.*0.1",
        ),
        (lambda: SineWaves(amplitude=0.5), "amplitude.*0.5"),
        (lambda: SineWaves(phase=(0.0, math.inf)), "phase.*inf"),
        (lambda: RegressionSettings(functions="sine").build(), "dim.*10"),
        (
            lambda: RegressionSettings.read(
                {"dim": 1, "functions": {"kind": "sine", "phase": 1.0}}
            ),
            "phase",
        ),
        (lambda: RotatedPolynomials(2, terms=()), "terms"),
        (lambda: RotatedPolynomials(2, terms=((1.0,),)), "terms.*1.0"),
        (
            lambda: RotatedPolynomials(2, terms=((1.0, (1, 1, 1)),)),
            "terms.*dim=2.*3",
        ),
        (lambda: RotatedPolynomials(2, terms=((1.0, (-1,)),)), "power.*terms.*-1"),
        (
            lambda: RotatedPolynomials(2, terms=((math.nan, (1,)),)),
            "coefficient.*terms.*nan",
        ),
        (lambda: Constants(0), "dim.*0"),
        (lambda: FinitePool(2, size=0), "size.*0"),
        (lambda: FinitePool(2, size=3, pool_seed=-1), "pool_seed.*-1"),
        (lambda: FinitePool(2, size=3, pool_seed=2**32), f"pool_seed.*{2**32}"),
        (lambda: CustomFunctions(0, lambda key, x: x[0]), "dim.*0"),
        (
            lambda: CustomFunctions(2, lambda key, x: x),
            r"function.*\(1,\) or \(\).*float32 of shape \(2,\)",
        ),
        (
            lambda: CustomFunctions(2, lambda key, x: x[0], 2),
            r"function.*\(2,\).*float32 of shape \(\)",
        ),
        (
            lambda: CustomFunctions(2, lambda key, x: jnp.ones(3) * x[0]),
            r"returned float32 of shape \(3,\)\.",
        ),
        (lambda: CustomFunctions(2, lambda key, x: (x[0], x[1])), "function.*returned a tuple"),
        (lambda: CustomFunctions(2, lambda key, x: x[0] > 0), "function.*bool"),
        (lambda: CustomFunctions(2, lambda x: x[0]), "function.*TypeError"),
        (
            lambda: CustomFunctions(2, lambda key, x: jnp.ones(3) @ x),
            "function.*TypeError: dot_general",
        ),
    ],
)
def test_bad_input_gets_a_sentence(make, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        make()
    assert str(caught.value).endswith((".", "?"))
