"""The study von-oswald-2023, one layer: what its claims compare, and the settings of the paper."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from mesalens import InputError, random
from mesalens.atlas import Trained
from mesalens.studies import study
from mesalens.studies.von_oswald_2023 import STUDY, construction, one_layer, shift, sizes
from mesalens.studies.von_oswald_2023.study import regression
from mesalens.tasks import Distractors
from mesalens.theory import gradient_descent_transformer, one_step_risk

TASK = regression(3, 4)
PARTS = {
    "construction": ("construction-float32", "construction-float64"),
    "one-layer": (
        "training",
        "risk",
        "prediction-difference",
        "sensitivity-cosine",
        "sensitivity-difference",
        "interpolation",
    ),
    "shift": ("scaled-inputs", "scaled-functions", "other-covariates"),
    "distractors": ("distractors-hurt", "distractors-alike"),
    "sizes": ("risk-at-other-sizes", "cosine-at-other-sizes"),
}


def on_task():
    """A trained seed on the task, as far as references need one."""
    experiment = one_layer.one_layer.call(STUDY.values("small"), {})
    return Trained("layer", experiment, 0, TASK, None, xr.Dataset())


def test_parts_and_claims_have_the_names_that_they_always_had():
    found = {part.name: tuple(claim.name for claim in part.claims) for part in STUDY.parts}
    assert {name: found[name] for name in PARTS} == PARTS
    assert [part.name for part in STUDY.parts][: len(PARTS)] == list(PARTS)


def test_the_headline_has_all_claims_about_one_layer():
    selected = {part.name: len(claims) for part, claims in STUDY.select([None], "quick")}
    assert {name: selected[name] for name in PARTS} == {n: len(c) for n, c in PARTS.items()}


def test_names_select_parts_and_claims():
    ((part, claims),) = STUDY.select(["interpolation"], "full")
    assert (part.name, [claim.name for claim in claims]) == ("one-layer", ["interpolation"])
    with pytest.raises(InputError, match="one-layer"):
        STUDY.select(["one-layr"], "full")
    with pytest.raises(InputError, match="von-oswald-2023"):
        study("von-oswald")


def test_every_claim_has_a_world_in_which_it_is_false():
    assert [claim.name for claim in STUDY.claims if claim.must_fail_on is None] == []


@pytest.mark.parametrize("matrix", ["W_Q", "W_K", "W_V", "P"])
def test_a_wrong_sign_in_the_construction_is_found(matrix, monkeypatch):
    monkeypatch.setattr(construction, "CASES", [(2, 3, "fast")])  # all of them take long to compile
    tasks = {m: regression(3, 4, m) for m in construction.STARTS}
    drawn = {m: construction.draw(task, random.key(m)) for m, task in tasks.items()}
    errors = functools.partial(construction.relative_errors.__wrapped__, tasks, drawn)
    wrong = functools.partial(construction.with_sign_changed, matrix)
    assert np.all(errors(wrong, "float32") > 0.1)
    assert np.all(errors(gradient_descent_transformer, "float32") < 1e-5)


def test_references_are_steps_of_the_lengths_that_they_say():
    exact, trained = one_step_risk(TASK), on_task()
    sizes = [
        float(reference(trained).step_size) / exact.best_step_size
        for reference in (
            one_layer.best_step,
            one_layer.longer,
            one_layer.twice_as_long,
            one_layer.ascent,
        )
    ]
    np.testing.assert_allclose(sizes, [1, 1.2, 2, -1], rtol=1e-6)
    prompt = jax.tree.map(lambda leaf: leaf[0], TASK.sample(random.key(0), (1,))[0])
    predicted = one_layer.constructed(trained)(prompt)
    np.testing.assert_allclose(predicted, one_layer.best_step(trained)(prompt), rtol=1e-5)


def test_other_covariates_have_the_second_moment_of_the_training():
    for family, ratio in shift.COVARIATES.values():
        covariates = family(3, TASK.covariates.scale / ratio**0.5)
        given, expected = (np.diag(c.second_moment()) for c in (covariates, TASK.covariates))
        np.testing.assert_allclose(given, expected, rtol=1e-6)


def test_shifts_are_made_once_and_change_one_thing():
    again = regression(3, 4)
    assert shift.shifts(again)["inputs"] is shift.shifts(TASK)["inputs"]
    changed = shift.shifts(TASK)["distractors"](jnp.asarray(2))
    assert int(changed.distractors.count) == 2
    assert eqx.tree_equal(eqx.tree_at(lambda t: t.distractors, changed, Distractors(0)), TASK)


@pytest.mark.parametrize("budget", STUDY.budgets)
def test_layers_that_are_not_trained_take_one_step_and_all_count(budget):
    values = STUDY.values(budget)
    untrained = one_layer.one_layer.untrained.call(values, {})
    assert (untrained.steps, untrained.counts) == (1, None)
    trained = {"one-layer": one_layer.one_layer.call(values, {})}
    trained |= sizes.other_sizes.call(values, {})
    assert all(each.steps == values.steps and each.counts for each in trained.values())


def test_the_budget_paper_has_the_settings_of_the_paper():
    values = STUDY.values("paper")
    experiment = one_layer.one_layer.call(values, {})
    task, optimiser = experiment.task, experiment.optimiser
    assert (task.dim, task.context_length, task.covariates.scale) == (10, 10, 0.5)
    assert (experiment.steps, experiment.batch_size, experiment.stop) == (5000, 2048, "never")
    assert experiment.model["init_scale"] == 0.002
    assert (optimiser["learning_rate"], optimiser["schedule"]) == (1e-3, "constant")
    # The released code has a limit of 1e-3 and Adam's 1e-8 for gradients of half the risk
    assert (optimiser["clip"], optimiser["epsilon"]) == (2e-3, 2e-8)
    assert values.seeds == (5,)
