"""Verdicts follow from the evidence, and looks keep wrong ones rare."""

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from mesalens import InputError
from mesalens.atlas.criterion import (
    ERROR,
    Criterion,
    Evidence,
    above,
    below,
    every_seed_below,
    interval,
    spending,
    within,
)


def evidence(*settings, counted=None) -> Evidence:
    """One list of values over seeds for each setting."""
    values = xr.DataArray(
        np.array(settings, float).T,
        {"seed": range(len(settings[0])), "alpha": np.arange(len(settings))},
        ("seed", "alpha"),
    )
    counted = np.ones(len(settings[0]), bool) if counted is None else counted
    return Evidence(values, xr.DataArray(counted, {"seed": values.seed}, ("seed",)))


def test_the_interval_is_scipys():
    values = np.array([1.0, 2.0, 4.0, 4.5, 7.0])
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.98)
    np.testing.assert_allclose(interval(values, 0.02), expected)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(1, 2, (4000, 5))
    covered = np.mean([low <= 1 <= high for low, high in map(interval, draws)])
    assert covered == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(
    ("criterion", "values", "outcome", "words"),
    [
        (within(0.01), [0.001, 0.002, -0.001], "PASS", ""),
        (within(0.01), [0.1, 0.11, 0.12], "FAIL", "0.12"),
        (within(0.01), [-0.1, -0.11, -0.12], "FAIL", "−0.12"),
        (
            within(0.01),
            [0.0, 0.02, -0.02],
            "INCONCLUSIVE",
            "seeds would probably decide it: --seeds ",
        ),
        (within(0.01), [0.0], "INCONCLUSIVE", "One seed counts (1 computed)"),
        (within(0.01), [0.0, np.nan, 0.0], "FAIL", "not finite"),
        (within(0.01), [0.0, np.inf, 0.0], "FAIL", "not finite"),
        (above(0.99), [0.995, 0.996, 0.997], "PASS", ""),
        (above(0.99), [0.95, 0.951, 0.952], "FAIL", "above 0.99"),
        (above(0.99), [0.98, 0.999, 0.999], "INCONCLUSIVE", "seed 0: 0.98"),
        (below(0.1), [0.01, 0.02, 0.03], "PASS", ""),
        (below(0.1), [0.2, 0.21, 0.22], "FAIL", "below 0.1"),
        (every_seed_below(1e-5), [1e-6, 9e-6, 2e-6], "PASS", ""),
        (every_seed_below(1e-5), [1e-6], "PASS", ""),
        (every_seed_below(1e-5), [1e-6, 2e-5, 1e-6], "FAIL", "Seed 1 is a counterexample"),
        (every_seed_below(1e-5), [2e-5, 3e-5], "FAIL", "1 others"),
    ],
)
def test_outcomes(criterion, values, outcome, words):
    judged = criterion.judge(evidence(values))
    assert judged.outcome == outcome
    assert judged.seeds == judged.seeds_run == len(values)
    assert words in judged.why and bool(judged.why) == (outcome != "PASS")


def test_the_worst_setting_decides_and_is_named():
    good, unsure, bad = [0.0, 0.001, 0.0], [0.0, 0.03, 0.0], [0.2, 0.21, 0.2]
    assert within(0.01).judge(evidence(good, [0.004, 0.005, 0.004])).where == {"alpha": "1"}
    judged = within(0.01).judge(evidence(good, unsure))
    assert (judged.outcome, judged.where) == ("INCONCLUSIVE", {"alpha": "1"})
    judged = within(0.01).judge(evidence(bad, unsure, good))
    assert (judged.outcome, judged.where) == ("FAIL", {"alpha": "0"})
    judged = every_seed_below(0.1).judge(evidence(good, bad))
    assert (judged.outcome, judged.where) == ("FAIL", {"alpha": "1"})


def test_only_counted_seeds_count():
    judged = within(0.01).judge(evidence([0.0, 0.001, 5.0], counted=[True, True, False]))
    assert (judged.outcome, judged.seeds, judged.seeds_run) == ("PASS", 2, 3)
    assert judged.value == pytest.approx(0.0005) and judged.values == {0: 0.0, 1: 0.001}
    none = within(0.01).judge(evidence([0.0, 0.0], counted=[False, False]))
    assert (none.outcome, none.seeds) == ("INCONCLUSIVE", 0)
    none = every_seed_below(1.0).judge(evidence([0.0], counted=[False]))
    assert none.outcome == "INCONCLUSIVE" and "No seed counts (1 computed)" in none.why


