"""The study of Zhang et al. (2025): its formulas against the theory, and what its measurements make of flows."""

import numpy as np
import pytest
import xarray as xr

from mesalens import theory
from mesalens.atlas.study import Lab
from mesalens.studies import study
from mesalens.studies.zhang_2025 import alignment, equations, plateaus
from mesalens.studies.zhang_2025.study import STUDY, law, predicted

SMALL = STUDY.values("small")
LAB = Lab(SMALL, 0, "test", 0)


def test_the_predicted_plateaus_are_the_best_steps_of_each_rank():
    risks, sizes = predicted(SMALL)
    moments = theory.task_moments(law(SMALL))
    np.testing.assert_allclose(risks, theory.plateau_risks(moments), rtol=1e-10)
    for rank in range(5):
        P = np.diag(np.where(np.arange(4) < rank, sizes, 0))
        np.testing.assert_allclose(theory.best_rank_step(moments, rank)[0], P, atol=1e-12)


def curve(levels, drops):
    """A flow whose risk and P are those of these levels, in turn."""
    times = np.geomspace(0.1, 1e4, 400)
    risks, sizes = predicted(SMALL)
    passed = 1 / (1 + np.exp(-(np.log(times) - np.log(drops)[:, None]) / 0.05))
    risk = risks[levels[0]] + np.diff(risks[levels]) @ passed
    entries = np.array([np.where(np.arange(4) < m, sizes, 0) for m in levels])
    P = entries[0] + passed.T @ np.diff(entries, axis=0)
    found = {"risk": ("time", risk), "P": (("time", "a", "b"), P[:, :, None] * np.eye(4))}
    return xr.Dataset(found, {"time": times})


def test_stairs_are_at_the_predicted_levels_and_a_level_that_is_skipped_does_not_count():
    stairs = plateaus.stairs.function(LAB, curve([0, 1, 2, 3, 4], [1, 10, 100, 1000]))
    assert stairs.counted.all() and stairs.drops == 4
    assert np.abs(stairs.risk).max() < 1e-3 and np.abs(stairs.P).max() < 1e-2
    stairs = plateaus.stairs.function(LAB, curve([0, 1, 3, 4], [1, 10, 100]))
    assert stairs.counted.values.tolist() == [True, True, False, True, True] and stairs.drops == 3


def test_a_plateau_is_left_halfway_down_its_drop():
    drops = [1.0, 10.0, 100.0, 1000.0]
    left = plateaus.left.function(LAB, curve([0, 1, 2, 3, 4], drops))
    np.testing.assert_allclose(left.time, drops, rtol=1e-3)


@pytest.mark.parametrize("function", [equations.two_layer_network, equations.fixed_points])
def test_identities_hold_and_fail_in_their_false_worlds(function):
    assert function.function(LAB) < 1e-6
    assert function.function(LAB, **function.must_fail_on) > 1e-3


def test_claims_of_our_own_say_so():
    claims = {claim.name: claim.place for claim in study("zhang-2025").claims}
    ours = [name for name, place in claims.items() if "mesalens" in place]
    declared = [
        alignment.aligned_weights_arrive,
        alignment.usual_weights_may_stop,
        alignment.aligned_blocks_stay_zero,
    ]
    assert ours == [claim.name for claim in declared]
