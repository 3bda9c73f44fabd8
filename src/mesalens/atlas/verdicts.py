"""Verdicts as files and as text: reads `verdicts.json`, and formats it for terminals and documents.

docs/pages/guides/verdicts-schema.md documents the schema.
"""

import json
import re
import textwrap
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydantic

from mesalens import __version__
from mesalens.atlas.criterion import Outcome
from mesalens.atlas.criterion import number as _number
from mesalens.checks import InputError

SCHEMA = 1
"""The version of the schema of `verdicts.json` that this version of mesalens writes and reads."""

Bounds = tuple[float | None, float | None]


class Claim(pydantic.BaseModel):
    """The entry of a claim."""

    claim: str
    statement: str
    estimator: str
    place: str
    criterion: str
    bounds: Bounds
    universal: bool
    outcome: Outcome
    value: float | None
    interval: Bounds
    level: float
    seeds: int
    seeds_run: int
    look: int
    looks: list[int]
    where: dict[str, str]
    values: dict[str, float | None]
    why: str
    seeds_to_decide: int | None
    figures: list[str]
    experiments: list[str]
    taken: bool
    made: str
    seconds: float


class Figure(pydantic.BaseModel):
    """The entry of a figure."""

    figure: str
    caption: str
    shows: list[str]


class Part(pydantic.BaseModel):
    """A group of claims."""

    part: str
    title: str
    claims: list[Claim]
    figures: list[Figure]
    remarks: list[str]


class Unit(pydantic.BaseModel):
    """The entry of one seed of an experiment."""

    seed: int
    address: str
    ending: str
    steps_taken: int
    made: str
    seconds: float
    taken: bool


class Experiment(pydantic.BaseModel):
    """The entry of an experiment."""

    experiment: str
    settings: dict[str, Any]
    seeds: list[int]
    words: str
    units: list[Unit]


class Study(pydantic.BaseModel):
    """The verdicts on the claims of a paper."""

    study: str
    title: str
    citation: str
    note: str
    system: str = ""
    unchecked: dict[str, str] = {}
    own: bool = False
    file: str | None = None
    settings: dict[str, Any]
    changed: dict[str, Any]
    parts: list[Part]
    experiments: list[Experiment]


class Content(pydantic.BaseModel):
    """The fields of `verdicts.json` besides `schema`; it may have more."""

    mesalens: str
    commit: str | None
    made: str
    seconds: float
    command: str
    budget: str
    seed: int
    falsified: bool = False
    environment: dict[str, str]
    studies: list[Study]


def read(file: Path | str) -> dict[str, Any]:
    """The content of a `verdicts.json`.

    Raises:
        InputError: if the file cannot be read, is damaged, or was written by a newer version.
    """
    return check(load(file), file)


def load(file: Path | str) -> dict[str, Any]:
    """What a JSON file with this version's schema number has, not yet checked.

    Raises:
        InputError: if the file cannot be read, is not JSON, or has another schema number.
    """
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise InputError(f"{file} is not JSON; give a verdicts.json file.") from None
    if not isinstance(content, dict) or not isinstance(content.get("schema"), int):
        raise InputError(f"{file} has no schema version; give a verdicts.json file.")
    if content["schema"] != SCHEMA:
        raise InputError(
            f"{file} has schema {content['schema']}, but mesalens {__version__} reads schema "
            f"{SCHEMA}; use the version that wrote it ({content.get('mesalens')})."
        )
    return content


def check(content: Any, file: Path | str) -> dict[str, Any]:
    """The content of `file`, if it has the fields of a `verdicts.json`.

    Raises:
        InputError: if it lacks a field, or one has a wrong value.
    """
    try:
        Content.model_validate(content)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{file} is damaged at {place}: {first['msg'].lower()}.") from None
    return content


def claims_of(content: dict[str, Any]) -> Iterator[tuple[dict, dict, dict]]:
    """All claims, each as (study, part, claim)."""
    for study in content["studies"]:
        for part in study["parts"]:
            for claim in part["claims"]:
                yield study, part, claim


