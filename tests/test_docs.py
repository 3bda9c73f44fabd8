"""The examples of the README and of the site's pages run as written, and print what they say.

A block marked `python` runs; where a block marked `text` follows, it prints that. The blocks of a
page run in order, in one namespace and in an empty folder. One that begins with `# name.py` is
written as that file. Commands are the lines of `bash` blocks that begin with `mesalens` (in the
README, also indented lines). A block marked `py` is Python that needs what a test has not, such as a
cluster: it is highlighted, and does not run.
"""

import contextlib
import importlib
import io
import re
import shlex
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from sklearn import linear_model, neighbors
from sklearn.kernel_ridge import KernelRidge

from mesalens import learners
from mesalens.analysis._compare import MEASURES
from mesalens.cli import main
from mesalens.cli._main import COMMANDS
from mesalens.cli.options import read_options
from mesalens.identification.candidates import CLASSES, known
from mesalens.identification.report import WORDS
from mesalens.names import AXES
from mesalens.prompt import Prompt
from mesalens.tasks import FinitePool, Gaussian, GaussianNoise, LinearFunctions, RegressionTask

ROOT = Path(__file__).parent.parent
PAGES = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "docs" / "pages").rglob("*.md"))
DOCUMENTS = ["README.md", *PAGES]
SLOW = {
    "README.md",
    "docs/pages/guides/own-learner.md",
    "docs/pages/guides/own-task.md",
    "docs/pages/guides/torch-and-sklearn.md",
    "docs/pages/identify/method.md",
    "docs/pages/index.md",
    "docs/pages/start/first-identification.md",
    "docs/pages/start/first-training.md",
}
"""Documents whose examples train, or run for more than some ten seconds."""

FOLLOWED = {page for page in PAGES if "/start/first-" in page} | {
    "docs/pages/guides/own-learner.md",
    "docs/pages/guides/own-task.md",
    "docs/pages/guides/torch-and-sklearn.md",
}
"""Pages that a reader follows from an empty folder: their commands are run too, and what a block
marked `text` after them says is compared with what they print.
"""

BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", flags=re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+\.\d+")
ANY_NUMBER = re.compile(r"((?<!\w)[-−])?\b\d[\d,]*(\.\d+)?(e[-−+]?\d+)?\b")


def text(document):
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document):
    """The language and the content of every fenced block."""
    return [
        (language, textwrap.dedent(code)) for _, language, code in BLOCK.findall(text(document))
    ]


def files(document):
    """The names and contents of the Python files that a document shows."""
    code = [code for language, code in blocks(document) if language == "python"]
    return {match[1]: each for each in code if (match := re.match(r"# (\w+\.py)\n", each))}


def commands(document):
    """The words of every command of a document, without the program."""
    shown = "".join(code for language, code in blocks(document) if language == "bash")
    if document == "README.md":
        shown += textwrap.dedent("".join(re.findall(r"^    .*\n", text(document), re.MULTILINE)))
    return commands_in(shown)


def commands_in(shown):
    lines = re.findall(
        r"^(?:\.venv/bin/)?mesalens (.*)$", shown.replace("\\\n", " "), flags=re.MULTILINE
    )
    return [shlex.split(line, comments=True) for line in lines]


def has_examples(document):
    return any(
        code not in files(document).values() for kind, code in blocks(document) if kind == "python"
    )


def parameters(documents):
    return [pytest.param(d, marks=pytest.mark.slow) if d in SLOW else d for d in documents]


@pytest.fixture
def folder(request, tmp_path, monkeypatch):
    """An empty folder with the files that the document shows."""
    if any("import torch" in code for _, code in blocks(request.getfixturevalue("document"))):
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, code in files(request.getfixturevalue("document")).items():
        Path(name).write_text(code, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    return tmp_path


@pytest.mark.parametrize("document", parameters(filter(has_examples, DOCUMENTS)))
def test_the_examples_print_what_the_document_says(document, folder):
    shown, names = blocks(document), {}
    for (language, code), (follows, said) in zip(shown, [*shown[1:], ("", "")], strict=True):
        if language != "python" or code in files(document).values():
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, document, "exec"), names)
        if follows != "text":
            continue
        numbers, expected = (
            [float(x) for x in NUMBER.findall(t)] for t in (printed.getvalue(), said)
        )
        assert NUMBER.sub("#", printed.getvalue()) == NUMBER.sub("#", said)
        # Another machine rounds otherwise, and training amplifies that; it does not change what the lines say
        assert all(abs(a - b) < 0.02 for a, b in zip(numbers, expected, strict=True)), (
            numbers,
            expected,
        )


@pytest.mark.parametrize("document", [each for each in DOCUMENTS if commands(each)])
def test_the_options_of_all_commands_exist(document, folder):
    for name, *words in commands(document):
        if name.startswith("--") or {"--help", "--resume", "--config"} & set(words):
            continue  # help ends the program, and the others read folders
        module, _, command = COMMANDS[name][0].partition(":")
        kind = getattr(importlib.import_module(f"mesalens.cli.{module}"), command)
        read_options(kind, name, words)


@pytest.mark.slow
@pytest.mark.parametrize("document", sorted(FOLLOWED))
def test_a_reader_can_follow_the_commands_and_sees_what_is_shown(
    document, folder, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "160")
    shown = blocks(document)
    for (language, code), (follows, said) in zip(shown, [*shown[1:], ("", "")], strict=True):
        if language != "bash":
            continue
        for words in commands_in(code):
            assert main(words) in (0, 1), words  # 1 says that a claim failed, which is a result
        printed = capsys.readouterr().out
        if follows == "text":
            assert not missing(said, printed), printed


