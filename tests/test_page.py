"""The page and the lists show every claim, escape what they show, and cut no number."""

import copy
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from mesalens.atlas import verdicts
from mesalens.atlas.criterion import Criterion, Evidence, above, below, every_seed_below, within
from mesalens.atlas.guide import guide
from mesalens.atlas.page import interval_plot, page
from mesalens.atlas.record import read_record, record
from mesalens.checks import InputError
from mesalens.cli import main
from mesalens.cli.verdicts import Verdicts
from mesalens.studies import study as declared

HOSTILE = 'R < R_0 & <script>alert("1")</script> a[/red]b | c'
ROOT = Path(__file__).parents[1]


def claim(name: str, criterion: Criterion, values, **changes) -> dict:
    """A claim as in verdicts.json, judged from the values of its seeds."""
    import xarray as xr

    array = xr.DataArray(np.asarray(values, float), {"seed": np.arange(len(values))}, ("seed",))
    judged = criterion.judge(Evidence(array, array.notnull() | True), 0.025)
    finite = [None if not np.isfinite(x) else x for x in (judged.value, judged.low, judged.high)]
    return {
        "claim": name,
        "statement": f"After training, the layer has the property {name}.",
        "estimator": "R / R_GD - 1, both on the same fresh prompts",
        "place": "Section 3, Figure 2",
        "criterion": criterion.words,
        "bounds": [x if np.isfinite(x) else None for x in (criterion.low, criterion.high)],
        "universal": criterion.universal,
        "outcome": judged.outcome,
        "value": finite[0],
        "interval": finite[1:],
        "level": judged.level,
        "seeds": judged.seeds,
        "seeds_run": judged.seeds_run,
        "look": 1,
        "looks": [5, 10, 20],
        "where": {},
        "values": {str(s): x if np.isfinite(x) else None for s, x in judged.values.items()},
        "why": judged.why,
        "seeds_to_decide": judged.seeds_to_decide,
        "figures": ["risk"],
        "experiments": ["one-layer"],
        "taken": False,
        "made": "2026-01-02T10:00:00+00:00",
        "seconds": 12.3,
    } | changes


def some_claims(prefix: str) -> list[dict]:
    rng = np.random.default_rng(len(prefix))
    return [
        claim(f"{prefix}-risk-at-other-sizes", within(0.01), rng.normal(0.001, 0.002, 5),
              where={"size": "d=5, n=10"}, taken=True),
        claim(f"{prefix}-cosine", above(0.99), rng.normal(0.97, 0.004, 6)),
        claim(f"{prefix}-small", within(0.001), 1e-7 * rng.normal(size=5)),
        claim(f"{prefix}-order", below(0.0), 0.1 * np.arange(20.0) - 3.0, look=3,
              outcome="INCONCLUSIVE", interval=[-2.3, 0.2], seeds_to_decide=30,
              why="The interval [−2.3, 0.2] contains a bound."),
        claim(f"{prefix}-every", every_seed_below(1e-5), [1.2e-6, 3.4e-6, 7.7e-5]),
        claim(f"{prefix}-lonely", within(0.02), [0.0012345678]),
        claim(f"{prefix}-infinite", below(0.5), [0.1, 0.2, np.inf]),
        claim(f"{prefix}-nobody", below(0.5), []),
        claim(f"{prefix}-far", within(0.01), rng.normal(1.23456e7, 1e5, 5)),
        claim(f"{prefix}-all", every_seed_below(0.05), rng.uniform(0, 0.03, 5), looks=[5]),
    ]  # fmt: skip


