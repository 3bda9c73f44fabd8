"""The gallery: figures, each with the few lines that make it.

A file of docs/figures has a docstring (its first line is the title, the rest the caption) and code
that leaves one Matplotlib figure. `python docs/gallery.py FOLDER NAME…` draws some of them.
"""

import ast
import re
import sys
import warnings
from pathlib import Path

FIGURES = Path(__file__).parent / "figures"
LINES = 15
"""A figure has at most so many lines of code, blank ones not counted."""


def names() -> list[str]:
    """All figures, in the order of the gallery."""
    return sorted(file.stem for file in FIGURES.glob("*.py"))


def parts(name: str) -> tuple[str, str, str]:
    """The title, the caption and the code of a figure.

    Raises:
        ValueError: if one of them is missing, or the code is too long.
    """
    source = (FIGURES / f"{name}.py").read_text(encoding="utf-8")
    tree = ast.parse(source)
    title, _, caption = (ast.get_docstring(tree) or "").partition("\n")
    code = "\n".join(source.splitlines()[tree.body[0].end_lineno :]).strip()
    lines = len([line for line in code.splitlines() if line.strip()])
    if not title or not caption.strip() or not 0 < lines <= LINES:
        raise ValueError(f"docs/figures/{name}.py needs a title, a caption, 1 to {LINES} lines.")
    return title.rstrip("."), " ".join(caption.split()), code


def draw(name: str, folder: Path) -> None:
    """Runs the code of a figure, and saves what it drew as an SVG file of this name."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.use("agg")
    with mpl.rc_context({"svg.hashsalt": "mesalens", "figure.dpi": 100}):
        plt.close("all")
        exec(compile(parts(name)[2], str(FIGURES / f"{name}.py"), "exec"), {"__name__": name})
        if len(plt.get_fignums()) != 1:
            raise ValueError(
                f"docs/figures/{name}.py left {len(plt.get_fignums())} figures, not 1."
            )
        plt.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})


def page() -> str:
    """The page of the gallery."""
    head = "# Gallery\n\nEach figure is made by the code below it, when this site is built.\n"
    return head + "".join(_entry(name) for name in names())


def _entry(name: str) -> str:
    title, caption, code = parts(name)
    plain = re.sub(r"[`$*\[\]]", "", caption)
    image = f"![{plain}](figures/{name}.svg)"
    return f"\n## {title} {{ #{name} }}\n\n{image}\n\n{caption}\n\n```python\n{code}\n```\n"


if __name__ == "__main__":
    warnings.simplefilter("error")
    for each in sys.argv[2:]:
        draw(each, Path(sys.argv[1]))
