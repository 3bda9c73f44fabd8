"""`mesalens verdicts`."""

from pathlib import Path
from typing import Annotated

from mesalens.atlas.guide import guide
from mesalens.atlas.verdicts import read, table
from mesalens.checks import InputError
from mesalens.cli.options import POSITIONAL, WORDS, Command, Folder
from mesalens.files import replace_file, writing


class Verdicts(Command):
    """Makes one Markdown document of the verdicts in several reports."""

    reports: Annotated[tuple[str, ...], POSITIONAL, WORDS] = ()
    """folders that `mesalens reproduce` wrote, or their verdicts.json; later ones win"""
    guide: bool = False
    """say also what the studies are about, what they claim, and what they do not check"""
    out: Folder | None = None
    """a file for the table (standard output by default)"""

    def __call__(self) -> int:
        """Writes the table."""
        if not self.reports:
            raise InputError("give the folders of reports, as mesalens reproduce wrote them.")
        files = [Path(name) for name in self.reports]
        contents = [read(f / "verdicts.json" if f.is_dir() else f) for f in files]
        text = guide(contents, "mesalens verdicts --guide") if self.guide else table(contents)
        if self.out is None:
            print(text)
            return 0
        with writing(self.out):
            replace_file(self.out, text.encode())
        return 0
