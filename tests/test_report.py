"""The page escapes what it shows and says what an examination found."""

from datetime import UTC, datetime

import matplotlib.pyplot as plt

from mesalens.report import Examination, number, summary, write_report
from mesalens.studies import Claim, Figure, Judgement, Part, Study, Verdict
from mesalens.studies.criterion import within


def examination(outcome="PASS", low=-0.001, high=0.001) -> Examination:
    claim = Claim(
        "risk", "R < R_0 & <script>alert(1)</script>", "Section <3>", "R / R_GD - 1", within(0.01)
    )
    part = Part("one", "One & only", (claim,), run=lambda laboratory: None)
    return Examination(
        study=Study("paper", "Title <b>", "Somebody", (part,), {}, lambda budget: None),
        names="one",
        budget="quick",
        seeds=3,
        seed=7,
        settings={"steps": 5},
        parts=[
            (part, [Verdict(claim, Judgement(outcome, 0.0, low, high, 2, 3, {"alpha": "0.5"}))])
        ],
        figures=[Figure("curve", 'a "caption" <i>', plt.figure())],
        datasets={},
        learners={},
        remarks=["2 of 3 layers."],
        started=datetime(2026, 1, 2, tzinfo=UTC),
        seconds=12.3,
        seconds_to_verdict={"one": 4.2},
    )


def test_the_page_escapes_everything(tmp_path):
    write_report(examination(), tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "<script" not in page and "<i>" not in page and "Title <b>" not in page
    assert "R &lt; R_0 &amp; &lt;script&gt;" in page
    assert "2 of 3 seeds" in page and "2 of 3 layers." in page and "0.5" in page
    assert "(paper/one, judged after 4 s)" in page and "on 2026-01-02 00:00 UTC in 12 s" in page
    assert (
        page.count("data:image/png;base64,iVBOR") == 1
        and (tmp_path / "figures" / "curve.pdf").is_file()
    )
    assert "mesalens reproduce paper/one --budget quick --seeds 3 --seed 7" in page


def test_the_summary_is_json_without_infinities():
    found = summary(examination("INCONCLUSIVE", float("-inf"), float("inf")))
    assert found["verdicts"][0]["interval"] == [None, None]
    assert found["verdicts"][0]["seeds"] == 2 and found["verdicts"][0]["seeds_run"] == 3


def test_the_tally_counts_outcomes():
    assert examination().tally() == "1 claim: 1 PASS"
    assert examination("FAIL").tally() == "1 claim: 1 FAIL"


def test_numbers_are_written_for_people():
    assert [number(x) for x in (0.12345, -1e-7, float("inf"), float("-inf"))] == [
        "0.123",
        "−1e−07",
        "∞",
        "−∞",
    ]
