"""The examples of README and docs run as written, and print what they say."""

import contextlib
import importlib
import io
import re
import shlex
import textwrap
from pathlib import Path

import pytest

from mesalens.cli import main
from mesalens.cli._main import COMMANDS
from mesalens.cli.options import read_options

ROOT = Path(__file__).parent.parent
DOCUMENTS = ["README.md", *sorted(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md"))]
NUMBER = re.compile(r"\d+\.\d+")
MOVED = ("deep.md", "beyond.md", "plateau.md", "deep-weights.png", "copying.png")
"""Pages and pictures that are in docs/pages now, to which older pages still point."""


def text(document):
    return (ROOT / document).read_text(encoding="utf-8")


def commands(document):
    """The words of every indented command of a document, without the program."""
    joined = text(document).replace("\\\n", " ")
    lines = re.findall(r"^    (?:\.venv/bin/)?mesalens (.*)$", joined, flags=re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize(
    ("document", "examples"),
    [pytest.param("README.md", 3, marks=pytest.mark.slow), ("docs/extending.md", 1)],
)
def test_the_examples_print_what_the_document_says(document, examples, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    blocks = re.findall(r"```(python|text)\n(.*?)```", text(document), flags=re.DOTALL)
    names: dict = {}
    for (language, code), (_, said) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if language == "text":
            continue
        if file := re.match(r"# (\w+\.py)\n", code):
            Path(file[1]).write_text(code, encoding="utf-8")
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, document, "exec"), names)
        numbers, expected = (
            [float(x) for x in NUMBER.findall(t)] for t in (printed.getvalue(), said)
        )
        assert NUMBER.sub("#", printed.getvalue()) == NUMBER.sub("#", said)
        # Another machine rounds otherwise, and training amplifies that; it does not change what the lines say
        assert all(abs(a - b) < 0.02 for a, b in zip(numbers, expected, strict=True)), (
            numbers,
            expected,
        )
        examples -= 1
    assert examples == 0


@pytest.mark.slow
@pytest.mark.parametrize("document", ["README.md", "docs/extending.md"])
def test_commands_take_classes_from_files(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for code, name in re.findall(
        r"```python\n(# (\w+)\.py\n.*?)```", text(document), flags=re.DOTALL
    ):
        Path(f"{name}.py").write_text(code, encoding="utf-8")
        # In the order of the document, what trains comes before what compares
        folder = f"runs/{name}"
        chosen = [
            words
            for words in commands(document)
            if f"{name}.py" in " ".join(words) or folder in words
        ]
        assert len(chosen) > 1
        for words in chosen:
            fewer = ["--prompts", "200"] if words[0] == "compare" else []
            assert main([*words, *fewer]) == 0, words


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_options_of_all_commands_exist(document):
    for name, *words in commands(document):
        module, _, command = COMMANDS[name][0].partition(":")
        if ".py:" in " ".join(words) or {"--resume", "--config"} & set(words):
            continue  # these need files, and are run above
        read_options(
            getattr(importlib.import_module(f"mesalens.cli.{module}"), command), name, words
        )


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md", "CONTRIBUTING.md"])
def test_what_a_document_points_to_is_there(document):
    for target in re.findall(r"\]\(([^)]+)\)", text(document)):
        if target.startswith("#"):  # a heading of the document, which are lower-case words here
            assert f"\n## {target[1:]}\n" in text(document), target
        elif not target.startswith("https://") and Path(target).name not in MOVED:
            assert ((ROOT / document).parent / target).exists(), target


def test_the_guide_to_studies_runs_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(# noise_study\.py\n.*?)```", text("docs/studies.md"), re.S)
    Path("noise_study.py").write_text(code, encoding="utf-8")
    asked = [
        "reproduce",
        "noise_study.py",
        "--store",
        "store",
        "--set",
        "steps=200",
        "dim=2",
        "prompts=500",
    ]
    assert main([*asked, "--out", "report"]) in (0, 1)
    assert "2 claims" in capsys.readouterr().out and Path("report/index.html").exists()
    assert Path("report/figures/noise-study/loss.png").exists()
    (claims,) = re.findall(
        r"\n(      from mesalens\.atlas import Alike.*?)\n\n- ", text("docs/studies.md"), re.S
    )
    Path("own_study.py").write_text(
        code.split("@STUDY.claim")[0] + textwrap.dedent(claims), encoding="utf-8"
    )
    assert main(["list", "own_study.py"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name}\n" in printed for name in ("descends", "points-the-same-way", "trains"))
