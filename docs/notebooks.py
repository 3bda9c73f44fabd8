"""Executes the notebooks in docs/notebooks and makes pages of them.

A notebook is a Python file in the percent format of Jupytext, so that its source is code that is
read, reviewed and checked like any other. A code cell that shows a figure says in its metadata what
one sees: `# %% alt="The loss falls to the risk of one step."`. After `wide=true` a narrow screen
scrolls the figure instead of making it small.
"""

import asyncio
import base64
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import MarkdownExporter
from nbconvert.filters import strip_ansi

SOURCES = Path(__file__).parent / "notebooks"
SECONDS = 600
"""The most that a cell may take."""

BEFORE = (
    "import warnings; warnings.simplefilter('error')",
    "warnings.filterwarnings('ignore', module='ipykernel')",
    "import matplotlib_inline.backend_inline as inline; inline.set_matplotlib_formats('svg')",
    "del warnings, inline",
)
"""What a kernel runs before the first cell: a warning of a cell is an error, figures are SVG."""

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}

IMAGES = {"image/svg+xml": "svg", "image/png": "png"}


PANDAS = re.compile(
    r'(<style scoped>.*?</style>\s*)?<table border="1" class="dataframe">', re.DOTALL
)
"""A table of pandas, whose style would override that of the site."""


class NotebookError(Exception):
    """A notebook that cannot be made into a page; the message has its name and the cell."""


@dataclass(frozen=True)
class Page:
    """A notebook as a page: Markdown, the images beside it by their names, and the notebook.

    `notebook` is the content of the `.ipynb` file, with outputs, to which the page links.
    """

    name: str
    markdown: str
    images: dict[str, bytes]
    notebook: str

    def write(self, folder: Path) -> None:
        """Writes the page, its images and the notebook into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.md").write_text(self.markdown, encoding="utf-8")
        (folder / f"{self.name}.ipynb").write_text(self.notebook, encoding="utf-8")
        for name, content in self.images.items():
            (folder / name).write_bytes(content)


def pages(sources: Iterable[Path] | None = None) -> list[Page]:
    """The pages of notebooks, which are executed at the same time, each in a kernel of its own.

    Args:
        sources: Files in the percent format; all of docs/notebooks by default.

    Raises:
        NotebookError: if a cell fails, warns, writes to standard error, or has a figure without
            alternative text.
    """
    files = sorted(SOURCES.glob("*.py")) if sources is None else list(sources)

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*map(_executed, files), return_exceptions=True)

    executed = asyncio.run(all_of_them())
    errors = [each for each in executed if isinstance(each, BaseException)]
    if errors:
        known = all(isinstance(error, NotebookError) for error in errors)
        raise NotebookError("\n".join(map(str, errors))) if known else errors[0]
    return [_page(file.stem, book) for file, book in zip(files, executed, strict=True)]


async def _executed(source: Path) -> nbformat.NotebookNode:
    """The notebook of a source with its outputs; it runs in a new folder, by this interpreter."""
    book = jupytext.read(source, fmt="py:percent")
    for place, cell in enumerate(book.cells):
        cell["id"] = f"cell-{place}"  # random otherwise, and so different in each build
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as sockets:
        kernel = AsyncKernelManager(
            kernel_name=KERNEL["name"],
            # Without folders to look into, the only kernel is that of this interpreter
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
            transport="ipc",
            ip=f"{sockets}/kernel",
        )
        client = NotebookClient(
            book,
            km=kernel,
            timeout=SECONDS,
            startup_timeout=SECONDS,
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=[f"--IPKernelApp.exec_lines={line}" for line in BEFORE],
            resources={"metadata": {"path": folder}},
        )
        try:
            await client.async_execute(cleanup_kc=True)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            cells = [cell for cell in book.cells if cell.cell_type == "code"]
            failed = max(client.code_cells_executed - 1, 0)
            words = strip_ansi(str(error)).strip()
            raise NotebookError(f"{_place(source.stem, failed, cells[failed])}: {words}") from None
    for cell in book.cells:
        if "outputs" in cell:  # bars of progress leave an empty one
            cell.outputs = [o for o in cell.outputs if "data" not in o or any(o.data.values())]
    book.metadata.pop("jupytext", None)
    book.metadata["kernelspec"] = KERNEL
    return book


def _page(name: str, book: nbformat.NotebookNode) -> Page:
    notebook = nbformat.writes(book)
    images: dict[str, bytes] = {}
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    for place, cell in enumerate(cells):
        shown = [_markdown(name, place, cell, output, images) for output in cell.outputs]
        data = [{"text/markdown": text} for text in shown if text]
        cell.outputs = [nbformat.v4.new_output("display_data", each) for each in data]
    markdown, _ = MarkdownExporter().from_notebook_node(book)
    link = f"[Download this page as a notebook]({name}.ipynb)"
    markdown = re.sub(r"\A\s*(# .+)\n", rf"\1\n\n{link}\n", markdown)
    return Page(name, re.sub(r"\n{3,}", "\n\n", markdown).strip() + "\n", images, notebook)


def _markdown(
    name: str,
    place: int,
    cell: nbformat.NotebookNode,
    output: nbformat.NotebookNode,
    images: dict[str, bytes],
) -> str:
    """An output as Markdown, in its richest form; an image is put among `images`."""
    where = _place(name, place, cell)
    if output.output_type == "stream":
        if output.name == "stderr":
            raise NotebookError(f"{where} writes to standard error: {output.text.strip()}")
        return _text(output.text)
    for kind, ending in IMAGES.items():
        if kind in output.data:
            alt = cell.metadata.get("alt")
            if not alt:
                raise NotebookError(f"{where} shows a figure and has no alternative text.")
            file = f"{name}-{len(images) + 1}.{ending}"
            content = output.data[kind]
            images[file] = content.encode() if ending == "svg" else base64.b64decode(content)
            return f"![{alt}]({file})" + "{ .wide }" * bool(cell.metadata.get("wide"))
    if html := output.data.get("text/html"):
        html = PANDAS.sub("<table>", html)
        return f'<div class="output">\n{html.strip()}\n</div>'
    return output.data.get("text/markdown") or _text(output.data.get("text/plain", ""))


def _text(text: str) -> str:
    return f"```text\n{strip_ansi(text).rstrip()}\n```" if text.strip() else ""


def _place(name: str, place: int, cell: nbformat.NotebookNode) -> str:
    first = cell.source.strip().splitlines()[0]
    return f"{name}, code cell {place + 1} ({first})"
