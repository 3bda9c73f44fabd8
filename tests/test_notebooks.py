"""Notebooks become pages with their outputs, and what is wrong with one is said with its name."""

import json
import sys
from pathlib import Path

import pytest

for needed in ("jupytext", "nbclient", "nbconvert", "ipykernel"):
    pytest.importorskip(needed)

DOCS = Path(__file__).parent.parent / "docs"
sys.path.insert(0, str(DOCS))

import notebooks  # noqa: E402

GOOD = """# %% [markdown]
# # A title
#
# A formula, $x^2$.

# %%
import os, sys
import matplotlib.pyplot as plt
print("one")
sys.stdout.flush()
print(os.getcwd() != os.environ.get("PWD"), sys.executable)

# %% alt="A line that rises."
axes = plt.figure().subplots()
lines = axes.plot([0, 1])

# %%
import pandas
pandas.DataFrame({"a": [1]})
"""


def written(folder, **sources):
    files = [folder / f"{name.replace('_', '-')}.py" for name in sources]
    for file, text in zip(files, sources.values(), strict=True):
        file.write_text(text)
    return files


def test_a_page_has_text_code_outputs_and_images_with_alternative_text(tmp_path):
    (page,) = notebooks.pages(written(tmp_path, good=GOOD))
    head, link, *_ = page.markdown.split("\n\n")
    assert head == "# A title" and "(good.ipynb)" in link
    assert "A formula, $x^2$." in page.markdown and "```python\nimport os, sys" in page.markdown
    # One block for both lines, printed by this interpreter in a folder of its own
    assert f"```text\none\nTrue {sys.executable}\n```" in page.markdown
    assert "![A line that rises.](good-1.svg)" in page.markdown
    assert page.images["good-1.svg"].startswith(b"<?xml")
    assert (
        "<td>1</td>" in page.markdown
        and "<style" not in page.markdown
        and "border=" not in page.markdown
    )

    page.write(tmp_path / "site")
    book = json.loads((tmp_path / "site" / "good.ipynb").read_text())
    assert "image/svg+xml" in book["cells"][2]["outputs"][0]["data"]
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    assert (tmp_path / "site" / "good-1.svg").is_file() and (
        tmp_path / "site" / "good.md"
    ).is_file()


def test_all_notebooks_with_a_cell_that_fails_or_warns_are_named_with_the_cell(tmp_path):
    sources = written(
        tmp_path,
        good="# %%\n1 + 1",
        failing="# %%\na = 1\n# %%\nb = a / 0\n# %%\nc = 1",
        warning="# %%\nimport warnings\nwarnings.warn('old')",
    )
    with pytest.raises(notebooks.NotebookError) as error:
        notebooks.pages(sources)
    message = str(error.value)
    assert "failing, code cell 2 (b = a / 0)" in message and "ZeroDivisionError" in message
    assert "warning, code cell 1" in message and "UserWarning: old" in message
    assert "good" not in message and "\x1b" not in message


BARS = """# %%
from mesalens.progress import ProgressReport
with ProgressReport() as bars:
    report = bars.start("training", 500)
    for step in range(500):
        report(step + 1)
    bars.say("A line.")

# %%
report = ProgressReport().stages()
report("asking", 0.25)
"""


def test_a_bar_changes_in_place_and_leaves_nothing(tmp_path):
    (page,) = notebooks.pages(written(tmp_path, bars=BARS))
    book = json.loads(page.notebook)
    assert [output["text"] for output in book["cells"][0]["outputs"]] == [["A line.\n"]]
    assert page.markdown.count("```text\nA line.\n```") == 1
    (bar,) = book["cells"][1]["outputs"]  # it is not closed
    assert bar["output_type"] == "display_data" and "<pre" in "".join(bar["data"]["text/html"])


def book_with(output):
    from nbformat.v4 import new_code_cell, new_notebook, new_output

    return new_notebook(cells=[new_code_cell("draw()", outputs=[new_output(**output)])])


@pytest.mark.parametrize(
    "output, words",
    [
        ({"output_type": "stream", "name": "stderr", "text": "Oh."}, "standard error: Oh."),
        (
            {"output_type": "display_data", "data": {"image/png": "aGk="}},
            "alternative text",
        ),
    ],
)
def test_what_a_page_must_not_show_is_an_error(output, words):
    with pytest.raises(notebooks.NotebookError, match=r"name, code cell 1 \(draw\(\)\)") as error:
        notebooks._page("name", book_with(output))
    assert words in str(error.value)


@pytest.mark.parametrize("source", sorted(notebooks.SOURCES.glob("*.py")), ids=lambda f: f.stem)
def test_every_notebook_begins_with_its_title_and_its_figures_have_text(source):
    text = source.read_text()
    assert text.startswith("# %% [markdown]\n# # ")
    for cell in text.split("# %%")[1:]:
        assert not ("subplots(" in cell or ".plot()" in cell or "Image(" in cell) or "alt=" in cell


@pytest.mark.slow
def test_the_notebooks_of_the_site_run():
    pages = notebooks.pages()
    assert [page.name for page in pages] == [
        "first-steps",
        "identify-sklearn",
        "one-paper",
        "own-task",
    ]
    assert all(page.images for page in pages)