def tally(claims: Iterable[dict[str, Any]]) -> str:
    """The number of claims with each outcome: "3 claims: 2 PASS, 1 FAIL"."""
    outcomes = [claim["outcome"] for claim in claims]
    counts = {name: outcomes.count(name) for name in ("PASS", "FAIL", "INCONCLUSIVE")}
    shown = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return f"{len(outcomes)} claim{'s' * (len(outcomes) != 1)}: {shown or 'none'}"


FALSE_WORLD = (
    "Each claim was checked in a world in which it is false; every verdict should be FAIL."
)
"""What stands above the verdicts of a report with `falsified`."""


def falsification(claims: Iterable[dict[str, Any]]) -> str:
    """Whether claims that were checked where they are false fail there, in a sentence."""
    claims = list(claims)
    others = [f"{c['claim']} ({c['outcome']})" for c in claims if c["outcome"] != "FAIL"]
    if not others and len(claims) == 1:
        return "The claim fails where it is false, as it should."
    if not others:
        count = "Both" if len(claims) == 2 else f"All {len(claims)}"
        return f"{count} claims fail where they are false, as they should."
    some = "do not fail where they are false, so their checks are not shown to work"
    if len(others) == 1:
        some = "does not fail where it is false, so its check is not shown to work"
    count = "The claim" if len(claims) == 1 else f"{len(others)} of {len(claims)} claims"
    return f"{count} {some}: {', '.join(others)}."


