"""`load`: reads a folder of results."""

from pathlib import Path
from typing import Any

from mesalens.atlas.report import load_report
from mesalens.manifest import read_manifest
from mesalens.training import load_run


def load(folder: Path | str) -> Any:
    """Reads the folder of a training or of a report.

    Args:
        folder: A folder that `mesalens train`, `mesalens sweep` or `mesalens reproduce` wrote (or
            `mesalens.training.save_run`, or `Report.save`).

    Returns:
        For a training its `TrainingSettings` and `Training`; for a report a `SavedReport`.

    Raises:
        ValueError: if the folder has no results, or a file is damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder) if folder.is_dir() else None
    if manifest is not None and manifest["kind"] == "report":
        return load_report(folder)
    return load_run(folder)