@pytest.mark.parametrize(
    "bounds", [(-np.inf, np.inf), (np.nan, 1.0), (1.0, 1.0), (2.0, 1.0), (-1.0, np.nan)]
)
def test_a_criterion_that_cannot_fail_or_pass_is_refused(bounds):
    with pytest.raises(InputError, match="bound"):
        Criterion(*bounds, "nothing")
    with pytest.raises(InputError, match="bound"):
        within(-0.1)


def test_the_error_is_spent_and_no_more():
    for looks in ((5,), (5, 10), (4, 8, 16, 32)):
        shares = spending(looks)
        assert list(shares) == list(looks) and min(shares.values()) > 0
        assert sum(shares.values()) == pytest.approx(ERROR)


def sequential(criterion, mean, looks, rng, settings=1) -> str:
    """The verdict about a mean after looks at seeds that are added."""
    draws = mean + rng.normal(size=(settings, looks[-1]))
    outcome = "INCONCLUSIVE"
    for seeds, share in spending(looks).items():
        outcome = criterion.judge(evidence(*draws[:, :seeds]), share).outcome
        if outcome != "INCONCLUSIVE":
            break
    return outcome


def wrong(criterion, mean, looks, repetitions, settings=1) -> tuple[float, float]:
    """How often PASS and FAIL are found, where the mean is at a bound."""
    rng = np.random.default_rng(1)
    outcomes = [sequential(criterion, mean, looks, rng, settings) for _ in range(repetitions)]
    return outcomes.count("PASS") / repetitions, outcomes.count("FAIL") / repetitions


def fast_wrong(low, high, mean, looks, repetitions, settings) -> tuple[float, float]:
    """As `wrong`, vectorised over claims: a second way to the same rule."""
    rng = np.random.default_rng(2)
    draws = mean + rng.normal(size=(repetitions, settings, looks[-1]))
    passed, failed = (np.zeros(repetitions, bool) for _ in range(2))
    for seeds, share in spending(looks).items():
        values = draws[..., :seeds]
        means, spread = values.mean(-1), values.std(-1, ddof=1) / np.sqrt(seeds)
        half, wide = (
            scipy.stats.t.ppf(1 - error / 2, seeds - 1) * spread
            for error in (share, share / settings)
        )
        inside = ((means - half >= low) & (means + half <= high)).all(-1)
        outside = ((means - wide > high) | (means + wide < low)).any(-1)
        undecided = ~passed & ~failed
        passed |= undecided & inside
        failed |= undecided & ~inside & outside
    return passed.mean(), failed.mean()


@pytest.mark.parametrize("looks", [(5,), (5, 10, 20), (3, 6, 12, 24)])
@pytest.mark.parametrize("settings", [1, 8])
@pytest.mark.parametrize("low", [-np.inf, -4.0])
def test_wrong_verdicts_at_the_boundary_are_rare(looks, settings, low):
    passed, failed = fast_wrong(low, 0.0, 0.0, looks, 10_000, settings)
    # Four standard errors of a share of 5% are 0.009. At the boundary both verdicts count as wrong
    assert passed + failed < ERROR + 0.009
    assert passed + failed > 0.002  # and the criterion is not deaf


def test_the_criterion_follows_the_same_rule_as_the_simulation():
    looks = (4, 8)
    assert wrong(below(0.0), 0.0, looks, 400) == pytest.approx(
        fast_wrong(-np.inf, 0.0, 0.0, looks, 20_000, 1), abs=0.03
    )


def test_looks_without_spending_would_be_wrong_too_often():
    """The check can fail: the full error at each look is above 5%."""
    rng, repetitions, bad = np.random.default_rng(3), 10_000, 0
    draws = rng.normal(size=(repetitions, 20))
    decided = np.zeros(repetitions, bool)
    for seeds in (5, 10, 20):
        values = draws[:, :seeds]
        half = scipy.stats.t.ppf(0.975, seeds - 1) * values.std(1, ddof=1) / np.sqrt(seeds)
        decided |= np.abs(values.mean(1)) > half
    bad = decided.mean()
    assert bad > 0.08


def test_the_seeds_that_would_decide_are_enough_in_half_of_the_cases():
    rng = np.random.default_rng(4)
    first = rng.normal(0.5, 1.0, 6)
    judged = within(1.0).judge(evidence(first))
    assert judged.outcome == "INCONCLUSIVE" and judged.seeds_to_decide
    spread, mean = first.std(ddof=1), first.mean()
    decided = [
        within(1.0).judge(evidence(rng.normal(mean, spread, judged.seeds_to_decide))).outcome
        for _ in range(200)
    ]
    assert 0.3 < np.mean([outcome != "INCONCLUSIVE" for outcome in decided]) < 0.9
