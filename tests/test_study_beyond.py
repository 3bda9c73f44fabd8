"""Parts softmax, sine, teachers, classification and copying of von-oswald-2023: what is measured, and that the claims can fail."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from mesalens import InputError, plots, random
from mesalens.learners import GradientDescent, LeastSquares
from mesalens.studies import judge
from mesalens.studies.criterion import Evidence
from mesalens.studies.von_oswald_2023 import classification, copying, nonlinear, softmax
from mesalens.studies.von_oswald_2023.laboratory import BUDGETS, Laboratory
from mesalens.studies.von_oswald_2023.runs import Run, beside, for_each_seed, share_of_gain
from mesalens.tasks import LinearFunctions, RegressionTask, SineWaves, Uniform
from mesalens.theory import softmax_descent_transformer
from mesalens.training import clipped_adam, train

PARTS = {
    "softmax": softmax.PART,
    "sine": nonlinear.SINE,
    "teachers": nonlinear.TEACHERS,
    "classification": classification.PART,
    "copying": copying.PART,
}
TINY = Run(4, 16, 2, dim=2, context_length=4, measurements=2, prompts=64)
TASK = RegressionTask(Uniform(2, 1.0), LinearFunctions(2), context_length=4)


@pytest.fixture(scope="module")
def laboratory():
    runs = {name: replace(TINY, dim=1) if name == "sine" else TINY for name in PARTS}
    return Laboratory(replace(BUDGETS["quick"], runs=runs))


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_a_part_runs_and_untrained_models_confirm_nothing_but_constructions(laboratory, name):
    part = PARTS[name]
    with plots.style():
        findings = part.run(laboratory)
    assert set(findings.evidence) == {claim.name for claim in part.claims}
    assert findings.figures and findings.remarks
    verdicts = {v.claim.name: v.judgement.outcome for v in judge(part.claims, findings)}
    learned = {
        name
        for name, outcome in verdicts.items()
        if outcome == "PASS" and not name.endswith("-construction")
    }
    assert not learned
    plt.close("all")


def test_a_learner_beside_itself_has_no_difference_and_beside_another_has_one():
    descent = GradientDescent(1.0)
    own = beside(descent, descent, TASK, random.key(0), 256)
    for name in ("risk_difference", "prediction_difference", "sensitivity_difference"):
        assert abs(float(own[name])) < 1e-6
    np.testing.assert_allclose(own["cosine"], 1, atol=1e-6)
    other = beside(descent, LeastSquares(), TASK, random.key(0), 256)
    assert float(other["prediction_difference"]) > 0.1 and float(other["cosine"]) < 0.999
    assert float(other["reference_risk"]) < 1e-6


def test_each_seed_is_measured_by_itself():
    training = train(
        lambda key: GradientDescent(jax.random.uniform(key)),
        TASK,
        clipped_adam(1e-3, clip=1.0),
        steps=1,
        seeds=[2, 5],
        key=random.key(0),
    )
    found = for_each_seed(training, lambda learner, _: {"rate": learner.step_size}, random.key(1))[
        "rate"
    ]
    assert found.seed.values.tolist() == [2, 5]
    np.testing.assert_array_equal(
        found.values, [training.learner(place).step_size for place in (0, 1)]
    )


def test_the_share_of_gain_is_0_for_predicting_0_and_1_for_the_reference():
    np.testing.assert_allclose(
        share_of_gain(xr.DataArray([3.0, 1.0, 2.0], dims="seed"), 3.0, 1.0), [0, 1, 0.5]
    )


def test_the_first_step_is_the_first_and_missing_where_there_is_none():
    reached = xr.DataArray(
        [[False, True, False, True], [False, False, False, False]],
        dims=("seed", "step"),
        coords={"step": [0, 10, 20, 30]},
    )
    np.testing.assert_array_equal(copying.first_step(reached), [10.0, np.nan])


@pytest.mark.slow
def test_the_product_of_heads_is_the_identity_for_a_pair_that_is_a_step():
    model = softmax_descent_transformer(GradientDescent(0.5), dim=3, scale=0.1)
    training = train(
        lambda key: model, RegressionTask(Uniform(3, 1.0), LinearFunctions(3), context_length=4),
        clipped_adam(1e-9, clip=1.0), steps=1, seeds=2, key=random.key(0),
    )  # fmt: skip
    heads = softmax._heads(training, 3)
    np.testing.assert_allclose(heads.opposite, 1, atol=1e-5)
    np.testing.assert_allclose(heads.product_cosine, 1, atol=1e-5)
    alike = replace(training, learners=jax.tree.map(jnp.abs, training.learners))
    assert float(softmax._heads(alike, 3).opposite[0]) < 0


def test_the_best_function_of_the_query_alone_has_the_risk_of_a_quadrature():
    task = nonlinear.sine_task(TINY)
    x, a, phase = np.meshgrid(
        *(
            low + (high - low) * (np.arange(200) + 0.5) / 200
            for low, high in ((-5, 5), (0.1, 0.5), (0, np.pi))
        ),
        indexing="ij",
    )
    wave = a * np.sin(x + phase)
    np.testing.assert_allclose(
        nonlinear.context_blind_risk(task, 1.0),
        (wave - wave.mean((1, 2), keepdims=True)).var(),
        rtol=1e-4,
    )
    assert nonlinear.context_blind_risk(TASK, 0.25) == 0.25
    with pytest.raises(InputError, match="not known here"):
        nonlinear.context_blind_risk(replace(task, functions=SineWaves(1, phase=(0.0, 1.0))), 1.0)


@pytest.mark.slow
def test_a_dull_first_layer_fails_the_construction(laboratory, monkeypatch):
    task = RegressionTask(Uniform(3, 0.5), LinearFunctions(3), context_length=5)
    descent = GradientDescent(1.0)
    claim = {claim.name: claim for claim in copying.CLAIMS}["copying-construction"]
    sharp = claim.criterion.judge(Evidence(copying._construction(laboratory, task, descent)))
    monkeypatch.setattr(copying, "SHARPNESS", 5.0)
    dull = claim.criterion.judge(Evidence(copying._construction(laboratory, task, descent)))
    assert (sharp.outcome, dull.outcome) == ("PASS", "FAIL")
