"""What commands print."""

import json
import sys
from typing import Any

import numpy as np
from rich.console import Console

from mesalens.simulation import Estimate


def console() -> Console:
    """Standard output; 160 columns where it is not a terminal. What it prints is not markup."""
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False)


def print_json(value: Any) -> None:
    """JSON alone on standard output, in ASCII; numbers that JSON lacks, such as NaN, are null.

    Arrays are lists, and an estimate is an object with its value and its standard error.
    """
    text = json.dumps(value, default=_plain)
    print(json.dumps(json.loads(text, parse_constant=lambda _: None), indent=2))


def _plain(value: Any) -> Any:
    return vars(value) if isinstance(value, Estimate) else np.asarray(value).tolist()