def content() -> dict:
    study = {
        "study": "paper-2023",
        "title": "Transformers learn in-context by gradient descent",
        "citation": "Somebody et al. (2023). Venue. arXiv:2212.07677.",
        "note": "Risk is not halved here.",
        "system": "One layer on prompts.",
        "unchecked": {"depth": "Nothing is said of it."},
        "settings": {"dim": 10, "seeds": [5, 10, 20], "stop": None},
        "changed": {"dim": 10},
        "parts": [
            {
                "part": name,
                "title": title,
                "claims": some_claims(name),
                "figures": [{"figure": "risk", "caption": "Risk over training.", "shows": []}]
                if name == "one-layer"
                else [],
                "remarks": ["2 of 3 layers left the plateau."],
            }
            for name, title in (("one-layer", "One trained layer"), ("deep", "Several layers"))
        ],
        "experiments": [
            {
                "experiment": "one-layer",
                "settings": {"steps": 5000, "optimiser": {"kind": "adam"}},
                "seeds": [0],
                "words": "1 of 1: converged",
                "units": [
                    {
                        "seed": 0,
                        "address": "5f" * 32,
                        "ending": "converged",
                        "steps_taken": 1500,
                        "made": "2026-01-02T09:59:00+00:00",
                        "seconds": 3.21,
                        "taken": True,
                    }
                ],
            }
        ],
    }
    for each in study["parts"][1]["claims"]:
        each["figures"] = []
    return {
        "schema": 1,
        "mesalens": "0.1.0",
        "commit": None,
        "made": "2026-01-02T10:00:00+00:00",
        "seconds": 45.6,
        "command": "mesalens reproduce paper-2023 --budget quick --seed 0",
        "budget": "quick",
        "seed": 0,
        "environment": {"Python": "3.11.9", "XLA_FLAGS": ""},
        "studies": [study],
    }


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> bytes:
    file = tmp_path_factory.mktemp("image") / "risk.png"
    Figure((6.5, 3)).savefig(file, dpi=200)
    return file.read_bytes()


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def elements(image) -> Elements:
    return Elements(page(content(), {"paper-2023/risk": image}))


def test_every_claim_is_on_the_page_with_anchors_that_are_unique_and_exist(elements):
    anchors = Counter(a["id"] for _, a in elements.found if "id" in a)
    assert max(anchors.values()) == 1
    names = [c["claim"] for *_, c in verdicts.claims_of(content())]
    assert len(names) == 20 and all(f"paper-2023/{name}" in anchors for name in names)
    links = [a["href"] for tag, a in elements.found if tag == "a"]
    inner = [link[1:] for link in links if link.startswith("#")]
    assert len(inner) > 40 and set(inner) <= set(anchors)
    assert {"figures/paper-2023/risk.pdf", "figures/paper-2023/risk.png"} <= set(links)


def test_nothing_is_loaded_from_elsewhere(elements):
    for tag, attributes in elements.found:
        assert tag not in ("script", "link", "iframe")
        assert not re.match("(https?:)?//", attributes.get("href", "") + attributes.get("src", ""))
    images = [a for tag, a in elements.found if tag == "img"]
    assert all(a["src"].startswith("data:image/png;base64,iVBOR") for a in images)
    assert [(a["width"], a["height"]) for a in images] == [("650", "300")]


def test_the_page_says_why_how_many_and_whether_it_was_computed(elements):
    text = " ".join("".join(elements.words).split())
    for each in content()["studies"][0]["parts"][0]["claims"]:
        assert each["why"] in text
    assert "5 of 5 seeds, decided at look 1 of 3 (5, 10, 20 seeds)" in text
    assert "not decided at look 3 of 3" in text
    assert "Reused from the store; computed on 2026-01-02 10:00 UTC in 12 s" in text
    assert "2 of 3 layers left the plateau." in text and "were not checked" in text
    assert verdicts.tally([c for *_, c in verdicts.claims_of(content())]) + "." in text


def test_the_page_says_of_papers_figures_and_commit_only_what_applies(image):
    public = page(content() | {"commit": "5f5f"}, {"paper-2023/risk": image})
    assert "were not checked" in public and "figures (figures/)" in public and "5f5f" in public
    assert "units/" in public and "(study/)" not in public
    private = content()
    (study,) = private["studies"]
    study |= {"own": True, "file": "study/paper-2023/a b.py", "experiments": []}
    for part in study["parts"]:
        part["figures"] = []
    for *_, each in verdicts.claims_of(private):
        each["figures"] = []
    private = page(private, {})
    assert "were not checked" not in private and "figures/" not in private
    assert "unknown" not in private and "<dt>commit" not in private and "units/" not in private
    assert 'href="study/paper-2023/a%20b.py"' in private and "the study (study/)" in private


