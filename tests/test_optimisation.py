"""Diagnostics of optimisation against known Hessians, finite differences and normal noise."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from mesalens import InputError, random
from mesalens.analysis import directional_smoothness, gradient_noise, robust_condition_number
from mesalens.learners import Learner
from mesalens.models import LinearTransformer, Sparse
from mesalens.tasks import Gaussian, LinearFunctions, RegressionTask
from mesalens.training import SGD, SquaredError, along_steps

TASK = RegressionTask(Gaussian(2), LinearFunctions(2), context_length=3)


class Weights(Learner):
    """Some weights, of which the last are fixed; it predicts their inner product with the query."""

    w: Float[Array, " d"]
    rest: Float[Array, " d"]

    fixed = ("rest",)

    def __call__(self, prompt):
        return (self.w + self.rest) @ prompt.query[:, None]


def quadratic(H):
    """1/2 w^T H w + b^T w, which depends on the fixed weights as well."""
    b = jnp.arange(len(H)) - 1.0
    return lambda learner: learner.w @ H @ learner.w / 2 + b @ learner.w + learner.rest.sum() ** 4


def symmetric(rng, size):
    root = rng.normal(size=(size, size))
    return root + root.T


@pytest.mark.parametrize("size", [1, 3, 20])
def test_of_a_quadratic_loss_both_are_read_off_its_hessian(size):
    rng = np.random.default_rng(size)
    H, w, v, rest = symmetric(rng, size), *rng.normal(size=(3, size))
    with jax.enable_x64(True):
        before, after = (Weights(jnp.asarray(each), jnp.asarray(rest)) for each in (w, v))
        loss = quadratic(jnp.asarray(H))
        condition = float(robust_condition_number(loss, before))
        smoothness = float(directional_smoothness(loss, before, after))
        secant = (jax.grad(loss)(after).w - jax.grad(loss)(before).w) @ (v - w)
    diagonal = np.abs(np.diag(H))
    assert condition == pytest.approx(diagonal.max() / np.median(diagonal), rel=1e-12)
    assert smoothness == pytest.approx((v - w) @ H @ (v - w) / np.sum((v - w) ** 2), rel=1e-9)
    assert smoothness == pytest.approx(float(secant) / np.sum((v - w) ** 2), rel=1e-9)


@pytest.mark.parametrize("fast", [False, True])
def test_of_layers_both_are_differences_of_losses(fast):
    """Second differences in float64; the fast path for batches has derivatives of its own."""
    blocks = functools.partial(Sparse.initialise, covariates=True)
    layers = {"layers": 2, "structure": blocks}
    before, after = (
        LinearTransformer.initialise(2, init_scale=0.5, key=random.key(seed), **layers)
        for seed in (0, 1)
    )
    prompts, targets = TASK.sample(random.key(2), (40,))

    def loss(learner):
        predictions = learner.batch(prompts) if fast else jax.vmap(learner)(prompts)
        return jnp.mean((predictions - targets) ** 2)

    with jax.enable_x64(True):
        double = functools.partial(jax.tree.map, lambda x: jnp.asarray(x, jnp.float64))
        before, after, prompts, targets = map(double, (before, after, prompts, targets))
        (w, as_learner), (v, _), h = ravel_pytree(before), ravel_pytree(after), 1e-4
        at = jax.jit(lambda vector: loss(as_learner(vector)))

        def along(u):
            return float(at(w + h * u) - 2 * at(w) + at(w - h * u)) / h**2

        diagonal = np.abs([along(unit) for unit in np.eye(len(w))])
        expected = diagonal.max() / np.median(diagonal), along((v - w) / np.linalg.norm(v - w))
        condition = jax.jit(lambda: robust_condition_number(loss, before))()
        smoothness = jax.jit(lambda: directional_smoothness(loss, before, after))()
    np.testing.assert_allclose((condition, smoothness), expected, rtol=1e-4)


def test_normal_noise_has_the_quantiles_of_normal_noise():
    """Of one weight and many prompts in a batch, noise is normal, and ‖z‖ = σ |ζ|."""
    task = RegressionTask(Gaussian(1), LinearFunctions(1), context_length=1)
    learner = Weights(jnp.ones(1), jnp.zeros(1))
    levels = (0.5, 0.9)
    found = gradient_noise(
        learner, task, random.key(3), batch_size=2000, batches=4000, quantiles=levels
    )
    # g = mean of 2 x² (w - W), W ~ N(0, 1), at w = 1: Var = 4 E[x⁴] E[(1 - W)²] - 4 (E x²)² = 20
    deviation = np.sqrt(20 / 2000)
    expected = deviation * scipy.stats.halfnorm.ppf(levels)
    np.testing.assert_allclose(found.noise, expected, rtol=0.07)
    np.testing.assert_allclose(found.normal, expected, rtol=0.07)


def test_quantiles_are_those_of_the_gradients_one_by_one():
    learner = Weights(jnp.asarray([0.5, -1.0]), jnp.asarray([0.2, 0.1]))
    key, batches = random.key(4), 30
    found = gradient_noise(
        learner, TASK, key, batch_size=2, batches=batches, quantiles=(0.0, 0.5, 1.0)
    )
    loss = SquaredError().loss(TASK, 2)
    keys = jax.random.split(jax.random.split(key)[0], batches)
    gradients = np.stack([eqx.filter_grad(loss)(learner, each).w for each in keys])
    lengths = np.linalg.norm(gradients - gradients.mean(0), axis=1)
    np.testing.assert_allclose(found.noise, np.quantile(lengths, (0, 0.5, 1)), rtol=1e-4)


def test_fewer_batches_than_weights_will_do():
    learner = Weights(jnp.zeros(2), jnp.ones(2))
    found = gradient_noise(learner, TASK, random.key(5), batch_size=1, batches=2)
    assert np.isfinite(found.to_dataarray()).all()


@pytest.mark.parametrize("options", [{"batches": 1}, {"batch_size": 0}])
def test_what_cannot_be_measured_is_said(options):
    with pytest.raises(InputError, match=next(iter(options))):
        gradient_noise(Weights(jnp.zeros(2), jnp.ones(2)), TASK, random.key(6), **options)


def test_steps_are_those_of_the_optimiser_on_the_batches_of_the_keys():
    learner, rule = Weights(jnp.asarray([0.5, -1.0]), jnp.asarray([0.2, 0.1])), SGD(0.1, 0.9)
    key, steps = random.key(7), 5

    def both(before, after):
        return before, after

    befores, afters = along_steps(learner, TASK, rule, both, key, steps=steps, batch_size=4)
    loss, descent = SquaredError().loss(TASK, 4), optax.sgd(0.1, momentum=0.9)
    w, memory = learner.w, descent.init(learner.w)
    for place, each in enumerate(jax.random.split(key, steps)):
        np.testing.assert_allclose(befores.w[place], w, rtol=1e-5)
        gradient = eqx.filter_grad(loss)(Weights(w, learner.rest), each).w
        updates, memory = descent.update(gradient, memory)
        w = optax.apply_updates(w, updates)
        np.testing.assert_allclose(afters.w[place], w, rtol=1e-5)
        np.testing.assert_array_equal(afters.rest[place], learner.rest)
