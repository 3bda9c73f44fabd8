"""`mesalens list`."""

from mesalens.cli.output import Json, print_json
from mesalens.studies import STUDIES


def list_(*, json: Json = False) -> int:
    """Lists the studies, their parts and claims, with the place of each claim in its paper.

    Args:
        json: print JSON alone on standard output
    """
    if json:
        print_json(
            [
                {
                    "study": s.name,
                    "title": s.title,
                    "citation": s.citation,
                    "parts": [
                        {
                            "part": f"{s.name}/{part.name}",
                            "claims": [
                                {
                                    "claim": claim.name,
                                    "statement": claim.statement,
                                    "source": claim.source,
                                    "criterion": claim.criterion.words,
                                }
                                for claim in part.claims
                            ],
                        }
                        for part in s.parts
                    ],
                }
                for s in STUDIES.values()
            ]
        )
        return 0
    for s in STUDIES.values():
        print(f"{s.name}: {s.title}\n  {s.citation}")
        for part in s.parts:
            print(f"\n  {s.name}/{part.name}")
            for claim in part.claims:
                print(f"    {claim.name}: {claim.statement}\n      {claim.source}; {claim.criterion.words}")
    return 0
