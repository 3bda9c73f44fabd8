"""What the studies of the atlas compute beside trainings, by independent routes; and their guide."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from mesalens import InputError, LinearTransformer
from mesalens.atlas import Study, above
from mesalens.atlas.guide import guide
from mesalens.atlas.study import ExperimentNode, Lab, all_nodes
from mesalens.cli import main
from mesalens.studies import STUDIES, chang_2025, li_2024, study, wu_2024, zhang_2024
from mesalens.tasks import (
    FinitePool,
    Gaussian,
    LinearFunctions,
    Mixture,
    RandomMean,
    RegressionTask,
)
from mesalens.theory import (
    best_preconditioner,
    best_started_step,
    layer_risk,
    lower_bound,
    preconditioned_risk,
    task_moments,
)
from mesalens.theory._mixture_moments import _product

FIRST_WAVE = ("wu-2024", "zhang-2024", "chang-2025", "huang-2025", "li-2024", "mesalens-2026")


def lab(declared, seed=0, budget="small"):
    return Lab(declared.values(budget), 0, "a test", seed)


@pytest.mark.parametrize("name", FIRST_WAVE)
def test_studies_say_their_system_and_claims_say_what_falsifies_them(name):
    declared = study(name)
    assert declared.system and all(claim.must_fail_on for claim in declared.claims)
    assert any(claim.headline for claim in declared.claims)


def test_without_the_constant_a_layer_may_have_any_linear_function_of_the_query():
    """R of `x^T P (s + p)`, p the best: that of a layer whose W_0 nothing but the output reads."""
    each, _ = chang_2025.components(lab(chang_2025.STUDY).settings, np.random.default_rng(0))
    moments = task_moments(each[0])
    P = np.random.default_rng(1).normal(size=(2, 2)) / 10
    found = preconditioned_risk(P, chang_2025.less_constant(moments))
    d = len(P)
    with jax.enable_x64(True):
        A, B = np.zeros((2, d + 1, d + 1))
        A[:d, :d], B[d, d] = P.T, -1

        def risk(start):
            weights = jnp.asarray(A)[None, None], jnp.asarray(B)[None, None]
            given = jnp.asarray(start)[None]
            layer = LinearTransformer.from_effective(*weights, layers=1, initial_weights=given)
            return layer_risk(layer, moments)

        # A parabola in W_0, whose minimum is that of a quadratic form
        zero, eye = np.zeros(d), np.eye(d)
        slopes = np.array([(risk(e) - risk(-e)) / 2 for e in eye])
        squares = np.array(
            [[risk(a + b) - risk(a) - risk(b) + risk(zero) for a in eye] for b in eye]
        )
    assert found == pytest.approx(risk(zero) - slopes @ np.linalg.solve(squares, slopes) / 2)


@pytest.mark.parametrize(
    "functions", [LinearFunctions(3, mean=np.ones((1, 3))), FinitePool(3, size=5)]
)
def test_the_bound_with_a_start_is_that_of_the_best_started_step_or_below(functions):
    task = RegressionTask(Gaussian(3), functions, context_length=6)
    bound, step = lower_bound(task_moments(task), start=True), best_started_step(task)
    assert bound <= step.risk + 1e-9
    assert bound < lower_bound(task_moments(task)) - 1e-3
    if isinstance(functions, LinearFunctions):
        assert bound == pytest.approx(step.risk, rel=1e-9)


def test_the_bound_with_a_start_takes_joint_moments():
    task = RegressionTask(Gaussian(2), LinearFunctions(2, mean=np.ones((1, 2))), context_length=4)
    moments = task_moments(task)
    as_joint = dataclasses.replace(moments, joint=_product(moments))
    for start in (False, True):
        expected = lower_bound(moments, start=start)
        assert lower_bound(as_joint, start=start) == pytest.approx(expected, rel=1e-9)
    of_mean = RegressionTask(RandomMean(2), LinearFunctions(2), context_length=4)
    without = lower_bound(task_moments(of_mean))  # without a mean of w a start is of no use
    assert lower_bound(task_moments(of_mean), start=True) == pytest.approx(without, rel=1e-9)


def test_low_rank_changes_have_the_excess_that_singular_values_leave():
    """The share of li-2024 beside a search over changes of rank one."""
    s = lab(li_2024.STUDY).settings
    rng = np.random.default_rng(3)
    old, _ = best_preconditioner(task_moments(li_2024.law(s, rng)))
    moments = task_moments(li_2024.law(s, np.random.default_rng(3), shift=1))
    _, least = best_preconditioner(moments)
    lost = preconditioned_risk(old, moments) - least

    def risk(numbers):
        return preconditioned_risk(old + np.outer(numbers[:2], numbers[2:]), moments)

    starts = np.random.default_rng(4).normal(size=(5, 4)) / 5
    risks = [scipy.optimize.minimize(risk, start, method="Nelder-Mead").fun for start in starts]
    share = 1 - (min(risks) - least) / lost
    claim = next(c for c in li_2024.STUDY.claims if c.name == "low-rank-adaptation")
    changed = Lab(s, 0, "a test", 0)
    changed_rng = lambda *words: np.random.default_rng(3)  # noqa: E731
    object.__setattr__(changed, "rng", changed_rng)
    assert claim.function(changed) == pytest.approx(share, abs=1e-3)


def test_formulas_of_wu_2024_do_not_come_from_the_package():
    """E[s s^T]/N², by simulation."""
    task = wu_2024.law(np.diag([1.0, 0.5]), 6, 0.3)
    _, K = wu_2024.moments_by_formula(task)
    prompts, _ = task.sample(jax.random.key(0), (200_000,))
    s = np.einsum("pid,pi->pd", prompts.xs, prompts.ys[..., 0], dtype=float) / 6
    products = np.einsum("pa,pb->pab", s, s)
    errors = products.std(0) / np.sqrt(len(s))
    assert (np.abs(products.mean(0) - K) < 5 * errors).all()


def test_gd_beta_of_zhang_2024_has_the_exact_risk():
    s = lab(zhang_2024.STUDY).settings
    task = zhang_2024.law(s, np.random.default_rng(0))
    run = dataclasses.make_dataclass("Run", ["task"])(task)
    learner = zhang_2024.gd_beta(run)
    prompts, targets = task.sample(jax.random.key(0), (100_000,))
    squares = np.asarray((jax.vmap(learner)(prompts) - targets)[:, 0], float) ** 2
    error = squares.std() / np.sqrt(len(squares))
    assert abs(squares.mean() - best_started_step(task).risk) < 4 * error


def test_two_claims_of_one_function_with_the_same_arguments_are_refused():
    declared = Study("a", title="A", citation="B", settings={})

    def declare(name, value):
        def claim(lab):
            """A statement.

            Measured: a number.
            """
            return value

        return declared.claim("place", above(0.0), name=name)(claim)

    declare("one", 1.0)
    with pytest.raises(InputError, match=r"two and one.*argument"):
        declare("two", 2.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST_WAVE)
def test_what_needs_no_training_holds_at_small_sizes_too(name, tmp_path):
    """At a seed of its own. (Trainings of the small budget are too short for claims about them.)"""
    from mesalens.atlas import Session

    session = Session(tmp_path / "store", seed=11, say=lambda line: None)
    report = session.reproduce(name, budget="small")
    for verdict in report.verdicts:
        trains = any(isinstance(node, ExperimentNode) for node in all_nodes([verdict.claim]))
        assert trains or verdict.judgement.outcome != "FAIL", verdict.judgement


def test_the_guide_has_systems_claims_reasons_and_what_is_not_checked(tmp_path, capsys):
    """By `mesalens verdicts --guide`, from reports."""
    out = tmp_path / "report"
    words = ["reproduce", "chang-2025/heads-decouple", "--budget", "small", "--out", str(out)]
    assert main([*words, "--store", str(tmp_path / "store")]) == 0
    capsys.readouterr()
    assert main(["verdicts", str(out), "--guide"]) == 0
    text = capsys.readouterr().out
    declared = study("chang-2025")
    assert "[chang-2025](#chang-2025)" in text and "`heads-decouple`" in text
    assert "K kinds of tasks" in text and "**Not checked.**" in text and "`small`" in text
    assert declared.title in text
    content = json.loads((out / "verdicts.json").read_text())
    claim = content["studies"][0]["parts"][0]["claims"][0]
    claim |= {"outcome": "FAIL", "why": "It is <wrong>."}
    shown = guide([content], "a command")
    assert "**Not PASS.**" in shown and "It is \\<wrong\\>." in shown and "1 FAIL" in shown
    assert "Not checked:" in (out / "index.html").read_text()
    assert len(STUDIES) >= 9 and Mixture
