"""`mesalens cite`."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from mesalens._citation import UNSOURCED, citation, names_to_cite, sources
from mesalens.checks import InputError
from mesalens.cli.options import POSITIONAL, WORDS, Command
from mesalens.cli.output import print_json


class Cite(Command):
    """Prints BibTeX entries for mesalens, and for the papers behind studies and algorithms.

    Each entry is printed once, mesalens first.

      mesalens cite wu-2024 newton-schulz
      mesalens cite my_study.py reports/mine
      mesalens cite all > references.bib
      mesalens cite --list
    """

    names: Annotated[tuple[str, ...], POSITIONAL, WORDS] = ()
    """studies, algorithms as `mesalens compare --reference` has them, keys of entries, files of
    studies, folders of trainings and of reports, or all"""
    list_: bool = False
    """list the names that can be cited"""

    def __call__(self) -> int:
        """Prints the entries, or the names."""
        if self.list_:
            if self.names:
                raise InputError("give names or --list, not both.")
            _print_names(names_to_cite(), self.json_)
            return 0
        text = citation(*(each for name in self.names for each in _references(name)))
        for name in self.names:
            if name in UNSOURCED:
                print(f"mesalens: {_note(name)}", file=sys.stderr)
        if not self.names:
            print("mesalens: mesalens cite --list lists what else can be cited.", file=sys.stderr)
        if self.json_:
            print_json({"bibtex": text})
        else:
            print(text, end="")
        return 0


def _print_names(names: Mapping[str, list[str]], as_json: bool) -> None:
    if as_json:
        print_json(names)
        return
    for group, members in names.items():
        print(f"{group}:", *members, sep="\n  ")


def _note(name: str) -> str:
    """Why there is no entry of an algorithm, and where it is described."""
    book = UNSOURCED[name]
    where = f"; textbooks have it, such as {book} (mesalens cite {book})" if book else ""
    return f"there is no paper to cite for {name}{where}."


def _references(name: str) -> tuple[str, ...]:
    """What a name stands for: itself, the study in a file, or what the results in a folder cite."""
    place = Path(name)
    if name.endswith(".py"):
        from mesalens.studies import study  # which the other names do not need

        return study(name).references
    if any(name in group for group in names_to_cite().values()):
        return (name,)
    if place.is_dir():
        return _of_folder(place)
    if "/" in name:
        raise InputError(f"there is no folder {name}; give a folder with results, or a name.")
    return (name,)


def _of_folder(folder: Path) -> tuple[str, ...]:
    from mesalens.atlas.report import load_report
    from mesalens.manifest import read_manifest
    from mesalens.training.run_folder import load_settings

    manifest = read_manifest(folder)
    kind = None if manifest is None else manifest["kind"]
    if kind == "report":
        return load_report(folder).references
    if kind == "identification":
        file = folder / "identification.json"
        return _of_identification(json.loads(file.read_text(encoding="utf-8")))
    if kind in ("run", "sweep"):
        return sources([load_settings(folder / "settings.json").model.kind])
    raise InputError(
        f"{folder} has no finished results; give a folder that `mesalens train`, `mesalens "
        "reproduce` or `mesalens identify` wrote."
    )


def _of_identification(content: Mapping[str, Any]) -> tuple[str, ...]:
    """The references of an identification, from its saved content."""
    if "references" in content:  # mesalens 0.2.0 did not write them
        return tuple(content["references"])
    named = [each if isinstance(each, str) else each["name"] for each in content["set"]]
    named += [content["name"]] if content["name"] else []
    nearest = content.get("nearest")
    methods = ["identification", *(["confidence-set"] if content.get("confidence_set") else [])]
    return sources([*methods, *named, *([nearest["name"]] if nearest else [])])
