"""Objects say in a line what they are, and in a notebook in an escaped table."""

import html.parser
from datetime import UTC, datetime

import jax
import numpy as np
import pytest
import xarray as xr

import mesalens as ml
from mesalens.atlas.criterion import Judgement
from mesalens.atlas.report import Report, StudyReport, Verdict
from mesalens.atlas.study import Values
from mesalens.display import Described, Summary
from mesalens.identification.distance import Interval
from mesalens.identification.procedure import ProcedureIdentification

TASK = ml.tasks.RegressionTask(
    ml.tasks.Gaussian(3),
    ml.tasks.LinearFunctions(3),
    noise=ml.tasks.GaussianNoise(0.25),
    context_length=7,
)


class Reader(html.parser.HTMLParser):
    """The rows of the tables in HTML, and its other text; no tag may be left open."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.text, self.images = [], [], "", []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.images.append(dict(attributes))
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        self.text += data


def read(thing):
    return Reader(thing._repr_html_())


def test_all_text_is_escaped():
    nasty = "<script>a & 'b'\"</script>"

    class Nasty(Described):
        def _summary(self):
            cells = {"head": [nasty], "body": [[nasty]], "lines": [nasty]}
            return Summary(
                nasty, {nasty: nasty, "empty": ""}, svg=lambda: b"<svg/>", alt=nasty, **cells
            )

    assert repr(Nasty()) == f"Nasty({nasty})"
    assert "<script" not in Nasty()._repr_html_()
    found = read(Nasty())
    assert found.rows == [[nasty, nasty], [nasty], [nasty]]
    assert found.text.count(nasty) == 6 and found.images[0]["alt"] == nasty
    assert found.images[0]["src"].startswith("data:image/svg+xml;base64,")


def test_a_task_has_its_sizes_and_what_was_chosen():
    found = read(TASK)
    assert "RegressionTask: d = 3, m = 1, n = 7" in found.text
    assert ["noise", "GaussianNoise(variance=0.25)"] in found.rows
    assert "distractors" not in found.text  # the default


def test_prompts_have_shapes_and_not_numbers():
    one, many = (TASK.sample(jax.random.key(0), shape)[0] for shape in ((), (4,)))
    assert "d = 3, m = 1, n = 7" in read(one).text and ["query", "f32[3](jax)"] in read(one).rows
    assert "a batch of shape (4,)" in read(many).text
    assert "n = 7" in read(one.condense()).text


def test_learners_have_their_parameters():
    assert ["step size", "0.5"] in read(ml.GradientDescent(0.5)).rows
    layer = ml.LinearTransformer.initialise(3, key=jax.random.key(0))
    assert ["trainable numbers", "64"] in read(layer).rows
    assert "4,4" in read(layer).rows[0][1] and "[[" not in read(layer).text
    assert "NumpyLearner" in read(ml.adapters.NumpyLearner(lambda xs, ys, queries: ys[:, 0])).text


def test_a_long_value_is_shortened():
    pool = {f"reference {place}": ml.Ridge(1.0 + place) for place in range(100)}
    assert max(len(text) for _, text in read(ml.adapters.NumpyLearner(Long(pool))).rows) <= 300


class Long:
    def __init__(self, pool):
        self.pool = pool

    def __repr__(self):
        return f"Long({self.pool})"

    def __call__(self, xs, ys, queries):
        return ys[:, 0]


def test_results_of_theory_have_numbers_and_the_certificate_in_words():
    best = ml.theory.optimal_layer(TASK)
    found = read(best)
    assert "gradient-descent" in found.text and best.certificate.meaning in found.text
    assert ["risk", f"{best.risk:.7g}"] in found.rows
    assert "Certificate: optimal" in read(best.certificate).text
    step = ml.theory.one_step_risk(TASK)
    assert ["best step size", f"{step.best_step_size:.7g}"] in read(step).rows


def test_an_estimate_is_text_with_its_error():
    assert str(ml.analysis.Estimate(0.35504, 0.00398)) == "0.355 ± 0.004"


def training(**coordinates):
    loss = np.array([[[np.nan, 2.0, 1.0], [np.nan, 4.0, 3.0]]])
    dims = ("rate", "seed", "step")
    metrics = xr.Dataset(
        {"loss": (dims, loss)}, {"rate": [0.1], "seed": [0, 1], "step": [0, 5, 10]}
    )
    ends = {"ending": (("rate", "seed"), [["all steps", "diverged"]]), **coordinates}
    learner = ml.LinearTransformer.initialise(3, key=jax.random.key(0))
    return ml.training.Training(learner, metrics.assign_coords(ends).assign_attrs(device="<cpu>"))


def test_a_training_says_how_many_runs_how_long_and_how_they_ended():
    run = training()
    assert repr(run) == (
        "Training(LinearTransformer, 1 values of rate × 2 seeds, 10 steps, loss 2 (1 to 3))"
    )
    found = read(run)
    assert ["ended", "all steps: 1, diverged: 1"] in found.rows and [
        "device",
        "<cpu>",
    ] in found.rows


def verdict(outcome="PASS", high=0.2):
    part = ml.studies.study("mahankali-2023").parts[0]
    judged = Judgement(outcome, 0.1, -0.1, high, 0.95, 2, 3, {"n": "5"}, {0: 0.1, 1: 0.1}, "Why.")
    return Verdict(part, part.claims[0], judged, 1, [3], [], False, "", 1.0)


def test_a_verdict_is_a_line_and_its_claim_with_the_interval():
    assert repr(verdict()) == "Verdict(step-size: PASS, 0.1 [−0.1, 0.2], 2 of 3 seeds)"
    found = read(verdict())
    assert ["interval", "[−0.1, 0.2]"] in found.rows and ["why", "Why."] in found.rows
    assert ["criterion", "within ±0.01"] in found.rows and ["seeds", "0: 0.1, 1: 0.1"] in found.rows


def test_reports_have_a_table_of_verdicts():
    study = ml.studies.study("mahankali-2023")
    part = StudyReport(study, Values(), {}, [verdict(), verdict("FAIL", np.inf)], [], [], {}, {})
    whole = Report([part], ["mahankali-2023"], "quick", 0, None, {}, datetime.now(UTC), 1.0)
    for report in (part, whole):
        assert repr(report) == f"{type(report).__name__}(mahankali-2023: 2 claims: 1 PASS, 1 FAIL)"
        head, *rows = read(report).rows
        assert head[:4] == ["verdict", "claim", "value", "interval"]
        assert [row[0] for row in rows] == ["PASS", "FAIL"] and rows[1][3] == "[−0.1, ∞]"


def test_studies_parts_and_claims_say_what_is_claimed():
    study = ml.studies.study("mahankali-2023")
    part, claim = study.parts[0], study.parts[0].claims[0]
    assert repr(study) == f"Study(mahankali-2023: {len(study.claims)} claims)"
    assert repr(part) == f"Part(mahankali-2023/isotropic: {len(part.claims)} claims)"
    assert repr(claim) == "Claim(step-size: within ±0.01)"
    assert len(read(part).rows) == 2 + len(part.claims) and claim.statement in read(study).text
    assert ["place", claim.place] in read(claim).rows


@pytest.fixture(scope="module")
def ridge():
    return ml.identify(ml.Ridge(0.5), TASK, prompts=1024)


def test_an_identification_has_the_answer_its_parameters_and_the_filter(ridge):
    assert repr(ridge) == "Identification(It runs ridge regression, penalty 0.5)"
    found = read(ridge)
    (head, row) = found.rows
    assert head == ["parameter", "value", "95% interval"] and row[:2] == ["penalty", "0.5"]
    assert "properties: " in found.text and "penalty 0.5 [" not in found.text
    assert "filter" in found.images[0]["alt"]


def test_an_identification_without_a_name_or_a_filter_shows_neither(ridge):
    blind = type(ridge).blind({"margin": 0.01, "level": 0.95}, np.zeros((2, 1)), 10, 1.0)
    assert "do not depend on the context" in repr(blind)
    assert read(blind).rows == [] and read(blind).images == []


def test_a_procedure_has_a_row_for_each_seed(ridge):
    floor = Interval(0.0, 0.0, 0.0)
    both = ProcedureIdentification("named", ("ridge",), (ridge, ridge), ridge.dataset, floor)
    assert repr(both) == "ProcedureIdentification(These 2 models run ridge)"
    assert read(both).rows[1:] == [["0", "named", "ridge"], ["1", "named", "ridge"]]
