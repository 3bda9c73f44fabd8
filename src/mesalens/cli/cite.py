"""`mesalens cite`."""

from typing import Annotated

from mesalens._citation import citation
from mesalens.cli.options import POSITIONAL, WORDS, Command
from mesalens.cli.output import print_json


class Cite(Command):
    """Prints BibTeX entries for mesalens, and for the papers behind studies and algorithms.

    Each entry is printed once, mesalens first.

      mesalens cite wu-2024 newton-schulz
      mesalens cite all > references.bib
    """

    names: Annotated[tuple[str, ...], POSITIONAL, WORDS] = ()
    """studies, algorithms as `mesalens compare --reference` has them, keys of entries, or all"""

    def __call__(self) -> int:
        """Prints the entries."""
        text = citation(*self.names)
        if self.json_:
            print_json({"bibtex": text})
        else:
            print(text, end="")
        return 0
