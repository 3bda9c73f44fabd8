"""Learners beside each other: against the measures one by one, over axes, and during training."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mesalens import GradientDescent, InputError, LinearTransformer, Ridge, random
from mesalens.adapters import NumpyLearner
from mesalens.analysis import Comparison, alignment, compare, expectation, risks
from mesalens.learners import SoftmaxHead
from mesalens.tasks import CondensedTask, Gaussian, GaussianNoise, LinearFunctions, RegressionTask
from mesalens.training import train

TASK = RegressionTask(
    Gaussian(3), LinearFunctions(3, 2), context_length=5, noise=GaussianNoise(0.01)
)
KEY = random.measurement_key(1)
REFERENCES = {"ridge": Ridge(0.1), "gd": GradientDescent(0.5, 2)}


def stack_of(seeds):
    keys = jax.random.split(random.key(0), seeds)
    return eqx.filter_vmap(lambda key: LinearTransformer.initialise(3, 2, init_scale=1.0, key=key))(
        keys
    )


@pytest.mark.slow
def test_it_is_risks_and_alignment_of_each_seed_with_its_own_key():
    """The numbers that `mesalens compare` has always printed."""
    layers = stack_of(3)
    table = compare(layers, REFERENCES, TASK, KEY, prompts=500, axes={"seed": [4, 7, 9]})
    assert table.value.dims == ("reference", "measure", "seed")
    assert list(table.reference.values) == ["ridge", "gd"] and list(table.seed.values) == [4, 7, 9]
    for seed, key in enumerate(jax.random.split(KEY, 3)):
        layer = jax.tree.map(lambda leaf, seed=seed: leaf[seed], layers)
        for name, reference in REFERENCES.items():
            own = table.sel(reference=name).isel(seed=seed)
            risk, reference_risk = risks((layer, reference), TASK, key, prompts=500)
            alike = alignment(layer, reference, TASK, key, prompts=500)
            expected = {"risk": risk, "reference_risk": reference_risk} | vars(alike)
            for measure, estimate in expected.items():
                found = own.sel(measure=measure)
                np.testing.assert_allclose(found.value, estimate.value, rtol=2e-6)
                np.testing.assert_allclose(found.standard_error, estimate.standard_error, rtol=2e-5)


@pytest.mark.slow
def test_differences_are_taken_prompt_by_prompt():
    first, second = Ridge(0.3), Ridge(0.31)
    table = compare(first, second, TASK, KEY, prompts=2000)
    assert list(table.reference.values) == ["reference"]

    def terms(prompt, target):
        ours, other = first(prompt), second(prompt)
        squares = jnp.sum((ours - target) ** 2) - jnp.sum((other - target) ** 2)
        return squares, jnp.sum((ours - other) ** 2), jnp.sum(other**2)

    difference, distance, square = eqx.filter_jit(
        lambda key: expectation(terms, TASK, key, prompts=2000)
    )(KEY)
    paired = table.sel(reference="reference", measure="risk_difference")
    assert float(paired.value) == pytest.approx(float(difference.value), rel=1e-3)
    assert float(paired.standard_error) == pytest.approx(float(difference.standard_error), rel=1e-3)
    apart = table.sel(reference="reference", measure=["risk", "reference_risk"]).standard_error
    assert float(paired.standard_error) < 0.1 * float(apart.min())
    relative = table.sel(reference="reference", measure="relative_difference")
    assert float(relative.value) == pytest.approx(float(distance.value / square.value), rel=1e-3)
    assert float(relative.standard_error) == pytest.approx(
        float(distance.standard_error / square.value), rel=1e-3
    )


def test_axes_other_than_seeds_see_the_same_prompts():
    rates = jax.vmap(lambda rate: GradientDescent(rate))(
        jnp.array([[0.5, 0.5], [0.3, 0.5]]).reshape(-1)
    )
    rates = jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), rates)
    table = compare(
        rates, Ridge(0.1), TASK, KEY, prompts=100, axes={"step": [0, 10], "seed": [0, 1]}
    )
    assert table.value.dims == ("reference", "measure", "step", "seed")
    value = table.value.sel(reference="reference")
    assert np.all(
        value.sel(measure="reference_risk", step=0) == value.sel(measure="reference_risk", step=10)
    )
    risk = value.sel(measure="risk")
    assert risk[0, 1] == risk[1, 1] and risk[0, 0] != risk[1, 0] and risk[0, 0] != risk[0, 1]


def test_it_says_what_it_measured():
    table = compare(Ridge(0.1), REFERENCES, TASK, KEY, prompts=100)
    assert table.attrs["prompts"] == 100 and "RegressionTask" in table.attrs["task"]
    assert "sensitivities" not in table.attrs
    assert str(table.formula.sel(measure="risk").values) == "E‖ŷ - y‖²"


def foreign(xs, ys, queries):
    gram = xs.mT @ xs + 0.1 * np.eye(3)
    return np.einsum("nd,ndm->nm", queries, np.linalg.solve(gram, xs.mT @ ys))


@pytest.mark.slow
def test_a_learner_without_derivatives_has_no_sensitivities():
    ours, other = Ridge(0.1), NumpyLearner(foreign)
    table = compare(GradientDescent(0.5), {"ours": ours, "other": other}, TASK, KEY, prompts=100)
    cosine = table.value.sel(measure="sensitivity_cosine")
    assert np.isfinite(cosine.sel(reference="ours")) and np.isnan(cosine.sel(reference="other"))
    assert "other" in table.attrs["sensitivities"] and "ours" not in table.attrs["sensitivities"]
    predictions = [name for name in table.measure.values if "sensitivity" not in name]
    np.testing.assert_allclose(
        *(table.value.sel(reference=name, measure=predictions) for name in ("ours", "other")),
        rtol=1e-4,
    )
    table = compare(other, ours, TASK, KEY, prompts=100)
    assert "sensitivity_cosine" not in table.measure and "reference" in table.attrs["sensitivities"]
    assert float(table.value.sel(reference="reference", measure="relative_difference")) < 1e-9


@pytest.mark.slow
def test_it_measures_a_training():
    comparison = Comparison(REFERENCES, TASK, prompts=64)
    training = train(
        lambda key: LinearTransformer.initialise(3, 2, init_scale=0.5, key=key),
        TASK,
        optax.adam(1e-2),
        steps=20,
        batch_size=16,
        every=10,
        seeds=2,
        key=random.key(3),
        measure=comparison,
    )
    table = comparison.dataset(training.metrics)
    assert table.value.dims == ("reference", "measure", "seed", "step")
    assert list(table.reference.values) == ["ridge", "gd"]
    for name in REFERENCES:
        np.testing.assert_array_equal(
            table.value.sel(reference=name, measure="risk"), training.metrics[f"{name}.risk"]
        )


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: compare(Ridge(0.1), {}, TASK, KEY), "references"),
        (
            lambda: compare(stack_of(2), Ridge(0.1), TASK, KEY, axes={"seed": [0, 1, 2]}),
            r"axes .*\(3,\)",
        ),
        (
            lambda: compare(SoftmaxHead(1.0), Ridge(0.1), CondensedTask(TASK), KEY),
            "SoftmaxHead .*condensed",
        ),
        (lambda: compare(Ridge(0.1), lambda p: p.ys[0], CondensedTask(TASK), KEY), "condensed"),
        (lambda: compare(Ridge(0.1), lambda p: jnp.zeros(3), TASK, KEY), r"\(3,\).*\(2,\)"),
        (lambda: compare(Ridge(0.1), Ridge(0.1), TASK, KEY, prompts=10**15), "prompts"),
    ],
)
def test_bad_input_gets_a_sentence(make, named):
    with pytest.raises(InputError, match=named):
        make()