def missing(said, printed):
    """The lines of a document that were not printed in this order; "…" stands for anything.

    Numbers are not compared: the examples that train do not repeat them to the digit everywhere.
    """
    lines = iter(ANY_NUMBER.sub("#", line).rstrip() for line in printed.splitlines())
    patterns = (
        ".*".join(map(re.escape, ANY_NUMBER.sub("#", line).rstrip().split("…")))
        for line in said.splitlines()
        if line.strip() not in ("", "…")
    )
    return [
        pattern for pattern in patterns if not any(re.fullmatch(pattern, line) for line in lines)
    ]


@pytest.mark.parametrize("document", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"])
def test_what_a_document_points_to_is_there(document):
    for target in re.findall(r"\]\(([^)]+)\)", text(document)):
        if target.startswith("#"):  # a heading of the document, which are lower-case words here
            assert f"\n## {target[1:]}\n" in text(document).lower(), target
        elif not target.startswith(("https://", "http://")):
            assert (ROOT / target.partition("#")[0]).exists(), target


def test_the_guide_to_extending_has_every_name_of_every_axis_and_no_other():
    tables = text("docs/pages/guides/extending.md").split("Their members, by name:")[1]
    rows = dict(re.findall(r"^\| (`.*?`) \| (`.*`) \|$", tables, re.MULTILINE))
    axis_of = {"model": "learner", "first_attention": "attention"}
    found = {
        axis_of.get(name, name): re.findall("`(.*?)`", names)
        for row, names in rows.items()
        for name in re.findall("`(.*?)`", row)
        if name in AXES or name in axis_of
    }
    assert {axis: sorted(names) for axis, names in found.items()} == {
        axis: sorted(AXES[axis].members) for axis in AXES
    }


def test_the_guide_defines_every_row_that_compare_prints():
    section = text("docs/pages/guides/command-line.md").split("\n## compare\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([a-z ]+)` \| ", section, re.MULTILINE)
    assert rows == [name.replace("_", " ") for name in MEASURES]
    assert "guides/command-line#compare" in importlib.import_module("mesalens.cli.compare").LAST


@pytest.mark.parametrize(
    ("heading", "axis"), [("## Objectives", "objective"), ("## When a run stops", "stop")]
)
def test_the_guide_to_training_has_every_objective_and_every_rule(heading, axis):
    section = text("docs/pages/guides/training.md").split(heading)[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w[\w-]+)` \|", section, re.MULTILINE) == [*AXES[axis].members]


def rows_under(heading):
    """The cells of the rows of the table under a heading of the page about the method."""
    section = text("docs/pages/identify/method.md").split(f"# {heading}\n")[1].split("\n##")[0]
    lines = re.findall(r"^\|( `.*)\|$", section, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def test_the_method_has_every_candidate_and_each_of_its_parameters():
    task = RegressionTask(
        Gaussian(3), LinearFunctions(3), noise=GaussianNoise(0.25), context_length=8
    )
    pool = RegressionTask(Gaussian(3), FinitePool(3, size=4), context_length=8)
    families = {each.name: each for each in (*known(task)[0], *known(pool)[0], *CLASSES)}
    rows = {row[0].strip("`"): row[1:] for row in rows_under("The candidates")}
    assert rows.keys() == families.keys()
    for name, family in families.items():
        words, _, parameters = rows[name]
        said, learner = re.fullmatch(r"\[(.*)\]\[mesalens\.learners\.(\w+)\]", words).groups()
        assert said == WORDS[name] and hasattr(learners, learner), name
        printed = [*filter(None, [family.choice]), *(family.ranges or {})]
        shown = re.findall(r"\*\*(.*?)\*\*: \S", parameters)
        assert shown == [each.replace("_", " ") for each in printed], name
    assert f"That is {len(known(task)[0])} families" in text("docs/pages/identify/method.md")


def test_the_parameters_of_scikit_learn_are_as_the_method_says():
    task = RegressionTask(Gaussian(3), LinearFunctions(3), context_length=8)
    families = {each.name: each for each in known(task)[0]}
    rng = np.random.default_rng(0)
    xs, ys = rng.normal(size=(8, 3)), rng.normal(size=(8, 1))
    prompt = Prompt(xs.astype(np.float32), ys.astype(np.float32), np.ones(3, np.float32))
    estimators = {**vars(linear_model), **vars(neighbors), "KernelRidge": KernelRidge}
    rows = rows_under("Parameters of scikit-learn")
    assert len(rows) == 7
    for estimator, name, said in rows:
        theirs = eval(estimator.strip("`"), estimators).fit(xs, ys[:, 0])
        printed = {n: float(v) for n, v in re.findall(r"(\w+) ([\d.]+) =", said)}
        family = families[name.strip("`")]
        choice = printed.pop(family.choice, None)
        ours = family.learner(choice and int(choice), printed)
        expected = theirs.predict(np.ones((1, 3)))
        np.testing.assert_allclose(ours(prompt), expected, rtol=1e-3, err_msg=estimator)


@pytest.mark.parametrize("document", ["docs/pages/guides/own-study.md"])
def test_the_guide_to_studies_runs_as_written(document, folder, capsys):
    (file,) = files(document)
    asked = ["reproduce", file, "--store", "store", "--set", "steps=200", "dim=2", "prompts=500"]
    assert main([*asked, "--out", "report"]) in (0, 1)
    assert "2 claims" in capsys.readouterr().out and Path("report/index.html").exists()
    assert Path("report/figures/noise-study/loss.png").exists()
    (claims,) = (
        code
        for language, code in blocks(document)
        if code.startswith("from mesalens.atlas import Alike")
    )
    head = files(document)[file].split("@STUDY.claim")[0]
    Path("own_study.py").write_text(head + claims, encoding="utf-8")
    assert main(["list", "own_study.py"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name}\n" in printed for name in ("descends", "points-the-same-way", "trains"))
