"""`mesalens list`."""

import textwrap
from typing import Annotated, Any

from mesalens.atlas import Judgement, Session
from mesalens.atlas.criterion import number
from mesalens.atlas.study import Claim, Study
from mesalens.cli.options import POSITIONAL, Command, Folder
from mesalens.cli.output import console, print_json, without_false_world
from mesalens.studies import STUDIES, study


class List(Command):
    """Lists the studies.

      mesalens list              all studies
      mesalens list ahn-2023     the claims of a study, with their stored verdicts

    `mesalens reproduce STUDY` computes verdicts.
    """

    name: Annotated[str | None, POSITIONAL] = None
    """the study whose parts and claims are listed"""
    store: Folder | None = None
    """folder of stored results; by default in the user's cache folder"""

    def __call__(self) -> int:
        """Prints the list."""
        chosen = [study(name) for name in STUDIES] if self.name is None else [study(self.name)]
        if self.json_ or self.name is not None:
            session = Session(self.store)
            contents = [_content(each, session) for each in chosen]
            if self.json_:
                print_json(contents)
            else:
                print("\n".join(_lines(contents[0], console().width)))
            return 0
        for each in chosen:
            parts = ", ".join(part.name for part in each.parts)
            text = f"{len(each.claims)} claims; parts: {parts}"
            print(f"{each.name}: {each.title}\n  {each.citation}")
            print(textwrap.fill(text, console().width, initial_indent="  ", subsequent_indent="  "))
        print("mesalens list STUDY lists the claims of a study.")
        return 0


def _content(each: Study, session: Session) -> dict[str, Any]:
    kept = session.kept_verdicts(each)
    parts = [
        {
            "part": f"{each.name}/{part.name}",
            "title": part.title,
            "claims": [_claim(claim, kept.get(claim.name)) for claim in part.claims],
        }
        for part in each.parts
    ]
    about = {"study": each.name, "title": each.title, "citation": each.citation, "own": each.own}
    return about | {"budgets": list(each.budgets), "parts": parts}


def _claim(claim: Claim, kept: tuple[str, Judgement] | None) -> dict[str, Any]:
    verdict = None
    if kept is not None:
        budget, judged = kept
        ends = [judged.low, judged.high]
        verdict = {"outcome": judged.outcome, "value": judged.value, "interval": ends}
        verdict |= {"budget": budget}
    return {
        "claim": claim.name,
        "statement": claim.statement,
        "place": claim.place,
        "criterion": claim.criterion.words,
        "headline": claim.headline,
        "has_false_world": claim.must_fail_on is not None,
        "verdict": verdict,
    }


def _lines(content: dict[str, Any], width: int) -> list[str]:
    def filled(text: str, indent: int) -> str:
        space = " " * indent
        return textwrap.fill(text, width, initial_indent=space, subsequent_indent=space)

    lines = [filled(f"{content['study']}: {content['title']}", 0)]
    for part in content["parts"]:
        lines += ["", f"{part['part']}: {part['title']}"]
        for claim in part["claims"]:
            head = claim["claim"] + " (quick)" * claim["headline"]
            if verdict := claim["verdict"]:
                head += f": {verdict['outcome']}, {number(verdict['value'])}"
                head += f" (budget {verdict['budget']})"
            lines += [f"  {head}", filled(claim["statement"], 4)]
            lines.append(filled(f"{claim['place']}; {claim['criterion']}", 4))
    claims = [claim for part in content["parts"] for claim in part["claims"]]
    names = [claim["claim"] for claim in claims if not claim["has_false_world"]]
    if names and content["own"]:  # those of the package say in their docstrings why they have none
        lines += ["", filled(without_false_world(names), 0)]
    return lines
