"""References stand once, in references.bib; all that cites them agrees with it."""

import html
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from pybtex.database import parse_string
from pybtex.richtext import Text
from test_page import content

import mesalens
from mesalens import InputError, cli
from mesalens._citation import SOURCES, UNSOURCED
from mesalens.atlas import Study
from mesalens.atlas.page import page
from mesalens.atlas.report import SavedReport
from mesalens.identification import Identification, ProcedureIdentification
from mesalens.identification.report import WORDS
from mesalens.manifest import write_manifest
from mesalens.names import AXES
from mesalens.studies import STUDIES, study
from mesalens.training import TrainingSettings, save_run

ROOT = Path(__file__).parents[1]
VENUES = {
    "ICML": "International Conference on Machine Learning",
    "ICLR": "International Conference on Learning Representations",
    "NeurIPS": "Advances in Neural Information Processing Systems",
    "AISTATS": "International Conference on Artificial Intelligence and Statistics",
    "PNAS": "Proceedings of the National Academy of Sciences",
}
NEEDED = {
    "article": {"author", "title", "journal", "year"},
    "inproceedings": {"author", "title", "booktitle", "year"},
    "book": {"author", "title", "publisher", "year"},
    "techreport": {"author", "title", "institution", "year"},
    "misc": {"author", "title", "year"},
}


def parsed(text):
    return parse_string(text, "bibtex").entries


ENTRIES = parsed((ROOT / "src/mesalens/references.bib").read_text(encoding="ascii"))
PAPERS = [name for name in STUDIES if name != "mesalens-2026"]


def plain(latex):
    return str(Text.from_latex(latex))


def surnames(entry):
    """Of the authors, as they are written in a text: "von Oswald"."""
    people = entry.persons["author"]
    return [plain(" ".join([*each.prelast_names, *each.last_names])) for each in people]


def years(entry):
    """Of the publication, and of the preprint."""
    preprint = entry.fields.get("eprint", "")[:2]
    return {entry.fields["year"], f"20{preprint}"}


@pytest.mark.parametrize("key", ENTRIES)
def test_an_entry_has_what_its_type_needs(key):
    entry = ENTRIES[key]
    has = set(entry.fields) | set(entry.persons)
    assert NEEDED[entry.type] <= has
    assert ("eprint" in entry.fields) == (entry.fields.get("archiveprefix") == "arXiv")
    assert re.fullmatch(r"\d{4}\.\d{4,5}", entry.fields.get("eprint", "2212.07677"))
    if key != "mesalens":
        first = surnames(entry)[0].lower().replace(" ", "-").replace("ó", "o")
        assert key.startswith(first) and key[-4:] in years(entry)


def test_no_paper_has_two_entries():
    for field in ("title", "eprint"):
        values = [e.fields[field].lower() for e in ENTRIES.values() if field in e.fields]
        assert len(values) == len(set(values))


@pytest.mark.parametrize("name", PAPERS)
def test_the_entry_of_a_study_says_what_the_study_says(name):
    entry, each = ENTRIES[name], study(name)
    assert plain(entry.fields["title"]).casefold() == each.title.casefold()
    authors, venue, year = re.match(r"(.*?), (\w+) (\d{4})\b", each.citation).groups()
    assert re.split(r", | and ", authors) == surnames(entry)
    where = entry.fields.get("booktitle") or entry.fields["journal"]
    assert (VENUES[venue], year) == (where, entry.fields["year"])
    number = re.search(r"arXiv (\S+)$", each.citation)
    assert entry.fields.get("eprint") == (number and number[1])


def test_every_paper_that_the_code_cites_has_an_entry():
    cited = 0
    for file in (ROOT / "src").rglob("*.py"):
        text = " ".join(file.read_text(encoding="utf-8").split())
        for found in re.finditer(r"arXiv:? (\d{4}\.\d{4,5})", text):
            assert any(e.fields.get("eprint") == found[1] for e in ENTRIES.values()), found[1]
        for found in re.finditer(r"[( ]((?:19|20)\d\d)\)", text):
            before = text[max(found.start() - 120, 0) : found.start()]
            if not re.search(r"[A-Z]\w+( et al\.)?,? ?(\([A-Za-z]*|[^.]*\d+ \()? ?$", before):
                continue
            cited += 1
            assert any(
                found[1] in years(entry) and surnames(entry)[0] in before
                for entry in ENTRIES.values()
            ), (file.name, before, found[1])
    assert cited > 60


