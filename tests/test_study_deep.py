"""The parts deep and depths of von-oswald-2023: what is compared, and the rules of the paper."""

import jax
import numpy as np
import pytest
import xarray as xr

from mesalens import analysis, random
from mesalens.atlas import Trained, compared_with_each
from mesalens.atlas.study import Lab, Values
from mesalens.learners import GradientDescent
from mesalens.studies.von_oswald_2023 import STUDY, deep, deep_models, depths
from mesalens.studies.von_oswald_2023.study import regression
from mesalens.theory import best_step_sizes, gradient_descent_transformer

TASK = regression(3, 3)
GD = GradientDescent(6.0, 2)
PLUS_PLUS = GradientDescent(8.0, 2, data_correction=1.5)


VALUES = STUDY.values("small") | {"prompts": 300, "prompts_for_rates": 300}
LAB = Lab(Values(VALUES), 0, "test", 0)


def seed_of(learner):
    experiment = deep.two_layers.call(STUDY.values("small"), {})
    return Trained("deep", experiment, 0, TASK, learner, xr.Dataset(), LAB.settings)


def as_plus_plus(descent=PLUS_PLUS):
    return seed_of(deep_models.AsTransformer(descent, TASK.context_length))


def as_model(descent):
    return gradient_descent_transformer(descent, **TASK.sizes)


def test_parts_have_the_claims_and_figures_that_they_always_had():
    parts = {part.name: part for part in STUDY.parts}
    both = ("beat-descent", "match-plus-plus", "cosine", "nearer-plus-plus")
    inside = ("condition", "transformed-step")
    named = {f"{depth}-{name}" for depth in ("two-layers", "five-layers") for name in both + inside}
    named |= {"two-layers-interpolation", "beyond-depth"}
    assert {claim.name for claim in parts["deep"].claims} == named
    headline = [claim.name for claim in parts["deep"].claims if claim.headline]
    assert headline == [f"two-layers-{name}" for name in (*both, "interpolation")]
    figures = ["risk", "alignment", "weights", "beyond", "spectra", "similarity"]
    assert [f.name for f in parts["deep"].figures] == [f"deep-{name}" for name in figures]
    claims = [claim.name for claim in parts["depths"].claims]
    assert claims == ["depths-beat-descent", "depths-match-plus-plus"]


@pytest.mark.slow
def test_a_transformer_that_is_gd_plus_plus_differs_from_plain_descent_alone():
    references = {"descent": deep_models.descent, "plus_plus": as_plus_plus()}
    given = {"trained": seed_of(as_model(PLUS_PLUS)), "references": references}
    found = compared_with_each.given(**given).call(LAB, {})
    assert float(found["plus_plus_relative_risk_difference"]) == pytest.approx(0, abs=1e-5)
    assert float(found["plus_plus_cosine"]) == pytest.approx(1, abs=1e-5)
    assert (
        found["plus_plus_relative_prediction_difference"]
        < 1e-5
        < found["descent_relative_prediction_difference"]
    )
    assert found["descent_cosine"] < 0.999


def test_gd_plus_plus_goes_through_its_transformer_and_is_trained():
    learner = as_plus_plus().learner
    prompts, _ = TASK.sample(random.key(0), (5,))
    np.testing.assert_allclose(learner.batch(prompts), jax.vmap(learner)(prompts), rtol=1e-4)
    trained = [leaf for leaf in jax.tree.leaves(learner.trainable()) if leaf]
    assert len(trained) == 2  # η and γ


@pytest.mark.slow
def test_gd_plus_plus_begins_as_the_best_plain_descent():
    values = STUDY.values("small")
    experiment = deep.two_plus_plus.call(values, {})
    start = jax.jit(experiment.initialise(experiment.task))(random.key(0)).descent
    best = best_step_sizes(experiment.task, 2, prompts=values.prompts_for_rates)
    assert float(start.step_size) == pytest.approx(float(best.step_size), abs=0.01)
    assert float(start.data_correction) == 0


def test_a_correction_of_the_wrong_sign_worsens_the_condition():
    for layers in (2, 5):
        model = deep.worsening(seed_of(as_model(GradientDescent(6.0, layers))))
        spectrum = analysis.input_spectra(model, TASK, random.key(0), prompts=200)
        assert deep.change(spectrum.log_condition) > 0 and deep.change(spectrum.step_risk) > 0
    right = analysis.input_spectra(as_model(PLUS_PLUS), TASK, random.key(0), prompts=200)
    assert deep.change(right.log_condition) < 0


@pytest.mark.parametrize("budget", STUDY.budgets)
def test_every_transformer_is_compared_with_gd_plus_plus_of_its_depth_and_size(budget):
    values = STUDY.values(budget)
    models = depths.other_depths.call(values, {}) | {"2": deep.two_layers.call(values, {})}
    others = depths.other_plus_plus.call(values, {}) | {"2": deep.two_plus_plus.call(values, {})}
    assert list(models) == list(others)
    assert all(models[name].task == others[name].task for name in models)


def test_settings_follow_the_rules_of_the_paper():
    values = STUDY.values("paper")
    two, five = (node.call(values, {}) for node in (deep.two_layers, deep.five_layers))
    names = "layers", "looped", "activation_clip"
    assert [two.model[name] for name in names] == [2, True, None]
    assert [five.model[name] for name in names] == [5, False, 10.0]
    # Limits of 1e-3 and 10 for gradients of half the risk
    rates = [(each.optimiser["learning_rate"], each.optimiser["clip"]) for each in (two, five)]
    assert rates == [(1e-3, 2e-3), (5e-4, 20.0)]
    assert [each.steps for each in (two, five)] == [5000, 50_000]
    assert (five.batch_size, five.task.dim, five.task.context_length) == (2048, 10, 10)
    assert [values.deep_seeds, values.depth_seeds] == [(5,), (2,)]


def test_kinds_have_names_that_say_what_they_are():
    assert deep_models.name_of((2, "looped", 5, 20, 1)) == "2 looped layers, d = 5, n = 20"
    assert deep_models.name_of((5, "unshared", 9, 8, 3)) == "5 unshared layers, d = 9, n = 8, m = 3"
