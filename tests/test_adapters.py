"""Learners from NumPy: the same numbers as ours, under every transformation, and what they cannot do."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

from mesalens import InputError, Ridge, random
from mesalens.adapters import NumpyLearner
from mesalens.analysis import (
    accuracy,
    alignment,
    risk,
    risks,
    risks_under_shift,
    scaled_inputs,
    sensitivity,
    similarity,
)
from mesalens.tasks import (
    ClassificationTask,
    CondensedTask,
    Gaussian,
    GaussianNoise,
    LinearFunctions,
    RegressionTask,
)
from mesalens.training import train

TASK = RegressionTask(
    Gaussian(3), LinearFunctions(3, 2), context_length=5, noise=GaussianNoise(0.01)
)
KEY = random.key(0)


def ridge(xs, ys, queries):
    gram = xs.mT @ xs + 0.3 * np.eye(xs.shape[-1])
    return np.einsum("nd,ndm->nm", queries, np.linalg.solve(gram, xs.mT @ ys))


def one_by_one(xs, ys, queries):
    """As an estimator is fitted, once for each prompt; a list, not an array."""
    predictions = []
    for x, y, query in zip(xs, ys, queries, strict=True):
        weights = np.linalg.lstsq(
            np.vstack([x, np.sqrt(0.3) * np.eye(3)]), np.vstack([y, np.zeros((3, 2))])
        )[0]
        predictions.append(query @ weights)
    return predictions


@pytest.mark.parametrize("function", [ridge, one_by_one])
def test_it_has_the_risk_of_the_same_learner_in_jax(function):
    ours, foreign = risks([Ridge(0.3), NumpyLearner(function)], TASK, KEY, prompts=3000)
    assert float(foreign.value) == pytest.approx(float(ours.value), rel=1e-5)
    assert float(foreign.standard_error) == pytest.approx(float(ours.standard_error), rel=1e-4)


@pytest.mark.slow
def test_one_prompt_a_batch_and_nested_maps():
    foreign, ours = NumpyLearner(ridge), Ridge(0.3)
    prompts, _ = TASK.sample(KEY, (2, 3))
    one = jax.tree.map(lambda leaf: leaf[1, 2], prompts)
    np.testing.assert_allclose(foreign(one), ours(one), rtol=1e-4)
    nested = jax.jit(jax.vmap(jax.vmap(lambda prompt: foreign(prompt))))
    np.testing.assert_allclose(nested(prompts), jax.vmap(jax.vmap(ours))(prompts), rtol=1e-3)
    np.testing.assert_allclose(jax.lax.map(foreign.batch, prompts), nested(prompts), rtol=1e-5)
    # One context with several queries: what is not mapped is repeated
    queries = jnp.eye(3)
    weights = jax.vmap(lambda query: foreign(type(one)(one.xs, one.ys, query)))(queries)
    np.testing.assert_allclose(one.query @ weights, foreign(one), rtol=1e-4)


def test_the_function_sees_whole_batches():
    sizes = []

    def counting(xs, ys, queries):
        sizes.append((xs.shape, ys.shape, queries.shape, xs.dtype))
        return ridge(xs, ys, queries)

    keys = jax.random.split(KEY, 3)
    over_seeds = eqx.filter_jit(
        eqx.filter_vmap(lambda key: risk(NumpyLearner(counting), TASK, key, prompts=40))
    )
    found = over_seeds(keys)
    trial, seen = (
        ((2, 5, 3), (2, 5, 2), (2, 3), np.float32),
        ((120, 5, 3), (120, 5, 2), (120, 3), np.float32),
    )
    assert sizes == [trial, seen]
    alone = [float(risk(Ridge(0.3), TASK, key, prompts=40).value) for key in keys]
    np.testing.assert_allclose(found.value, alone, rtol=1e-5)


@pytest.mark.slow
def test_shift_similarity_and_accuracy():
    pair = [NumpyLearner(ridge), Ridge(0.3)]
    foreign, ours = risks_under_shift(
        pair, scaled_inputs(TASK), np.array([0.5, 2.0]), KEY, prompts=200
    )
    np.testing.assert_allclose(foreign.value, ours.value, rtol=1e-4)
    assert float(similarity(*pair, TASK, KEY, prompts=100).difference[0, 0]) < 1e-9
    task = ClassificationTask(Gaussian(3), LinearFunctions(3, 2), context_length=5)
    right = [float(accuracy(learner, task, KEY, prompts=200).value) for learner in pair]
    assert right[0] == right[1] > 0.5


@pytest.mark.slow
def test_double_precision_and_integers():
    with jax.enable_x64(True):
        prompt = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), TASK.sample(KEY)[0])
        found = NumpyLearner(ridge)(prompt)
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, Ridge(0.3)(prompt), rtol=1e-12)
    zero = NumpyLearner(lambda xs, ys, queries: np.zeros((len(xs), 2), int))
    assert zero(TASK.sample(KEY)[0]).dtype == jnp.float32


def test_nan_is_measured_as_nan():
    lost = NumpyLearner(lambda xs, ys, queries: np.full((len(xs), 2), np.nan))
    assert np.isnan(risk(lost, TASK, KEY, prompts=20).value)


def fails(xs, ys, queries):
    raise ZeroDivisionError("no more\nnumbers")


def needs_classes(xs, ys, queries):
    """As classifiers of scikit-learn do."""
    assert set(np.unique(ys)) == {0, 1} and ys.sum() == len(ys) * ys.shape[1]
    return ys[:, 0]


def test_the_trial_has_labels_that_classifiers_take():
    task = ClassificationTask(Gaussian(3), LinearFunctions(3, 4), context_length=5)
    assert 0 < accuracy(NumpyLearner(needs_classes), task, KEY, prompts=50).value < 1


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (
            lambda: risk(NumpyLearner(lambda xs, ys, queries: queries), TASK, KEY),
            r"\(2, 2\).*\(2, 3\)",
        ),
        (
            lambda: risk(
                NumpyLearner(lambda xs, ys, queries: np.zeros((2, 2), complex)), TASK, KEY
            ),
            "complex128",
        ),
        (lambda: risk(NumpyLearner(lambda xs, ys, queries: None), TASK, KEY), "object"),
        (
            lambda: risk(NumpyLearner(fails), TASK, KEY),
            "fails .*ZeroDivisionError: no more numbers",
        ),
        (lambda: risk(NumpyLearner(functools.partial(ridge, 1)), TASK, KEY), "partial .*TypeError"),
        (lambda: risk(NumpyLearner(ridge), CondensedTask(TASK), KEY), "NumpyLearner .*condensed"),
        (lambda: alignment(NumpyLearner(ridge), Ridge(0.3), TASK, KEY), "NumpyLearner"),
        (lambda: alignment(Ridge(0.3), NumpyLearner(ridge), TASK, KEY), "NumpyLearner"),
        (
            lambda: sensitivity(NumpyLearner(ridge), TASK.sample(KEY)[0]),
            "differentiable.*NumpyLearner",
        ),
        (
            lambda: jax.grad(lambda x: NumpyLearner(ridge)(x)[0])(TASK.sample(KEY)[0]),
            r"NumpyLearner\(ridge\)",
        ),
        (
            lambda: train(
                lambda key: NumpyLearner(ridge),
                TASK,
                optax.sgd(0.1),
                steps=1,
                batch_size=2,
                key=KEY,
            ),
            "NumpyLearner",
        ),
    ],
)
def test_what_it_cannot_do_is_said(make, named):
    with pytest.raises(InputError, match=named) as caught:
        make()
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_a_learner_needs_a_function(monkeypatch):
    monkeypatch.setattr(
        jaxtyping.config, "jaxtyping_disable", True
    )  # as where types are not checked
    for function in (3, Table()):
        with pytest.raises(InputError, match="function must be callable and hashable"):
            NumpyLearner(function)


class Table:
    """It can be called, and has no hash."""

    __hash__ = None

    def __call__(self, xs, ys, queries):
        return ridge(xs, ys, queries)