def test_citation_cff_agrees_with_the_entries():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    own = ENTRIES["mesalens"]
    assert cff["title"] == own.fields["title"]
    assert own.fields["note"] == f"Version {mesalens.__version__}" == f"Version {cff['version']}"
    assert str(cff["date-released"])[:4] == own.fields["year"]
    assert [each["name"] for each in cff["authors"]] == [
        plain(str(each)) for each in own.persons["author"]
    ]
    by_number = {e.fields["eprint"]: e for e in ENTRIES.values() if "eprint" in e.fields}
    assert cff["references"]
    for reference in cff["references"]:
        (number,) = (each["value"].removeprefix("arXiv:") for each in reference["identifiers"])
        entry = by_number[number]
        assert (reference["title"], str(reference["year"])) == (
            plain(entry.fields["title"]),
            entry.fields["year"],
        )
        said = [
            " ".join(filter(None, (each.get("name-particle"), each["family-names"])))
            for each in reference["authors"]
        ]
        assert said == surnames(entry)
        assert reference["collection-title"] == entry.fields["booktitle"]


def test_names_stand_for_entries_that_exist_and_for_things_that_exist():
    known = {*AXES["learner"].members, *WORDS, *STUDIES, "identification", "confidence-set"}
    assert set(SOURCES) <= known
    assert {key for keys in SOURCES.values() for key in keys.split()} <= set(ENTRIES)
    assert not set(SOURCES) & set(ENTRIES)


def keys(*names):
    return list(parsed(mesalens.citation(*names)))


def test_the_package_comes_first_and_nothing_twice():
    assert keys() == ["mesalens"]
    assert keys("wu-2024", "newton-schulz", "wu-2024", "mesalens") == [
        "mesalens",
        "wu-2024",
        "schulz-1933",
        "fu-2024",
    ]
    assert set(keys("all")) == set(ENTRIES)
    assert keys("mesalens-2026") == ["mesalens"]


def test_what_is_unknown_is_refused_with_the_nearest_names():
    with pytest.raises(InputError, match=r"newton.*newton-schulz"):
        mesalens.citation("newton")
    with pytest.raises(InputError, match=r"cite 'foo'; mesalens cite --list lists all\.$"):
        mesalens.citation("newton-schulz", "foo")
    with pytest.raises(InputError, match="int"):
        mesalens.citation(3)


def test_a_study_is_cited_also_if_its_paper_is_not_known_here():
    assert keys(study("zhang-2025")) == ["mesalens", "zhang-2025"]
    title, source = r"Gains of 5% {x}_n \ & #1 for $9", "Me, Journal of {Braces}"
    own = Study("my own/paper", title=title, citation=source, settings={}, quick={})
    entry = parsed(mesalens.citation(own))["my-own-paper"]
    assert (entry.type, entry.fields["note"]) == ("misc", r"Me, Journal of \{Braces\}")
    assert entry.fields["title"] == r"Gains of 5\% \{x\}\_n \textbackslash{} \& \#1 for \$9"


def test_reports_say_what_they_rest_on():
    saved = content()
    both = [
        {"study": "paper-2023", "title": "A paper", "citation": "Somebody"},
        {"study": "ahn-2024", "title": "", "citation": ""},
    ]
    assert keys(SavedReport(Path("report"), saved | {"studies": both})) == [
        "mesalens",
        "paper-2023",
        "ahn-2024",
    ]
    report = SimpleNamespace(studies=[SimpleNamespace(study=study("lu-2025"))])
    assert mesalens.atlas.Report.references.fget(report) == ("lu-2025",)


def test_identifications_say_what_they_rest_on():
    found = {"names": ("lasso", "ridge"), "nearest": {"name": "lasso"}, "confidence_set": ()}
    of_one, of_seeds = Identification.references.fget, ProcedureIdentification.references.fget
    assert of_one(SimpleNamespace(**found)) == ("identification", "lasso")
    assert of_seeds(SimpleNamespace(**found)) == ("identification", "lasso")
    none = {"names": (), "nearest": {"name": "kernel-ridge"}, "confidence_set": ("kernel-ridge",)}
    expected = ("identification", "confidence-set", "kernel-ridge")
    assert of_one(SimpleNamespace(**none)) == expected
    assert of_one(SimpleNamespace(names=(), nearest=None, confidence_set=())) == ("identification",)


