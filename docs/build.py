"""Builds the documentation site, `make docs`: gathers pages in build/pages, builds build/site.

Written pages are in docs/pages. Made here: the API reference from docstrings, the gallery from
docs/figures, notebooks from docs/notebooks, the atlas from the verdicts that the package ships, and
the explorer. Warnings are errors, and so is a page that needs something from elsewhere.
"""

import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import checks
import gallery
import notebooks
import reference

from mesalens import explorer
from mesalens.atlas.guide import guide
from mesalens.atlas.record import read_record
from mesalens.atlas.verdicts import table

ROOT = Path(__file__).parents[1]
PAGES, SITE = ROOT / "build" / "pages", ROOT / "build" / "site"


def main() -> None:
    """Builds the site, or says what is wrong and exits with 1."""
    start = time.perf_counter()
    for folder in (PAGES, SITE):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs" / "pages", PAGES)
    shutil.copytree(ROOT / "docs" / "assets", PAGES / "assets")
    _formulas(PAGES / "assets" / "katex")
    drawing = _drawing(PAGES / "figures", gallery.names())
    for page in notebooks.pages():
        page.write(PAGES / "notebooks")
    (PAGES / "gallery.md").write_text(gallery.page(), encoding="utf-8")
    reference.write(PAGES / "api")
    _atlas(PAGES / "atlas")
    explorer.write(PAGES / "explorer")
    for process in drawing:
        if process.wait():
            sys.exit("A figure could not be drawn; the error is above.")
    _render()
    if faults := checks.faults(SITE):
        sys.exit("\n".join([*faults, f"{len(faults)} faults"]))
    count = len(list(SITE.rglob("*.html")))
    print(f"{count} pages in {SITE}, {time.perf_counter() - start:.0f} s")


def _formulas(folder: Path) -> None:
    """Copies KaTeX, which a package of the registry carries whole."""
    files = metadata.files("djangocms-katex") or []
    for file in files:
        inside = str(file).partition("/vendor/katex/")[2]
        if inside.endswith((".min.css", ".min.js", ".woff2")):
            target = folder / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(file.locate()), target)
    if not (folder / "katex.min.js").exists():
        sys.exit("KaTeX is not installed; run `make docs`, which installs it.")


def _drawing(folder: Path, names: list[str]) -> list[subprocess.Popen]:
    """Starts two processes that draw all figures."""
    folder.mkdir()
    command = [sys.executable, str(Path(gallery.__file__)), str(folder)]
    return [subprocess.Popen([*command, *names[half::2]]) for half in range(2) if names[half::2]]


def _atlas(folder: Path) -> None:
    """The guide to the studies, and all verdicts, from what the package ships."""
    folder.mkdir()
    contents = read_record()
    note = "How a verdict is reached is in [Read a verdict](../guides/verdicts.md)."
    schema = "[The schema](../guides/verdicts-schema.md) explains the columns."
    wide = "---\nhide: [toc]\n---\n\n"
    for name, text, link in (
        ("index", guide(contents), note),
        ("verdicts", wide + table(contents), schema),
    ):
        head, comment, rest = text.partition("\n\n<!--")
        (folder / f"{name}.md").write_text(f"{head}\n\n{link}{comment}{rest}", encoding="utf-8")


def _render() -> None:
    """Runs Zensical; a warning of Griffe, which reads the docstrings, is an error as well."""
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    run = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    if run.returncode or "griffe: " in run.stderr:
        sys.exit(f"{run.stderr}\nThe site was not built.")


if __name__ == "__main__":
    main()
