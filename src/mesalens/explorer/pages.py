"""`write`: the explorer as a folder that works wherever it is put, also without a server."""

import importlib.util
import shutil
from pathlib import Path

from mesalens import __version__
from mesalens.atlas.record import FILE
from mesalens.checks import InputError
from mesalens.files import new_folder

PAGE = Path(__file__).with_name("page")


def write(folder: Path | str) -> None:
    """Writes the page `index.html`, and all that it needs, into a new folder.

    The folder can be opened from a disk or put on any web server; the page loads nothing from
    elsewhere. It has the verdicts of record, and the library of plots of the package `plotly`.

    Args:
        folder: A folder that does not exist or is empty.

    Raises:
        InputError: If it cannot be written, or `plotly` is not installed.
    """
    plots = _plots()
    with new_folder(Path(folder)) as out:
        for file in PAGE.iterdir():
            shutil.copyfile(file, out / file.name)
        shutil.copyfile(plots, out / "plotly.min.js")
        # A script, as a page that is opened from a disk may not read other files
        record = FILE.read_text(encoding="utf-8")
        script = f'"use strict";\nconst VERSION = "{__version__}";\nconst RECORD = {record};\n'
        (out / "record.js").write_text(script, encoding="utf-8")


def _plots() -> Path:
    """The script that draws, of the package `plotly`; to import the package would take long."""
    spec = importlib.util.find_spec("plotly")
    folders = [] if spec is None else spec.submodule_search_locations or []
    for folder in folders:
        if (file := Path(folder, "package_data", "plotly.min.js")).is_file():
            return file
    raise InputError("plotly, which draws the plots, is not installed: pip install plotly.")