def test_the_page_of_a_report_has_the_entries():
    saved = content()
    saved["studies"][0]["study"] = "ahn-2024"
    saved["studies"][0]["parts"] = []
    text = html.unescape(page(saved, {}))
    assert mesalens.citation("ahn-2024") in text and 'href="#cite"' in text


def test_the_command_prints_what_the_function_returns(capsys):
    assert cli.main(["cite", "lasso"]) == 0
    assert capsys.readouterr() == (mesalens.citation("lasso"), "")


def test_every_algorithm_can_be_cited_or_has_no_paper(capsys):
    algorithms = {*AXES["learner"].members, *WORDS}
    assert algorithms <= {*SOURCES, *UNSOURCED} and set(UNSOURCED) <= algorithms
    assert not set(SOURCES) & set(UNSOURCED)
    assert {book for book in UNSOURCED.values() if book} <= set(ENTRIES)
    assert cli.main(["cite", "ridge", "lasso"]) == 0
    out, err = capsys.readouterr()
    assert out == mesalens.citation("lasso") == mesalens.citation("ridge", "lasso")
    assert "no paper to cite for ridge; textbooks have it, such as hastie-2009" in err
    assert cli.main(["cite", "momentum"]) == 0
    assert capsys.readouterr().err.endswith("there is no paper to cite for momentum.\n")


def test_the_command_lists_what_can_be_cited(capsys):
    assert cli.main(["cite", "--list"]) == 0
    listed = set(capsys.readouterr().out.split("\n  "))
    assert {"all", "lasso", "ridge", "wu-2024", "identification"} <= {
        each.split()[0] for each in listed
    }
    assert cli.main(["cite", "--list", "--json"]) == 0
    (_, *groups) = json.loads(capsys.readouterr().out).values()
    assert {name for group in groups for name in group} == {*ENTRIES, *SOURCES, *UNSOURCED}
    assert cli.main(["cite"]) == 0
    out, err = capsys.readouterr()
    assert out == mesalens.citation() and "mesalens cite --list" in err
    assert cli.main(["cite", "--list", "lasso"]) == 2


def test_the_command_cites_the_study_in_a_file(capsys):
    file = Path(__file__).with_name("small_study.py")
    assert cli.main(["cite", str(file)]) == 0
    assert capsys.readouterr().out == mesalens.citation(study(str(file)))


@pytest.mark.parametrize(
    ("found", "names"),
    [
        ({"references": ["identification", "lasso"]}, ("identification", "lasso")),
        ({"name": "lasso", "set": []}, ("identification", "lasso")),  # as mesalens 0.2.0 has it
        (
            {"name": None, "set": [{"name": "ridge"}, {"name": "lasso"}]},
            ("identification", "lasso"),
        ),
        (
            {"name": None, "set": [], "confidence_set": ["zero"], "nearest": {"name": "lasso"}},
            ("identification", "confidence-set", "lasso"),
        ),
    ],
)
def test_the_command_cites_what_an_identification_rests_on(found, names, tmp_path, capsys):
    (tmp_path / "identification.json").write_text(json.dumps(found))
    write_manifest(tmp_path, "identification", {})
    assert cli.main(["cite", str(tmp_path)]) == 0
    assert capsys.readouterr().out == mesalens.citation(*names)


def test_the_command_cites_what_a_run_and_a_report_rest_on(tmp_path, capsys):
    settings = TrainingSettings(task={"dim": 2}, steps=2, batch_size=4, every=1)
    save_run(tmp_path / "run", settings, settings.train())
    assert cli.main(["cite", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == mesalens.citation("linear-transformer")
    saved = content()
    saved["studies"][0]["study"] = "ahn-2024"
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "verdicts.json").write_text(json.dumps(saved))
    write_manifest(tmp_path / "report", "report", {})
    assert cli.main(["cite", str(tmp_path / "report")]) == 0
    assert capsys.readouterr().out == mesalens.citation("ahn-2024")


def test_a_folder_without_results_gets_a_sentence(tmp_path, capsys):
    assert cli.main(["cite", str(tmp_path)]) == 2
    assert "no finished results" in capsys.readouterr().err
    assert cli.main(["cite", "reports/nowhere"]) == 2
    assert "there is no folder reports/nowhere" in capsys.readouterr().err
