"""The study: what is true passes, what is broken fails."""

import equinox as eqx
import jax
import matplotlib.pyplot as plt
import pytest

from mesalens import InputError, plots
from mesalens.studies import STUDIES, judge, study
from mesalens.studies.von_oswald_2023 import STUDY
from mesalens.studies.von_oswald_2023.laboratory import Budget, Laboratory
from mesalens.theory import best_step_size, gradient_descent_transformer
from mesalens.training import TrainingSettings

SMALL = Budget(steps=1000, batch_size=256, seeds=4, prompts=5000, sizes=((2, 6),))


class SmallLaboratory(Laboratory):
    """The same experiments at d = n = 3, where training takes a second."""

    def settings(self, dim: int = 3, context_length: int = 3) -> TrainingSettings:
        return super().settings(dim, context_length)

    def trained(self, dim: int = 3, context_length: int = 3):
        return super().trained(dim, context_length)


ONE_LAYER = (
    "construction",
    "one-layer",
    "shift",
    "distractors",
    "sizes",
)  # test_study_deep.py has the others


def verdicts(laboratory, *names):
    parts = [part for part in STUDY.parts if part.name in (names or ONE_LAYER)]
    with plots.style():
        found = {
            v.claim.name: v.judgement
            for part in parts
            for v in judge(part.claims, part.run(laboratory))
        }
    plt.close("all")
    return found


def half_right(*changes):
    """The construction with the named matrices' signs changed."""

    def construct(*arguments, **options):
        transformer = gradient_descent_transformer(*arguments, **options)
        return eqx.tree_at(
            lambda t: [getattr(t.weights, name) for name in changes],
            transformer,
            replace_fn=lambda matrix: -matrix,
        )

    return construct


@pytest.fixture(scope="module")
def sound():
    return verdicts(SmallLaboratory(SMALL, seed=1))


@pytest.mark.slow
def test_every_claim_gets_a_verdict_and_none_fails(sound):
    assert set(sound) == {
        claim.name for part in STUDY.parts if part.name in ONE_LAYER for claim in part.claims
    }
    assert [name for name, judged in sound.items() if judged.outcome == "FAIL"] == []
    assert sound["construction-float64"].outcome == sound["construction-float32"].outcome == "PASS"
    assert sound["sensitivity-cosine"].outcome == "PASS"


@pytest.mark.slow
@pytest.mark.parametrize(
    "matrix", ["W_Q", *(pytest.param(name, marks=pytest.mark.slow) for name in ("W_K", "W_V", "P"))]
)
def test_a_wrong_sign_in_the_construction_fails(matrix):
    judged = verdicts(SmallLaboratory(SMALL, seeds=2, construct=half_right(matrix)), "construction")
    assert judged["construction-float32"].outcome == "FAIL"
    assert judged["construction-float64"].outcome == "FAIL"


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.2, pytest.param(0.8, marks=pytest.mark.slow)])
def test_a_step_size_that_is_off_by_a_fifth_fails(factor, sound):
    laboratory = SmallLaboratory(
        SMALL, seed=1, step_size=lambda task: factor * best_step_size(task)
    )
    judged = verdicts(laboratory, "one-layer")
    for name in ("risk", "prediction-difference", "sensitivity-difference"):
        assert judged[name].outcome == "FAIL", name
        assert sound[name].outcome != "FAIL", name


@pytest.mark.slow
def test_a_wrong_sign_in_the_construction_fails_the_interpolation(sound):
    judged = verdicts(SmallLaboratory(SMALL, seed=1, construct=half_right("P")), "one-layer")
    assert judged["interpolation"].outcome == "FAIL"
    assert sound["interpolation"].outcome != "FAIL"


@pytest.mark.slow
def test_layers_that_did_not_train_fail_or_do_not_count():
    untrained = Budget(steps=1, batch_size=8, seeds=3, prompts=1000, sizes=())
    judged = verdicts(SmallLaboratory(untrained), "one-layer", "distractors")
    assert judged["training"].outcome == "FAIL"
    assert all(
        verdict.outcome == "INCONCLUSIVE" and verdict.seeds == 0
        for name, verdict in judged.items()
        if name != "training"
    )


@pytest.mark.slow
def test_parts_run_alone_see_what_they_see_in_the_whole(sound):
    alone = verdicts(SmallLaboratory(SMALL, seed=1), "sizes")
    assert alone["risk-at-other-sizes"] == sound["risk-at-other-sizes"]


def test_names_select_parts_and_claims():
    assert [part.name for part, _ in STUDY.select(None)] == [part.name for part in STUDY.parts]
    ((part, claims),) = STUDY.select("interpolation")
    assert (part.name, [claim.name for claim in claims]) == ("one-layer", ["interpolation"])
    with pytest.raises(InputError, match="did you mean one-layer"):
        STUDY.select("one-layr")
    with pytest.raises(InputError, match="did you mean von-oswald-2023"):
        study("von-oswald")


def test_every_claim_has_a_source_an_estimator_and_a_name_of_its_own():
    for each in STUDIES.values():
        claims = [claim for part in each.parts for claim in part.claims]
        names = [claim.name for claim in claims] + [part.name for part in each.parts]
        assert len(set(names)) == len(names)
        assert all(claim.statement and claim.source and claim.estimator for claim in claims)
        assert set(each.budgets) == {"quick", "paper"}


def test_quick_has_five_seeds_and_paper_the_settings_of_the_paper():
    assert STUDY.budgets["quick"].seeds >= 5
    settings = Laboratory(STUDY.budgets["paper"]).settings()
    task, optimiser = settings.task, settings.optimiser
    assert (task.dim, task.context_length) == (10, 10)
    assert (task.covariates.kind, task.covariates.scale) == ("uniform", 0.5)
    assert (settings.steps, settings.batch_size, settings.model.init_scale) == (5000, 2048, 0.002)
    assert (optimiser.learning_rate, optimiser.b2, optimiser.clip) == (1e-3, 0.98, 1e-3)


def test_seeds_of_the_laboratory_are_independent():
    keys = {
        tuple(jax.random.key_data(Laboratory(SMALL, seed=s).key(*place)).tolist())
        for s in (0, 1)
        for place in ((1,), (2,), (1, 2))
    }
    assert len(keys) == 6