def not_falsified(contents: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those reports whose verdicts are about the claims themselves, not about their false worlds.

    Raises:
        InputError: if there is none, but others.
    """
    contents = list(contents)
    kept = [content for content in contents if not content.get("falsified")]
    if contents and not kept:
        raise InputError(
            "all of these reports are of --falsify, with claims checked where they are false; "
            "give a report without --falsify."
        )
    return kept


def number(value: float | int | None) -> str:
    """A number with three significant digits; "no finite value" for null."""
    return "no finite value" if value is None else _number(float(value))


def interval(claim: dict[str, Any]) -> str:
    """The interval of a claim: "[−0.001, 0.002]"; null is an infinite end."""
    low, high = claim["interval"]
    ends = "−∞" if low is None else number(low), "∞" if high is None else number(high)
    return f"[{', '.join(ends)}]"


def seed_count(claim: dict[str, Any]) -> str:
    """How many seeds count: "5 of 6 seeds"."""
    return f"{claim['seeds']} of {claim['seeds_run']} seed{'s' * (claim['seeds_run'] != 1)}"


def duration(seconds: float | int) -> str:
    """A time for people: "0.12 s", "45 s"."""
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def moment(iso: str, pattern: str = "%Y-%m-%d %H:%M UTC") -> str:
    """A time in UTC; text that is not a time in ISO 8601 is returned unchanged."""
    try:
        return datetime.fromisoformat(iso).astimezone(UTC).strftime(pattern)
    except ValueError:
        return iso


def lines(content: dict[str, Any], width: int = 80) -> list[str]:
    """The verdicts for a terminal: a table of claims, or one block per claim if it is narrow.

    Lines are broken at spaces, never within a number.
    """
    head = [*_wrapped(FALSE_WORLD, width), ""] if content.get("falsified") else []
    rows = [(s["study"], p, c, cells(c)) for s, p, c in claims_of(content)]
    sizes = [max(map(len, column)) for column in zip(*(row for *_, row in rows), strict=True)]
    as_table = width >= 60 and sum(sizes) + 2 * (len(sizes) - 1) <= width
    result, heading = [], ""
    for study, part, claim, row in rows:
        title = f"{study}/{part['part']}: {part['title']}"
        if title != heading:
            result += ["", *_wrapped(title, width)]
            heading = title
        if as_table:
            padded = (cell.ljust(size) for cell, size in zip(row, sizes, strict=True))
            result.append("  ".join(padded).rstrip())
        else:
            outcome, name, *rest = row
            head = f"{outcome:<12}  {name}" if width >= 60 else f"{outcome} {name}"
            result += _wrapped(head, width)
            # Cells are not broken, unless one is longer than a line
            limit = width - 2
            glued = (c.replace(" ", "\xa0") if len(c) <= limit else c for c in rest)
            result += [line.replace("\xa0", " ") for line in _wrapped("  ".join(glued), width, 2)]
        if claim["why"]:
            result += _wrapped(claim["why"], width, 2)
    counts = tally(claim for *_, claim, _ in rows)
    total = _wrapped(f"{counts}, in {duration(content['seconds'])}.", width)
    return [*head, *result[1:], "", *total]


def cells(claim: dict[str, Any]) -> list[str]:
    """A claim as the cells of a row: verdict, name, value, interval, criterion, seeds, setting."""
    where = ", ".join(f"{name}: {value}" for name, value in claim["where"].items())
    value = number(claim["value"])
    row = [claim["outcome"], claim["claim"], value, interval(claim), signed(claim["criterion"])]
    return [*row, seed_count(claim), where]


def _wrapped(text: str, width: int, indent: int = 0) -> list[str]:
    blank = " " * indent
    options: Any = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(
        text, max(width, 1), initial_indent=blank, subsequent_indent=blank, **options
    )


def table(contents: Iterable[dict[str, Any]], command: str = "mesalens verdicts") -> str:
    """The verdicts of several `verdicts.json` as a Markdown document.

    If a claim has several verdicts for the same budget, the latest is shown. Reports of claims in
    their false worlds are left out.

    Args:
        contents: Results of `read`.
        command: The command that writes the document, named in it.
    """
    text = f"# Verdicts\n\n{origin(command)}\n"
    return text + "".join(_section(*each) for each in of_studies(contents))


Claims = dict[tuple[str, str], dict[str, Any]]


def of_studies(contents: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], Claims]]:
    """Studies by name, each with the latest verdict of its claims by budget and name.

    Reports of claims in their false worlds are left out.
    """
    contents = not_falsified(contents)
    studies: dict[str, dict[str, Any]] = {}
    claims: dict[str, Claims] = {}
    for content in sorted(contents, key=lambda content: moment(content["made"], "%FT%T")):
        for study, _, claim in claims_of(content):
            studies[study["study"]] = study
            claims.setdefault(study["study"], {})[content["budget"], claim["claim"]] = claim
    return [(studies[name], claims[name]) for name in sorted(studies)]


def _section(study: dict[str, Any], claims: dict[tuple[str, str], dict[str, Any]]) -> str:
    """A study in Markdown, with its claims by budget and name."""
    text = [f"\n## {markdown(study['study'])}\n"]
    text += [markdown(f"{study['title']}. {study['citation']}") + "\n"]
    for budget in dict.fromkeys(budget for budget, _ in claims):
        counts = tally(claim for (other, _), claim in claims.items() if other == budget)
        text.append(f"- Budget `{budget}`: {counts}.")
    several = len({budget for budget, _ in claims}) > 1
    columns = ["claim", *["budget"] * several, "verdict", "value", "interval", "criterion", "seeds"]
    text += [f"\n| {' | '.join(columns)} | made |", "|---" * (len(columns) + 1) + "|"]
    for (budget, name), claim in claims.items():
        row = [name, *[budget] * several, claim["outcome"], number(claim["value"])]
        row += [interval(claim), signed(claim["criterion"]), seed_count(claim)]
        row += [moment(claim["made"], "%F")]
        text.append(f"| {' | '.join(map(markdown, row))} |")
    if any(claim["why"] for claim in claims.values()):
        text.append("\nWhy not PASS:\n")
    for (budget, name), claim in claims.items():
        if claim["why"]:
            where = f" (`{budget}`)" * several
            text.append(f"- {markdown(name)}{where}: {markdown(signed(claim['why']))}")
    return "\n".join(text) + "\n"


def origin(command: str) -> str:
    """A comment of Markdown and HTML that says which command wrote a document."""
    return f"<!-- Generated by `{command.replace('>', '')}`; do not edit. -->"


def signed(text: str) -> str:
    """A criterion, or a sentence with one, with the sign − before numbers."""
    return re.sub(r"(?<=[ e])-(?=\d)", "−", text)


CODE = re.compile(r"`[\w .,:()/=+-]+`")
"""Code of characters that mean nothing to HTML and tables."""


def markdown(text: str) -> str:
    """Text in which all markup of Markdown and HTML is escaped, except `code` of plain words."""
    parts = (
        part if CODE.fullmatch(part) else re.sub(r"[\\`*_\[\]<>|]", r"\\\g<0>", part)
        for part in re.split(r"(`[^`]+`)", text)
    )
    return " ".join("".join(parts).split())
