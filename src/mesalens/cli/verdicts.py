"""`mesalens verdicts`."""

from pathlib import Path
from typing import Annotated

from mesalens.atlas.guide import guide
from mesalens.atlas.verdicts import read, table
from mesalens.checks import InputError
from mesalens.cli.options import POSITIONAL, WORDS, Command, Folder
from mesalens.files import replace_file, writing


class Verdicts(Command):
    """Writes the verdicts of several reports as one Markdown document.

    If a claim is in several reports with the same budget, its latest verdict is used.
    """

    reports: Annotated[tuple[str, ...], POSITIONAL, WORDS] = ()
    """folders that `mesalens reproduce` wrote, or their verdicts.json"""
    guide: bool = False
    """include what each study is about, what its paper claims, and what is not checked"""
    out: Folder | None = None
    """file to write; by default standard output"""

    def __call__(self) -> int:
        """Writes the table."""
        if not self.reports:
            raise InputError("give one or more folders that `mesalens reproduce` wrote.")
        files = [Path(name) for name in self.reports]
        contents = [read(f / "verdicts.json" if f.is_dir() else f) for f in files]
        text = guide(contents, "mesalens verdicts --guide") if self.guide else table(contents)
        if self.out is None:
            print(text)
            return 0
        with writing(self.out):
            replace_file(self.out, text.encode())
        return 0
