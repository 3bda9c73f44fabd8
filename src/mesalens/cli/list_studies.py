"""`mesalens list`."""

from mesalens.cli.options import Command
from mesalens.cli.output import print_json
from mesalens.studies import STUDIES, Claim, Study


class List(Command):
    """Lists the studies, their parts and claims, with the place of each claim in its paper."""

    def __call__(self) -> int:
        """Prints the list."""
        if self.json_:
            print_json([_content(study) for study in STUDIES.values()])
            return 0
        for study in STUDIES.values():
            print(f"{study.name}: {study.title}\n  {study.citation}")
            for part in study.parts:
                print(f"\n  {study.name}/{part.name}")
                for claim in part.claims:
                    print(f"    {claim.name}: {claim.statement}")
                    print(f"      {claim.source}; {claim.criterion.words}")
        return 0


def _content(study: Study) -> dict:
    parts = [
        {"part": f"{study.name}/{part.name}", "claims": [_words(claim) for claim in part.claims]}
        for part in study.parts
    ]
    about = {"study": study.name, "title": study.title, "citation": study.citation}
    return about | {"parts": parts}


def _words(claim: Claim) -> dict[str, str]:
    return {
        "claim": claim.name,
        "statement": claim.statement,
        "source": claim.source,
        "criterion": claim.criterion.words,
    }
