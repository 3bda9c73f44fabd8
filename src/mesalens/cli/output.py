"""What commands print."""

import json
import sys
from typing import Any

import numpy as np
from rich.console import Console


def console() -> Console:
    """Standard output; 160 columns where it is not a terminal. What it prints is not markup."""
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False)


def print_json(value: Any) -> None:
    """JSON alone on standard output, in ASCII; numbers that JSON lacks, such as NaN, are null."""
    text = json.dumps(value, default=np.ndarray.tolist)
    print(json.dumps(json.loads(text, parse_constant=lambda _: None), indent=2))
