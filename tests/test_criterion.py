"""Verdicts follow from the evidence."""

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from mesalens.studies.criterion import (
    Evidence,
    above,
    below,
    confidence_interval,
    every_seed_below,
    within,
)


def evidence(*settings, counted=None) -> Evidence:
    """One list of values over seeds for each setting."""
    values = xr.DataArray(
        np.array(settings, float).T,
        dims=("seed", "alpha"),
        coords={"alpha": np.arange(len(settings))},
    )
    return Evidence(values, None if counted is None else xr.DataArray(counted, dims="seed"))


def test_the_interval_is_scipys():
    values = np.array([1.0, 2.0, 4.0, 4.5, 7.0])
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(confidence_interval(values), expected)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(1, 2, (4000, 5))
    covered = np.mean([low <= 1 <= high for low, high in map(confidence_interval, draws)])
    assert covered == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(
    ("criterion", "values", "outcome"),
    [
        (within(0.01), [0.001, 0.002, -0.001], "PASS"),
        (within(0.01), [0.1, 0.11, 0.12], "FAIL"),
        (within(0.01), [-0.1, -0.11, -0.12], "FAIL"),
        (within(0.01), [0.0, 0.02, -0.02], "INCONCLUSIVE"),
        (within(0.01), [0.0], "INCONCLUSIVE"),
        (within(0.01), [0.0, np.nan, 0.0], "FAIL"),
        (within(0.01), [0.0, np.inf, 0.0], "FAIL"),
        (above(0.99), [0.995, 0.996, 0.997], "PASS"),
        (above(0.99), [0.95, 0.951, 0.952], "FAIL"),
        (above(0.99), [0.98, 0.999, 0.999], "INCONCLUSIVE"),
        (below(0.1), [0.01, 0.02, 0.03], "PASS"),
        (below(0.1), [0.2, 0.21, 0.22], "FAIL"),
        (every_seed_below(1e-5), [1e-6, 9e-6, 2e-6], "PASS"),
        (every_seed_below(1e-5), [1e-6], "PASS"),
        (every_seed_below(1e-5), [1e-6, 2e-5, 1e-6], "INCONCLUSIVE"),
        (every_seed_below(1e-5), [2e-5, 3e-5], "FAIL"),
    ],
)
def test_outcomes(criterion, values, outcome):
    judged = criterion.judge(evidence(values))
    assert judged.outcome == outcome
    assert judged.seeds == judged.seeds_run == len(values)


def test_the_worst_setting_decides_and_is_named():
    good, unsure, bad = [0.0, 0.001, 0.0], [0.0, 0.03, 0.0], [0.2, 0.21, 0.2]
    assert within(0.01).judge(evidence(good, [0.004, 0.005, 0.004])).where == {"alpha": "1"}
    judged = within(0.01).judge(evidence(good, unsure))
    assert (judged.outcome, judged.where) == ("INCONCLUSIVE", {"alpha": "1"})
    judged = within(0.01).judge(evidence(bad, unsure, good))
    assert (judged.outcome, judged.where) == ("FAIL", {"alpha": "0"})


def test_only_counted_seeds_count():
    judged = within(0.01).judge(evidence([0.0, 0.001, 5.0], counted=[True, True, False]))
    assert (judged.outcome, judged.seeds, judged.seeds_run) == ("PASS", 2, 3)
    assert judged.value == pytest.approx(0.0005)
    none = within(0.01).judge(evidence([0.0, 0.0], counted=[False, False]))
    assert (none.outcome, none.seeds) == ("INCONCLUSIVE", 0)
    assert every_seed_below(1.0).judge(evidence([0.0], counted=[False])).outcome == "INCONCLUSIVE"
