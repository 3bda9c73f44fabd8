"""`guide`: all studies, their claims and verdicts, as one Markdown document."""

from collections.abc import Iterable
from typing import Any

from mesalens.atlas.verdicts import (
    interval,
    markdown,
    moment,
    number,
    of_studies,
    origin,
    seed_count,
    signed,
    tally,
)

HEAD = """# The atlas

{origin}

Each paper is a study, which `mesalens reproduce NAME --budget full` checks. A verdict is about what
was measured here: PASS means that the interval over independent seeds lies inside the criterion,
FAIL that it lies outside, INCONCLUSIVE neither.

| study | paper | claims | budget | date |
|---|---|---|---|---|
"""


def guide(contents: Iterable[dict[str, Any]], command: str = "mesalens verdicts --guide") -> str:
    """A document about the studies in several `verdicts.json`.

    If a claim has several verdicts, the latest is shown. Reports of claims in their false worlds
    are left out.

    Args:
        contents: Results of `mesalens.atlas.verdicts.read`.
        command: The command that writes the document, named in it.
    """
    rows, sections = [], []
    for study, budgets in of_studies(contents):
        claims = {name: (budget, claim) for (budget, name), claim in budgets.items()}
        made = moment(max(claim["made"] for _, claim in claims.values()), "%F")
        used = ", ".join(f"`{each}`" for each in dict.fromkeys(b for b, _ in claims.values()))
        name, counts = study["study"], tally(claim for _, claim in claims.values())
        cells = [f"[{name}](#{name})", markdown(study["citation"]), counts, used, made]
        rows.append(f"| {' | '.join(cells)} |\n")
        sections.append(_section(study, [claim for _, claim in claims.values()]))
    return HEAD.format(origin=origin(command)) + "".join(rows + sections)


def _section(study: dict[str, Any], claims: list[dict[str, Any]]) -> str:
    """A study: its system, its claims, and what is not checked."""
    text = [f"\n## {study['study']}\n", f"*{markdown(study['title'])}*. {study['citation']}\n"]
    if study.get("system"):
        text.append(f"**System.** {markdown(study['system'])}\n")
    if study["note"]:
        text.append(f"**Conventions.** {markdown(study['note'])}\n")
    text += ["| claim | verdict | value | criterion | seeds |", "|---|---|---|---|---|"]
    for claim in claims:
        statement = (
            f"`{claim['claim']}`: {markdown(claim['statement'])} ({markdown(claim['place'])})"
        )
        value = f"{number(claim['value'])} {interval(claim)}"
        cells = [statement, claim["outcome"], *map(markdown, (value, signed(claim["criterion"])))]
        text.append(f"| {' | '.join([*cells, seed_count(claim)])} |")
    remarks = [remark for part in study["parts"] for remark in part["remarks"]]
    for title, lines in {
        "Not PASS": [f"`{c['claim']}`: {markdown(signed(c['why']))}" for c in claims if c["why"]],
        "Remarks": [markdown(remark) for remark in remarks],
        "Not checked": [f"{markdown(k)}: {markdown(v)}." for k, v in _unchecked(study).items()],
    }.items():
        if lines:
            text += [f"\n**{title}.**\n", *(f"- {line}" for line in lines)]
    return "\n".join(text) + "\n"


def _unchecked(study: dict[str, Any]) -> dict[str, str]:
    return {claim: why.rstrip(".") for claim, why in study.get("unchecked", {}).items()}
