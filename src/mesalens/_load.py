"""`load`: what a folder of results holds."""

from pathlib import Path
from typing import Any

from mesalens.atlas.report import load_report
from mesalens.manifest import read_manifest
from mesalens.training import load_run


def load(folder: Path | str) -> Any:
    """What `mesalens train`, `sweep` or `reproduce` has written into a folder.

    Args:
        folder: The folder.

    Returns:
        The settings and the `Training` of a run or a sweep; the `SavedReport` of studies.

    Raises:
        ValueError: if it holds nothing of mesalens, or a file is damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder) if folder.is_dir() else None
    if manifest is not None and manifest["kind"] == "report":
        return load_report(folder)
    return load_run(folder)
