"""`mesalens verdicts`."""

import sys
from pathlib import Path
from typing import Annotated, Any

from mesalens.atlas.guide import guide
from mesalens.atlas.record import read_record
from mesalens.atlas.record import text as record_text
from mesalens.atlas.verdicts import table
from mesalens.checks import InputError
from mesalens.cli.options import POSITIONAL, WORDS, Command, Folder
from mesalens.files import replace_file, writing


class Verdicts(Command):
    """Writes the verdicts of several reports as one Markdown document.

    If a claim is in several reports with the same budget, its latest verdict is used. Reports of
    `mesalens reproduce --falsify` are left out.
    """

    reports: Annotated[tuple[str, ...], POSITIONAL, WORDS] = ()
    """folders that `mesalens reproduce` wrote, their verdicts.json, or files that --data wrote"""
    guide: bool = False
    """include what each study is about, what its paper claims, and what is not checked"""
    data: bool = False
    """write all verdicts as one JSON file, from which such documents can be made"""
    out: Folder | None = None
    """file to write; by default standard output"""

    def __call__(self) -> int:
        """Writes the document or the data."""
        if self.guide and self.data:
            raise InputError("give --guide or --data, not both.")
        if not self.reports:
            raise InputError("give one or more folders that `mesalens reproduce` wrote.")
        files = [Path(name) for name in self.reports]
        folders = [file / "verdicts.json" if file.is_dir() else file for file in files]
        found = {name: read_record(file) for name, file in zip(self.reports, folders, strict=True)}
        contents = [content for each in found.values() for content in each]
        if self.data:
            text = record_text(contents)
        else:
            text = guide(contents) if self.guide else table(contents)
        _say_left_out(found)
        if self.out is None:
            print(text)
            return 0
        with writing(self.out):
            replace_file(self.out, text.encode())
        return 0


def _say_left_out(found: dict[str, list[dict[str, Any]]]) -> None:
    """Names the reports whose verdicts are not used."""
    names = [name for name, each in found.items() if any(c.get("falsified") for c in each)]
    if names:
        print(
            f"mesalens: left out, as their claims were checked where they are false: "
            f"{', '.join(names)}.",
            file=sys.stderr,
        )
