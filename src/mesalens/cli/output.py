"""What commands print, and the words they share."""

import json
import sys
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console

Positional = tyro.conf.Positional
Json = Annotated[bool, tyro.conf.FlagCreatePairsOff]


def console() -> Console:
    """Standard output; as wide as the table needs where it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def print_json(value: Any) -> None:
    """JSON alone on standard output; a number that is not finite, of which JSON has none, is null."""
    known = json.loads(json.dumps(value, default=np.ndarray.tolist), parse_constant=lambda _: None)
    print(json.dumps(known, indent=2, ensure_ascii=False))
