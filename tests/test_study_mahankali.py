"""The study of Mahankali et al.: its tasks, which seeds count, and claims that need no training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from mesalens import random
from mesalens.atlas.experiment import Trained
from mesalens.atlas.study import Lab
from mesalens.learners import GradientDescent
from mesalens.models import LinearTransformer
from mesalens.studies.mahankali_2023 import STUDY, beyond, covariance, isotropic, nonlinear
from mesalens.studies.mahankali_2023.study import (
    bound,
    gap,
    linear_task,
    moments_of,
    trained_layer,
)
from mesalens.theory import (
    best_preconditioner,
    best_rank_step,
    best_step_size,
    gradient_descent_transformer,
    layer_risk,
)

SMALL = STUDY.values("small")
TASK = linear_task(3, 6, 0.0)


def lab(seed=0):
    return Lab(SMALL, 0, "a test", seed)


def layer(factor=1.0, task=TASK):
    """A step of gradient descent, `factor` times as long as the best one."""
    descent = GradientDescent(factor * best_step_size(task))
    return gradient_descent_transformer(descent, dim=task.dim, context_length=task.context_length)


def trained(learner, task=TASK):
    """A run of population training that ended at a learner."""
    metrics = xr.Dataset({"risk": ("step", [layer_risk(learner, moments_of(task))])}, {"step": [0]})
    experiment = trained_layer(SMALL, task, "population")
    return Trained("test", experiment, 0, task, learner, metrics.assign_coords(ending="all steps"))


def test_the_study_has_its_claims_and_figures():
    assert len(STUDY.claims) == 22
    figures = [figure.name for part in STUDY.parts for figure in part.figures]
    assert figures == ["risk", "training", "preconditioner", "spectrum", "nonlinear", "mean"]
    headline = {claim.name for claim in STUDY.claims if claim.headline}
    assert {"certificate", "trained-on-risk", "preconditioner", "nonlinear-prompts"} < headline


def test_sizes_replace_one_number_of_the_main_size():
    every = list(isotropic.sizes(STUDY.values("full")).values())
    assert every[0] == (5, 10, 0)
    for size in every[1:]:
        assert sum(one != other for one, other in zip(size, every[0], strict=True)) == 1


def test_the_seeds_draw_tasks_of_their_own_and_the_trainings_share_one():
    one, other = covariance.drawn(lab(0)), covariance.drawn(lab(1))
    assert not np.allclose(one.covariates.second_moment(), other.covariates.second_moment())
    task = covariance.covariance_layer.call(SMALL, {}).task
    spread = np.linalg.eigvalsh(task.covariates.second_moment())
    np.testing.assert_allclose(spread, [1 / 3, 1, 3])
    identity = task.functions.row_covariance() @ task.covariates.second_moment()
    np.testing.assert_allclose(identity, np.eye(3), atol=1e-12)


def test_tasks_have_the_symmetries_that_their_theorem_asks_for():
    full = STUDY.values("full")
    assert list(nonlinear.symmetric(full)) == list(full.families)
    for task in nonlinear.symmetric(full).values():
        assert task.sign_symmetric and task.rotation_invariant
    kinds = beyond.without_mean(full, np.random.default_rng(0))
    assert len(kinds) == 7 and all(task.sign_symmetric for task in kinds.values())
    assert not any(task.rotation_invariant for task in kinds.values())


def test_the_prior_mean_has_its_length():
    def length(*arguments):
        task = beyond.with_mean(SMALL, np.random.default_rng(0), *arguments)
        return np.linalg.norm(task.functions.weight_mean())

    assert 1 <= length() <= 2
    assert length(0.0) == 0 and length(1.5) == pytest.approx(1.5)


def test_a_layer_at_the_saddle_does_not_count_and_one_at_the_best_step_does():
    P, risk = best_rank_step(moments_of(TASK), 1)
    A, B = jnp.asarray(np.pad(P.T, (0, 1))), jnp.diag(jnp.array([0.0, 0, 0, -1]))
    saddle = LinearTransformer.from_effective(A[None, None], B[None, None], layers=1)
    assert layer_risk(saddle, moments_of(TASK)) == pytest.approx(risk, rel=1e-5)
    assert not trained(saddle).counts
    assert trained(layer()).counts


def test_with_one_dimension_the_plateau_is_predicting_0():
    task = linear_task(1, 4, 0.5)
    assert trained(layer(task=task), task).counts
    assert not trained(layer(0.0, task), task).counts


def test_initial_weights_have_numbers():
    first, same, other = (
        trained_layer(SMALL, TASK, "sampled", start=start).model(random.key(0))
        for start in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.weights.W_Q, same.weights.W_Q)
    assert not np.allclose(first.weights.W_Q, other.weights.W_Q)


def test_the_difference_of_functions_is_that_of_step_sizes():
    run = trained(layer())
    assert isotropic.difference(run, run) == pytest.approx(0, abs=1e-6)
    assert isotropic.difference(run, trained(layer(1.3))) == pytest.approx(0.3, rel=1e-5)


def test_the_bound_is_the_risk_of_the_best_step_and_lower_for_longer_prompts():
    assert bound(TASK) == pytest.approx(best_preconditioner(moments_of(TASK))[1], rel=1e-10)
    assert bound(linear_task(3, 12, 0.0)) < bound(TASK)
    assert abs(gap(trained(layer()))) < 1e-6 < gap(trained(layer(1.3)))


@pytest.mark.parametrize(
    "claim",
    [
        isotropic.step_size,
        isotropic.certificate,
        covariance.best_preconditioner,
        covariance.preconditioned_certificate,
        beyond.general_preconditioner,
        beyond.general_certificate,
    ],
)
def test_claims_about_formulas_hold_and_fail_where_they_are_false(claim):
    def outside(declared):
        values = np.asarray(declared.call(lab(), {}))
        return bool(np.any((values < claim.criterion.low) | (values > claim.criterion.high)))

    assert not outside(claim)
    assert outside(claim.falsified())


def test_a_start_at_the_prior_mean_gives_the_bound_and_half_way_does_not():
    claim = beyond.descent_from_mean
    assert claim.call(lab(), {}) < 1e-9 < claim.falsified().call(lab(), {})


def test_a_family_with_a_mean_has_none_of_the_symmetries():
    values = nonlinear.solved.given(families=nonlinear.asymmetric).call(lab(), {})
    assert values.sizes == {"family": 1, "row": 3, "column": 3}
    assert float(values.away.item()) > 0.05 and float(values.gap.item()) > 0.01
    signs = nonlinear.sign_symmetry.falsified().call(lab(), {})
    assert signs.dims == ("family", "statistic") and float(jax.numpy.max(signs.values)) > 0.02
