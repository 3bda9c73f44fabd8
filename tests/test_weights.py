"""Structures of the weights of linear self-attention: free parameters, and what theory and fast paths make of them."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import compiled
from jax.flatten_util import ravel_pytree

from mesalens import GradientDescent, InputError, LinearTransformer, Prompt, random, train
from mesalens.analysis import risk
from mesalens.models import Factors, LinearWeights, LowRank, Merged, Scalars, Sizes, Sparse
from mesalens.tasks import Gaussian, GaussianNoise, LinearFunctions, RegressionTask, Uniform
from mesalens.theory import (
    gradient_descent_transformer,
    one_step_risk,
    optimal_layer,
    population_risk,
    task_moments,
)

KEY = jax.random.key(0)
exactly = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-10)

STRUCTURES = {
    "factors": Factors.initialise,
    "factors of rank 2": partial(Factors.initialise, key_size=2),
    "merged": Merged.initialise,
    "sparse": Sparse.initialise,
    "sparse with covariates": partial(Sparse.initialise, covariates=True),
    "low-rank": partial(LowRank.initialise, rank=2),
    "scalars": Scalars.initialise,
}


SLOW = ("factors", "sparse")
"""Those that are measured in the slow tests alone: their like are measured in any case."""


@pytest.fixture(autouse=True)
def in_double():
    with jax.enable_x64(True):
        yield


def drawn(name, stored=2, heads=2, d=3, m=2, seed=0, spread=0.4) -> LinearWeights:
    """Weights of a structure, all parameters normal, in float64."""
    rng = np.random.default_rng(seed)
    shapes = eqx.filter_eval_shape(
        lambda: STRUCTURES[name](Sizes(stored, heads, d, m), scale=1.0, key=KEY)
    )
    return jax.tree.map(lambda leaf: jnp.asarray(spread * rng.normal(size=leaf.shape)), shapes)


def by_hand(weights, layer, head, d, m):
    """A and B of one head, entry by entry, from what the class says of itself."""
    A, B = np.zeros((d + m, d + m)), np.zeros((d + m, d + m))
    if isinstance(weights, Factors):
        W_Q, W_K, W_V, P = (
            np.asarray(w[layer, head]) for w in (weights.W_Q, weights.W_K, weights.W_V, weights.P)
        )
        return W_K.T @ W_Q, P @ W_V
    if isinstance(weights, Merged):
        return weights.A[layer, head], weights.B[layer, head]
    if isinstance(weights, Sparse):
        A[:d, :d], B[d:, d:] = weights.A_xx[layer, head], weights.B_yy[layer, head]
        if weights.B_xx is not None:
            B[:d, :d] = weights.B_xx[layer, head]
        return A, B
    if isinstance(weights, LowRank):
        A[:d, :d] = weights.W_K[layer, head].T @ weights.W_Q[layer, head]
        B[d:, d:] = weights.B_yy[layer, head]
        return A, B
    a_x, a_y, b_x, b_y = np.asarray(weights.scalars[layer, head])
    return np.diag([a_x] * d + [a_y] * m), np.diag([b_x] * d + [b_y] * m)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("m", [1, 2])
def test_effective_matrices_are_those_of_the_formula(name, m):
    weights = drawn(name, d=3, m=m)
    A, B = compiled(weights.effective)
    assert A.shape == B.shape == (2, 2, 3 + m, 3 + m)
    for layer, head in np.ndindex(2, 2):
        exactly((A[layer, head], B[layer, head]), by_hand(weights, layer, head, 3, m))


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_gradient_through_effective_is_that_of_finite_differences(name):
    weights = drawn(name, stored=1, heads=1)
    upstream = np.random.default_rng(1).normal(size=(2, 1, 1, 5, 5))

    def value(weights):
        A, B = weights.effective()
        return jnp.sum(A * upstream[0]) + jnp.sum(B * upstream[1])

    flat, back = ravel_pytree(weights)
    directions = np.eye(flat.size)[:: max(flat.size // 7, 1)]
    step = 1e-3  # at most quadratic in the parameters, for which central differences are exact

    @jax.jit
    def gradient_and_values(flat):
        gradient = ravel_pytree(jax.grad(value)(back(flat)))[0]
        moved = flat + step * jnp.stack([directions, -directions])
        return gradient, jax.vmap(jax.vmap(lambda flat: value(back(flat))))(moved)

    gradient, (ahead, behind) = gradient_and_values(flat)
    np.testing.assert_allclose(
        (ahead - behind) / (2 * step), directions @ gradient, rtol=1e-7, atol=1e-9
    )


PARAMETERS = {
    "factors": {"W_Q": (3, 2, 5, 5), "W_K": (3, 2, 5, 5), "W_V": (3, 2, 5, 5), "P": (3, 2, 5, 5)},
    "factors of rank 2": {
        "W_Q": (3, 2, 2, 5),
        "W_K": (3, 2, 2, 5),
        "W_V": (3, 2, 2, 5),
        "P": (3, 2, 5, 2),
    },
    "merged": {"A": (3, 2, 5, 5), "B": (3, 2, 5, 5)},
    "sparse": {"A_xx": (3, 2, 3, 3), "B_yy": (3, 2, 2, 2)},
    "sparse with covariates": {"A_xx": (3, 2, 3, 3), "B_yy": (3, 2, 2, 2), "B_xx": (3, 2, 3, 3)},
    "low-rank": {"W_Q": (3, 2, 2, 3), "W_K": (3, 2, 2, 3), "B_yy": (3, 2, 2, 2)},
    "scalars": {"scalars": (3, 2, 4)},
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_what_is_trained_is_exactly_the_parameters(name):
    model = LinearTransformer.initialise(
        3,
        2,
        layers=3,
        heads=2,
        structure=STRUCTURES[name],
        initial_weights=jnp.ones((2, 3)),
        key=KEY,
    )
    trained, _ = eqx.partition(model, model.trainable())
    leaves = jax.tree_util.tree_leaves_with_path(trained)
    assert {path[-1].name: leaf.shape for path, leaf in leaves} == PARAMETERS[name]
    assert all(path[0].name == "weights" for path, _ in leaves)
    assert all(np.std(leaf) > 0 for _, leaf in leaves)


@pytest.mark.parametrize(
    ("name", "fan_ins"),
    [
        ("merged", {"A": 41, "B": 41}),
        ("sparse with covariates", {"A_xx": 40, "B_yy": 1, "B_xx": 40}),
        ("low-rank", {"W_Q": 40, "W_K": 40, "B_yy": 1}),
        ("scalars", {"scalars": 1}),
    ],
)
def test_parameters_begin_with_the_scale_over_their_fan_in(name, fan_ins):
    weights = STRUCTURES[name](Sizes(20, 20, 40, 1), scale=0.3, key=KEY)
    for parameter, fan_in in fan_ins.items():
        assert float(getattr(weights, parameter).std()) == pytest.approx(
            np.sqrt(0.3 / fan_in), rel=0.1
        )


CASES = [
    pytest.param(1, 1, False, 1, 4, marks=pytest.mark.slow),
    (2, 2, False, 2, 3),
    (3, 1, True, 2, 12),
]
"""Layers, heads, looped, m and n."""


@pytest.mark.parametrize(("layers", "heads", "looped", "m", "n"), CASES)
@pytest.mark.parametrize("name", ["factors of rank 2", "sparse with covariates", "scalars"])
def test_all_ways_to_a_prediction_agree(name, layers, heads, looped, m, n):
    weights = drawn(name, 1 if looped else layers, heads, m=m)
    start = jnp.asarray(np.random.default_rng(2).normal(size=(m, 3)))
    model = LinearTransformer(weights, layers=layers, outputs=m, initial_weights=start)
    assert (model.looped, model.stored, model.dim) == (looped, 1 if looped else layers, 3)
    rng = np.random.default_rng(3)
    prompts = Prompt(*(rng.uniform(-1, 1, (2, *shape)) for shape in ((n, 3), (n, m), (3,))))

    @eqx.filter_jit
    def every(model):
        streams = jax.vmap(model.residual_stream)(prompts)
        ways = model.batch(prompts), jax.vmap(model)(prompts), model.batch(prompts.condense())
        merged = LinearTransformer.from_effective(
            *model.effective(), layers=layers, outputs=m, initial_weights=start
        )
        ways += (merged.batch(prompts), jax.vmap(model.token_by_token)(prompts))
        return ways, jax.vmap(model.iterates)(prompts), streams

    ways, iterates, streams = every(model)
    for way in ways:
        exactly(way, ways[-1])
    exactly(iterates, -streams[:, :, -1, 3:])
    assert np.abs(np.diff(iterates, axis=1)).max() > 1e-3


@pytest.mark.parametrize("name", ["factors of rank 2", "sparse with covariates", "scalars"])
def test_a_repeated_layer_moves_by_the_damping_each_time(name):
    model = LinearTransformer(drawn(name, 1, 1), layers=1, outputs=2)
    rng = np.random.default_rng(4)
    prompt = Prompt(*(rng.uniform(-1, 1, shape) for shape in ((6, 3), (6, 2), (3,))))
    A, B = (np.asarray(matrices[0, 0]) for matrices in model.effective())
    tokens = np.concatenate([np.concatenate([prompt.xs, prompt.ys], 1), [[*prompt.query, 0, 0]]])
    expected = [-tokens[-1, 3:]]
    for _ in range(4):
        S = tokens[:-1].T @ tokens[:-1]
        tokens = tokens + 0.3 * tokens @ A.T @ S @ B.T
        expected.append(-tokens[-1, 3:])
    repeated = model.repeated(4, damping=0.3)
    exactly(compiled(repeated.iterates, prompt), expected)
    exactly(compiled(repeated, prompt), expected[-1])


TASK = RegressionTask(
    Gaussian(2, covariance=[[1.0, 0.4], [0.4, 0.6]]),
    LinearFunctions(2),
    context_length=5,
    noise=GaussianNoise(0.1),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in STRUCTURES],
)
def test_the_exact_risk_is_that_of_the_matrices_and_of_simulation(name):
    model = LinearTransformer(drawn(name, 1, 2, d=2, m=1, seed=7), layers=1)
    moments = task_moments(TASK)
    exact = float(population_risk(model, moments))
    exactly(
        population_risk(LinearTransformer.from_effective(*model.effective(), layers=1), moments),
        exact,
    )
    measured = risk(model, TASK, random.key(1), prompts=20_000)
    assert abs(measured.value - exact) < 4 * measured.standard_error
    assert measured.standard_error < 0.2 * exact


def trained(structure, task, steps=400):
    """One layer by the exact risk, whose gradient has no noise, with L-BFGS."""
    return train(
        lambda key: LinearTransformer.initialise(
            task.dim, structure=structure, init_scale=0.1, key=key
        ),
        task,
        optax.lbfgs(),
        objective="population",
        steps=steps,
        every=steps,
        key=random.key(0),
    ).require_finite()


@pytest.mark.slow
def test_sparse_weights_trained_on_the_exact_risk_reach_the_best_preconditioned_step():
    learner = trained(Sparse.initialise, TASK).learner()
    best = optimal_layer(TASK)
    assert float(population_risk(learner, task_moments(TASK))) == pytest.approx(
        best.descent_risk, rel=1e-6
    )
    learned = -learner.weights.A_xx[0, 0].T * learner.weights.B_yy[0, 0, 0]
    np.testing.assert_allclose(learned, best.descent_preconditioner, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_scalars_trained_on_the_exact_risk_reach_the_best_step():
    task = RegressionTask(Uniform(3, 1.0), LinearFunctions(3), context_length=6)
    training, best = trained(Scalars.initialise, task), one_step_risk(task)
    reached = float(population_risk(training.learner(), task_moments(task)))
    assert reached == pytest.approx(best.best_risk, rel=1e-6)
    a_x, _, _, b_y = np.asarray(training.learner().weights.scalars[0, 0])
    assert -a_x * b_y == pytest.approx(best.best_step_size / 6, rel=1e-3)


@pytest.mark.parametrize("steps", [1, 3])
def test_gd_plus_plus_fits_into_sparse_weights_and_into_scalars(steps):
    descent = GradientDescent(
        jnp.linspace(0.5, 0.9, steps), steps, data_correction=jnp.full(steps, 0.3)
    )
    constructed = compiled(
        gradient_descent_transformer, descent, dim=3, outputs=2, context_length=5
    )
    A, B = compiled(constructed.effective)
    sparse = Sparse(A[..., :3, :3], B[..., 3:, 3:], B[..., :3, :3])
    scalars = Scalars(
        jnp.stack([A[..., 0, 0], 0 * A[..., 0, 0], B[..., 0, 0], B[..., 4, 4]], axis=-1), 3, 2
    )
    exactly(scalars.scalars[:, 0, 2] * scalars.scalars[:, 0, 0], -0.3 / 5)
    rng = np.random.default_rng(5)
    prompt = Prompt(*(rng.uniform(-1, 1, shape) for shape in ((5, 3), (5, 2), (3,))))
    for weights in (sparse, scalars):
        exactly(compiled(weights.effective), (A, B))
        model = LinearTransformer(weights, layers=steps, outputs=2)
        exactly(compiled(model.iterates, prompt), compiled(constructed.iterates, prompt))
        exactly(compiled(model, prompt), compiled(descent, prompt))


def test_preconditioned_descent_fits_into_sparse_weights_without_covariates():
    P = jnp.asarray([[0.9, 0.2], [0.1, 0.5]])
    descent = GradientDescent(0.7, preconditioner=P)
    constructed = compiled(gradient_descent_transformer, descent, dim=2, context_length=5)
    A, B = compiled(constructed.effective)
    exactly(Sparse(A[..., :2, :2], B[..., 2:, 2:]).effective(), (A, B))


def test_sparse_weights_may_be_those_of_the_papers():
    layers = {"layers": 2, "structure": partial(Sparse.initialise, **PAPERS)}
    model = LinearTransformer.initialise(3, 2, init_scale=0.5, key=random.key(6), **layers)
    assert len(jax.tree.leaves(model)) == 2  # A_xx and B_xx
    A, B = compiled(model.effective)
    exactly(A[..., :3, :3], model.weights.A_xx / 7)
    exactly(B[..., :3, :3], model.weights.B_xx)
    exactly(B[..., 3:, 3:], np.broadcast_to(np.eye(2), (2, 1, 2, 2)))
    for zero in (A[..., 3:, :], A[..., 3:], B[..., 3:, :3], B[..., :3, 3:]):
        exactly(zero, 0)


PAPERS = {"covariates": True, "labels": False, "examples": 7}


def test_a_structure_is_an_abstract_class():
    with pytest.raises(TypeError):
        LinearWeights()


def test_bad_key_sizes_get_a_sentence():
    with pytest.raises(InputError, match=r"key_size.*0"):
        Factors.initialise(Sizes(1, 1, 2, 1), key_size=0, scale=1.0, key=KEY)
