"""`mesalens verdicts`."""

from pathlib import Path
from typing import Annotated

from mesalens.atlas.guide import guide
from mesalens.atlas.record import read_record
from mesalens.atlas.record import text as record_text
from mesalens.atlas.verdicts import table
from mesalens.checks import InputError
from mesalens.cli.options import POSITIONAL, WORDS, Command, Folder
from mesalens.files import replace_file, writing


class Verdicts(Command):
    """Makes one Markdown document of the verdicts in several reports."""

    reports: Annotated[tuple[str, ...], POSITIONAL, WORDS] = ()
    """folders that `mesalens reproduce` wrote, their verdicts.json, or files that --data wrote;
    later ones win"""
    guide: bool = False
    """say also what the studies are about, what they claim, and what they do not check"""
    data: bool = False
    """write one JSON file with all verdicts, from which such documents can be made"""
    out: Folder | None = None
    """a file for the result (standard output by default)"""

    def __call__(self) -> int:
        """Writes the document or the data."""
        if self.guide and self.data:
            raise InputError("give --guide or --data, not both.")
        if not self.reports:
            raise InputError("give the folders of reports, as mesalens reproduce wrote them.")
        files = [Path(name) for name in self.reports]
        folders = [file / "verdicts.json" if file.is_dir() else file for file in files]
        contents = [content for file in folders for content in read_record(file)]
        if self.data:
            text = record_text(contents)
        else:
            text = guide(contents, "mesalens verdicts --guide") if self.guide else table(contents)
        if self.out is None:
            print(text)
            return 0
        with writing(self.out):
            replace_file(self.out, text.encode())
        return 0