def test_a_note_may_have_code_and_no_markup(image):
    noted = content()
    noted["studies"][0]["note"] = "The budget `paper` has <b>more</b>: `<i>`."
    study, figure = noted["studies"][0]["study"], noted["studies"][0]["parts"][0]["figures"][0]
    text = page(noted, {f"{study}/{figure['figure']}": image})
    assert "<code>paper</code> has &lt;b&gt;more&lt;/b&gt;: <code>&lt;i&gt;</code>." in text


def test_everything_is_escaped(image):
    def spoil(value, key=""):
        if isinstance(value, dict):
            return {name: spoil(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [spoil(each, key) for each in value]
        spared = ("outcome", "made", "budget")
        return HOSTILE if isinstance(value, str) and key not in spared else value

    hostile = spoil(content())
    text = page(hostile, {f"{HOSTILE}/{HOSTILE}": image})
    found = Elements(text)
    assert not [tag for tag, _ in found.found if tag == "script"]
    assert HOSTILE not in text and HOSTILE in "".join(found.words)
    document = verdicts.table([hostile])
    assert "<script" not in document.replace(r"\<script", "")
    rows = [line for line in document.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_a_document_keeps_plain_code_and_puts_the_sign_before_numbers():
    text = verdicts.markdown("`theory.f(x)` and `<b>`, `a|b`, *x* and `P, Q` ")
    assert text == "`theory.f(x)` and \\`\\<b\\>\\`, \\`a\\|b\\`, \\*x\\* and `P, Q`"
    signed = verdicts.signed("below -0.05, at most 1e-09 in run-2 of one-layer")
    assert signed == "below −0.05, at most 1e−09 in run-2 of one-layer"


def test_a_table_of_one_budget_names_it_once():
    document = verdicts.table([content()], "it -->")
    assert "Budget `quick`" in document and "| budget |" not in document
    assert "<!-- Generated by `it --`; do not edit. -->" in document


def test_the_plot_shades_the_margin_and_has_every_seed():
    equal, cosine, _, _, _, lonely, infinite, nobody, *_ = some_claims("x")
    plots = {each["claim"]: str(interval_plot(each)) for each in some_claims("x")}
    for plot in plots.values():
        places = re.findall(r' (?:x|x1|x2|cx|width)="([^"]*)"', plot)
        assert 'class="margin"' in plot and all(0 <= float(place) <= 320 for place in places)
    assert plots[equal["claim"]].count('class="seed"') == 5
    x, width = map(
        float,
        re.search(r'margin" x="([\d.]+)".*? width="([\d.]+)"', plots[equal["claim"]]).groups(),
    )
    value = float(re.search(r'value" cx="([\d.]+)"', plots[equal["claim"]])[1])
    assert x < value < x + width
    below_margin = float(re.search(r'margin" x="([\d.]+)"', plots[cosine["claim"]])[1])
    assert float(re.search(r'value" cx="([\d.]+)"', plots[cosine["claim"]])[1]) < below_margin
    assert plots[infinite["claim"]].count('class="seed"') == 2
    assert (
        'class="value"' not in plots[nobody["claim"]] and 'class="value"' in plots[lonely["claim"]]
    )


@pytest.mark.parametrize("width", (20, 40, 60, 80, 200))
def test_lists_cut_no_number_and_no_name(width):
    lines = verdicts.lines(content(), width)
    text = "\n".join(lines)
    longest = max(len(word) for word in text.split())
    assert max(map(len, lines)) <= max(width, longest + 2)
    for *_, each in verdicts.claims_of(content()):
        assert each["claim"] in text and verdicts.number(each["value"]) in text
        ends = verdicts.interval(each)
        assert (ends in text) if width >= 40 else all(end in text for end in ends.split())
        assert " ".join(each["why"].split()) in " ".join(text.split())
    assert verdicts.tally([c for *_, c in verdicts.claims_of(content())]) in " ".join(text.split())
    if width == 200:
        assert sum("PASS " in line or "FAIL " in line for line in lines) > 10


def test_the_document_has_every_claim_and_the_latest_verdict():
    old, full = content(), content()
    old["made"], full["budget"] = "2025-01-01T00:00:00+02:00", "full"
    old["studies"][0]["parts"][0]["claims"][0]["value"] = 7.0
    gone = copy.deepcopy(old["studies"][0]["parts"][0]["claims"][0])
    old["studies"][0]["parts"][0]["claims"].append(gone | {"claim": "only-then"})
    document = verdicts.table([content(), old, full], "mesalens verdicts A B")
    rows = [line for line in document.splitlines() if line.startswith("| one-layer-risk")]
    assert [row.split(" | ")[1] for row in rows] == ["quick", "full"]
    assert not any("| 7 |" in row for row in rows) and "| only-then | quick |" in document
    assert "`mesalens verdicts A B`" in document and "Budget `full`: 20 claims:" in document
    assert "2026-01-02" in rows[0] and "5 of 5 seeds" in rows[0]


def test_a_file_is_read_as_it_was_written_and_refused_if_it_is_another(tmp_path):
    file = tmp_path / "verdicts.json"

    def written(value) -> Path:
        file.write_text(json.dumps(value))
        return file

    assert verdicts.read(written(content() | {"more": 1})) == content() | {"more": 1}
    damaged = content()
    damaged["studies"][0]["parts"][0]["claims"][0]["outcome"] = "MAYBE"
    without = content()
    del without["budget"]
    for value, keyword in (
        (content() | {"schema": 2}, "schema 2"),
        (damaged, r"claims\.0\.outcome"),
        (without, "budget"),
        ([], "schema"),
    ):
        with pytest.raises(InputError, match=keyword):
            verdicts.read(written(value))
    file.write_text("{")
    with pytest.raises(InputError, match="JSON"):
        verdicts.read(file)
    with pytest.raises(InputError, match="cannot be read"):
        verdicts.read(tmp_path / "missing.json")


def test_the_schema_documents_every_field():
    documented = (ROOT / "docs" / "pages" / "guides" / "verdicts-schema.md").read_text()
    models = (
        verdicts.Content, verdicts.Study, verdicts.Part, verdicts.Claim, verdicts.Figure,
        verdicts.Experiment, verdicts.Unit,
    )  # fmt: skip
    for model in models:
        assert [name for name in model.model_fields if f"`{name}`" not in documented] == []


def test_a_record_gives_the_same_documents_as_its_reports(tmp_path, capsys):
    """It keeps the latest verdict of each claim at each budget, and no seeds."""
    old, full = content(), content()
    old["made"], full["budget"] = "2025-01-01T00:00:00+02:00", "full"
    full["made"] = "2026-01-02T10:00:01+00:00"
    gone = copy.deepcopy(old["studies"][0]["parts"][0]["claims"][0])
    old["studies"][0]["parts"][0]["claims"].append(gone | {"claim": "only-then"})
    contents, file = [content(), full, old], tmp_path / "record.json"
    for place, each in enumerate(contents):
        (tmp_path / f"{place}.json").write_text(json.dumps(each))
    names = [str(tmp_path / f"{place}.json") for place in range(3)]
    assert main(["verdicts", *names, "--data", "--out", str(file)]) == 0
    kept = read_record(file)
    rows = [sorted(verdicts.table(each).splitlines()) for each in (kept, contents)]
    assert rows[0] == rows[1]
    assert guide(record(contents[:2])["reports"], "it") == guide(contents[:2], "it")
    claims = [claim["claim"] for each in kept for *_, claim in verdicts.claims_of(each)]
    assert Counter(claims)["only-then"] == 1 and set(Counter(claims).values()) == {1, 2}
    assert '"values": {}' in file.read_text() and '"units"' not in file.read_text()
    # Again, with a report that it has
    assert main(["verdicts", str(file), names[0], "--data"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(file.read_text())


def false_world(**outcomes) -> dict:
    """A report whose claims were checked where they are false, later than `content`."""
    report = content() | {"falsified": True, "made": "2026-02-02T10:00:00+00:00"}
    for *_, each in verdicts.claims_of(report):
        each["outcome"] = outcomes.get(each["claim"].replace("-", "_"), "FAIL")
    return report


def test_verdicts_of_false_worlds_stay_apart_from_those_of_claims(tmp_path, capsys):
    for name, each in {"real": content(), "false": false_world()}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(each))
    real, false = (str(tmp_path / f"{name}.json") for name in ("real", "false"))
    documents = {}
    for words in ([], ["--guide"], ["--data"]):
        assert main(["verdicts", real, *words]) == 0
        documents[real], said = capsys.readouterr()
        assert not said
        assert main(["verdicts", real, false, *words]) == 0
        documents[false], said = capsys.readouterr()
        assert documents[real] == documents[false]
        assert said.count("\n") == 1 and "false.json" in said and "real.json" not in said
        assert main(["verdicts", false, *words]) == 2
        assert "all of these reports are of --falsify" in capsys.readouterr().err
    for document in (verdicts.table, guide, record):
        assert document([false_world(), content()]) == document([content()])
        with pytest.raises(InputError, match="--falsify"):
            document([false_world()])
    assert verdicts.table([]) and verdicts.read(real) == content()  # no field is needed


def test_the_page_of_false_worlds_says_so_and_is_not_to_be_cited(image):
    real = page(content(), {"paper-2023/risk": image})
    assert "false world" not in real and verdicts.FALSE_WORLD not in real and "#cite" in real
    report = false_world(deep_cosine="PASS", deep_all="INCONCLUSIVE")
    false = page(report, {"paper-2023/risk": image})
    assert "false worlds" in re.search("<title>(.*)</title>", false)[1]
    assert verdicts.FALSE_WORLD in false and "cite" not in false.lower()
    sentence = verdicts.falsification(c for *_, c in verdicts.claims_of(report))
    assert sentence in " ".join(false.split()) and sentence == (
        "2 of 20 claims do not fail where they are false, so their checks are not shown to work: "
        "deep-cosine (PASS), deep-all (INCONCLUSIVE)."
    )
    text = " ".join(verdicts.lines(report, 200))
    assert text.startswith(verdicts.FALSE_WORLD + "  paper-2023")
    assert verdicts.FALSE_WORLD not in " ".join(verdicts.lines(content(), 200))


@pytest.mark.parametrize(
    ("outcomes", "sentence"),
    [
        (["FAIL"], "The claim fails where it is false, as it should."),
        (["FAIL"] * 2, "Both claims fail where they are false, as they should."),
        (["FAIL"] * 3, "All 3 claims fail where they are false, as they should."),
        (["FAIL", "PASS"], "1 of 2 claims does not fail where it is false, so its check is .* b"),
    ],
)
def test_a_sentence_says_whether_claims_fail_where_they_are_false(outcomes, sentence):
    claims = [{"claim": c, "outcome": o} for c, o in zip("abc", outcomes, strict=False)]
    assert re.match(sentence, verdicts.falsification(claims))


def test_a_damaged_record_is_refused(tmp_path):
    file = tmp_path / "record.json"
    damaged = content()
    damaged["studies"][0]["parts"][0]["claims"][0]["outcome"] = "MAYBE"
    for reports, keyword in ((3, "reports"), ([damaged], r"claims\.0\.outcome"), ([7], "damaged")):
        file.write_text(json.dumps({"schema": 1, "reports": reports}))
        with pytest.raises(InputError, match=keyword):
            read_record(file)
    with pytest.raises(InputError, match="data"):
        Verdicts(reports=(str(file),), guide=True, data=True)()


def test_the_verdicts_of_record_are_those_of_declared_claims():
    for study, _, claim in (each for file in read_record() for each in verdicts.claims_of(file)):
        assert claim["claim"] in [each.name for each in declared(study["study"]).claims]
    assert not any(file.get("falsified") for file in read_record())
