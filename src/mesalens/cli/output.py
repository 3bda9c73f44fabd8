"""How commands print."""

import json
import shutil
from typing import Any

import numpy as np
from rich.console import Console

from mesalens.simulation import Estimate


def console() -> Console:
    """Standard output, as wide as COLUMNS says, or the terminal, or 160 columns if there is none.

    Text is printed without markup.
    """
    width = shutil.get_terminal_size((160, 24)).columns
    return Console(width=width, highlight=False, markup=False)


def without_false_world(claims: list[str]) -> str:
    """What to do about claims that have no `must_fail_on`."""
    return (
        f"No world is declared in which it fails: {', '.join(claims)}. Give the claim "
        "must_fail_on, so that --falsify can check it."
    )


def print_json(value: Any) -> None:
    """Prints JSON in ASCII; numbers that JSON does not have, such as NaN, become null.

    Arrays become lists, and an `Estimate` an object with `value` and `standard_error`.
    """
    text = json.dumps(value, default=_plain)
    print(json.dumps(json.loads(text, parse_constant=lambda _: None), indent=2))


def _plain(value: Any) -> Any:
    return vars(value) if isinstance(value, Estimate) else np.asarray(value).tolist()
