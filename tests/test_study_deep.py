"""Part `deep` of von-oswald-2023: what is measured, and that the claims can fail."""

from dataclasses import replace

import equinox as eqx
import matplotlib.pyplot as plt
import numpy as np
import pytest

from mesalens import random
from mesalens.learners import GradientDescent
from mesalens.studies.criterion import Evidence
from mesalens.studies.study import judge
from mesalens.studies.von_oswald_2023 import deep
from mesalens.studies.von_oswald_2023.deep_models import DeepSettings, relative_to, train_plus_plus
from mesalens.studies.von_oswald_2023.laboratory import BUDGETS, Laboratory
from mesalens.tasks import LinearFunctions, RegressionTask, Uniform
from mesalens.theory import best_steps, gradient_descent_transformer

DIM = LENGTH = 3
TASK = RegressionTask(Uniform(DIM, 1.0), LinearFunctions(DIM), context_length=LENGTH)
REFERENCES = {
    "descent": GradientDescent(1.5, 2),
    "plus_plus": GradientDescent(2.0, 2, data_correction=0.4),
}
SETTINGS = DeepSettings(
    2,
    True,
    20,
    64,
    seeds=2,
    plus_plus_steps=400,
    dim=DIM,
    context_length=LENGTH,
    plus_plus_rate=1e-2,
    prompts_for_rates=500,
    prompts=500,
)


def constructed(learner):
    return gradient_descent_transformer(learner, dim=DIM, context_length=LENGTH)


def test_a_transformer_that_is_gd_plus_plus_differs_from_plain_descent_alone():
    @eqx.filter_jit
    def measured(model):
        return relative_to(REFERENCES, model, model, TASK, random.key(0), 200)

    found = {
        name: float(value) for name, value in measured(constructed(REFERENCES["plus_plus"])).items()
    }
    assert found["plus_plus_risk_difference"] == pytest.approx(0, abs=1e-5)
    assert found["interpolated_risk_difference"] == pytest.approx(0, abs=1e-5)
    assert found["plus_plus_cosine"] == pytest.approx(1, abs=1e-5)
    assert found["plus_plus_prediction_difference"] < 1e-5 < found["descent_prediction_difference"]
    assert found["descent_cosine"] < 0.999
    other = measured(constructed(REFERENCES["descent"]))
    np.testing.assert_allclose(other["descent_risk_difference"], 0, atol=1e-5)
    assert abs(float(other["plus_plus_risk_difference"])) > 1e-3


@pytest.mark.slow
def test_gd_plus_plus_trained_as_a_transformer_reaches_the_best_shared_rates():
    best = best_steps(TASK, 2, data_correction=True, prompts=2000)
    start = best_steps(TASK, 2, prompts=500).learner
    trained = train_plus_plus(SETTINGS, TASK, start, random.key(0))
    np.testing.assert_allclose(trained.step_size, best.step_size, rtol=0.1)
    np.testing.assert_allclose(trained.data_correction, best.data_correction, rtol=0.15)


def test_settings_follow_the_rules_of_the_paper():
    two, five = (
        BUDGETS["paper"].deep[name].training(2, 0) for name in ("two-layers", "five-layers")
    )
    rules = [
        (
            s.optimiser.learning_rate,
            s.optimiser.clip,
            s.model.activation_clip,
            s.model.looped,
            s.steps,
        )
        for s in (two, five)
    ]
    assert rules == [(1e-3, 1e-3, None, True, 5000), (5e-4, 10.0, 10.0, False, 50_000)]
    assert (five.batch_size, five.task.dim, five.task.context_length) == (2048, 10, 10)


@pytest.mark.slow
def test_the_part_runs_and_untrained_layers_confirm_nothing():
    five = replace(SETTINGS, layers=5, looped=False, plus_plus_steps=20)
    tiny = replace(BUDGETS["quick"], deep={"two-layers": SETTINGS, "five-layers": five})
    laboratory = Laboratory(tiny, seeds=4)  # with two, no interval is narrow enough for a FAIL
    findings = deep.run(laboratory)
    assert set(findings.evidence) == {claim.name for claim in deep.CLAIMS}
    assert "outside [0.05, 20] for the trained layer" in findings.remarks[-1]
    assert [figure.name for figure in findings.figures] == [
        "deep-risk",
        "deep-alignment",
        "deep-weights",
        "deep-beyond",
        "deep-spectra",
        "deep-similarity",
    ]
    verdicts = {
        verdict.claim.name: verdict.judgement.outcome
        for verdict in judge(
            deep.CLAIMS,
            replace(
                findings,
                evidence={name: Evidence(e.values) for name, e in findings.evidence.items()},
            ),
        )
    }
    assert verdicts["two-layers-beat-descent"] == verdicts["five-layers-match-plus-plus"] == "FAIL"
    confirming = ("-descent", "-match-plus-plus", "-cosine", "-interpolation")
    assert "PASS" not in {verdicts[name] for name in verdicts if name.endswith(confirming)}
    plt.close("all")
