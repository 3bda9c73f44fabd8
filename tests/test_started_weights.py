"""Structures with a start, training on a fixed set of prompts, and the geometric schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mesalens import GradientDescent, InputError, LinearTransformer, random, train
from mesalens.analysis import interpolate
from mesalens.models import DescentStep, LinearBlock, Sizes
from mesalens.tasks import Gaussian, GaussianNoise, LinearFunctions, RegressionTask
from mesalens.training import FixedPrompts, schedule

KEY = jax.random.key(0)
TASK = RegressionTask(
    Gaussian(3), LinearFunctions(3, 2), context_length=5, noise=GaussianNoise(0.1)
)


@pytest.fixture(autouse=True)
def in_double():
    with jax.enable_x64(True):
        yield


def drawn(weights, seed=0):
    """The weights with normal numbers in all places."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.4 * rng.normal(size=leaf.shape)), weights)


def step(start=True, layers=1, outputs=2):
    return drawn(
        DescentStep.initialise(Sizes(layers, 1, 3, outputs), start=start, scale=1.0, key=KEY)
    )


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
def test_descent_steps_are_steps_of_preconditioned_descent(start, layers):
    """From W_0, all with the same preconditioner; several layers are as many steps."""
    weights, (prompts, _) = step(start), TASK.sample(jax.random.key(1), (4,))
    model = LinearTransformer(weights, layers=layers, outputs=2)
    P = 5 * weights.preconditioner[0, 0]  # on the mean of five examples; it acts on the query
    descent = GradientDescent(1.0, layers, preconditioner=P, initial_weights=weights.W_0)
    np.testing.assert_allclose(model.batch(prompts), jax.vmap(descent)(prompts), atol=1e-9)
    by_token = jax.vmap(model.token_by_token)(prompts)
    np.testing.assert_allclose(model.batch(prompts), by_token, atol=1e-9)


def test_a_linear_block_is_attention_and_then_the_mlp_on_each_token():
    weights = drawn(LinearBlock.initialise(Sizes(1, 2, 3, 2), hidden=4, scale=1.0, key=KEY))
    model = LinearTransformer(weights, layers=1, outputs=2)
    attention = LinearTransformer(weights.attention, layers=1, outputs=2)
    prompts, _ = TASK.sample(jax.random.key(1), (4,))
    tokens = jax.vmap(attention.residual_stream)(prompts)[:, -1, -1]
    expected = -(tokens @ weights.W_1.T @ weights.W_2)[:, 3:]
    np.testing.assert_allclose(model.batch(prompts), expected, atol=1e-10)


def test_what_structures_with_a_start_are_not():
    for looped in (False, True):
        options = {"structure": LinearBlock.initialise, "layers": 2, "looped": looped}
        with pytest.raises(InputError, match=r"layers must be 1.*2"):
            LinearTransformer.initialise(3, **options, key=KEY)
    block = LinearTransformer.initialise(3, structure=LinearBlock.initialise, key=KEY)
    prompt = jax.tree.map(lambda leaf: leaf[..., :1], TASK.sample(KEY)[0])
    for use in (lambda: block.repeated(2), lambda: block.residual_stream(prompt)):
        with pytest.raises(InputError, match="LinearBlock"):
            use()
    with pytest.raises(InputError, match="initial_weights must be None"):
        LinearTransformer(step(), layers=1, outputs=2, initial_weights=jnp.ones((2, 3)))


def test_interpolation_is_between_starts_too():
    zero, one = (LinearTransformer(step(start), layers=1, outputs=2) for start in (False, True))
    middle = interpolate(zero, one, 0.25)
    np.testing.assert_allclose(middle.start, 0.25 * one.start)
    assert interpolate(zero, zero).start is None


def test_all_parameters_of_a_start_are_trained():
    model = LinearTransformer(step(), layers=1, outputs=2)
    assert all(jax.tree.leaves(model.trainable()))
    assert len(jax.tree.leaves(model.trainable())) == 2


def test_the_dataset_is_the_same_in_every_step():
    """Descent on it is descent on the least squares of its prompts, step by step in NumPy."""
    rate, prompts = 0.003, 8
    model = LinearTransformer(step(start=False), layers=1, outputs=2)
    trained = train(
        lambda key: model,
        TASK,
        {"kind": "sgd", "learning_rate": rate},
        steps=4,
        every=1,
        batch_size=prompts,
        objective=FixedPrompts(),
        key=random.key(0),
    )
    data_key = jax.random.split(jax.random.fold_in(random.unroll(random.key(0)), 0), 3)[1]
    drawn, targets = TASK.sample(data_key, (prompts,))
    s = np.einsum("pim,pid->pmd", drawn.ys, drawn.xs)
    gamma = np.array(model.weights.preconditioner[0, 0])
    losses = []
    for _ in range(4):
        errors = np.einsum("pmd,de,pe->pm", s, gamma, drawn.query) - targets
        losses.append((errors**2).sum(1).mean())
        gamma -= rate * 2 * np.einsum("pm,pmd,pe->de", errors, s, drawn.query) / prompts
    np.testing.assert_allclose(trained.metrics.loss[0, 1:], losses, rtol=1e-9)
    np.testing.assert_allclose(trained.learner().weights.preconditioner[0, 0], gamma, rtol=1e-9)


def test_seeds_have_datasets_of_their_own():
    trained = train(
        lambda key: LinearTransformer(step(start=False), layers=1, outputs=2),
        TASK,
        "sgd",
        steps=1,
        seeds=2,
        batch_size=4,
        objective="fixed-prompts",
        key=random.key(0),
    )
    first, second = trained.metrics.loss[:, -1]
    assert first != second


def test_the_geometric_schedule_halves_after_equal_numbers_of_steps():
    rate = schedule("geometric", 0.8, steps=1024)
    values = [float(rate(step)) for step in (0, 101, 102, 203, 204, 1023)]
    np.testing.assert_allclose(values, [0.8, 0.8, 0.4, 0.4, 0.2, 0.8 / 2**10])
    assert float(schedule("geometric", 0.8, steps=1)(0)) == 0.8
