"""The verdicts of record: those that come with the package, without the values of each seed."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mesalens.atlas.verdicts import SCHEMA, check, claims_of, load, moment, not_falsified
from mesalens.checks import InputError

FILE = Path(__file__).with_name("record.json")
"""The verdicts that come with this version of mesalens; `mesalens verdicts --data` writes it."""


def read_record(file: Path | str = FILE) -> list[dict[str, Any]]:
    """The contents of the reports in a record, each as `mesalens.atlas.verdicts.read` gives it.

    A `verdicts.json` is a record of one report. Pass the result to `mesalens.atlas.guide.guide` or
    `mesalens.atlas.verdicts.table` to make a document of it.

    Args:
        file: What `mesalens verdicts --data` wrote; the verdicts of this version by default.

    Raises:
        InputError: if the file cannot be read, is damaged, or was written by a newer version.
    """
    content = load(file)
    if "reports" not in content:
        return [check(content, file)]
    if not isinstance(content["reports"], list):
        raise InputError(f"{file} is damaged at reports: input should be a list.")
    return [check(report, file) for report in content["reports"]]


def record(contents: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Several reports as one record, the oldest first.

    It leaves out the values of each seed, the experiments, claims that a later report decided at
    the same budget, and reports of claims in their false worlds.

    Args:
        contents: What `mesalens.atlas.verdicts.read` returns.
    """
    real = not_falsified(contents)
    ordered = sorted(real, key=lambda each: (moment(each["made"], "%FT%T"), each["budget"]))
    last = {
        (content["budget"], study["study"], claim["claim"]): place
        for place, content in enumerate(ordered)
        for study, _, claim in claims_of(content)
    }
    reports = []
    for place, content in enumerate(ordered):

        def decides(study: dict, claim: dict, budget=content["budget"], place=place) -> bool:
            return last[budget, study["study"], claim["claim"]] == place

        studies = [_study(study, decides) for study in content["studies"]]
        if studies := [study for study in studies if study["parts"]]:
            reports.append(content | {"studies": studies})
    return {"schema": SCHEMA, "reports": reports}


def text(contents: Sequence[dict[str, Any]]) -> str:
    """The record of several reports as the text of a file."""
    return json.dumps(record(contents), indent=1, ensure_ascii=False)


def _study(study: dict[str, Any], decides) -> dict[str, Any]:
    parts = [
        part | {"claims": [c | {"values": {}} for c in part["claims"] if decides(study, c)]}
        for part in study["parts"]
    ]
    return study | {"parts": [part for part in parts if part["claims"]], "experiments": []}
