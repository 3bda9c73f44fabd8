"""The studies of published papers, one file or folder each.

A file of yours that declares a `mesalens.atlas.Study` is a study too.
"""

import importlib
import re
from pathlib import Path

from mesalens.atlas.study import FILE_MODULE, Study
from mesalens.checks import InputError, one_of
from mesalens.user_files import import_file, is_there

STUDIES = {
    "von-oswald-2023": "von_oswald_2023",
    "mahankali-2023": "mahankali_2023",
    "ahn-2023": "ahn_2023",
    "wu-2024": "wu_2024",
    "ahn-2024": "ahn_2024",
    "zhang-2024": "zhang_2024",
    "li-2024": "li_2024",
    "zhang-2025": "zhang_2025",
    "lu-2025": "lu_2025",
    "chang-2025": "chang_2025",
    "huang-2025": "huang_2025",
    "mesalens-2026": "mesalens_2026",
}
"""The studies of the package, by name, and their modules."""

HEADLINE = ("von-oswald-2023", "mahankali-2023")
"""The studies that `mesalens reproduce` checks by default."""


def study(name: str) -> Study:
    """The study with a name, or the one that a file declares.

    Args:
        name: The name of a study of the package, or `PATH/file.py`.

    Returns:
        The study.

    Raises:
        ValueError: if the name is unknown (the error suggests similar ones), the file cannot be
            imported, or it does not declare exactly one study.

    Examples:
        >>> from mesalens import studies
        >>> studies.study("ahn-2023").citation
        'Ahn, Cheng, Daneshmand and Sra, NeurIPS 2023, arXiv 2306.00297'
    """
    if name.endswith(".py"):
        return _from_file(Path(name))
    try:
        one_of("study", name, STUDIES)
    except InputError as error:
        raise InputError(
            f"{error} A study of your own is given by its file, PATH/file.py."
        ) from None
    return importlib.import_module(f"mesalens.studies.{STUDIES[name]}").STUDY


def find(name: str) -> tuple[Study, str | None]:
    """The study and the part or claim of a name such as "ahn-2023/depth-gains".

    Args:
        name: STUDY, STUDY/PART or STUDY/CLAIM, where STUDY may be `PATH/file.py`.

    Returns:
        The study, and the name of the part or claim, or None. That name is not checked;
            `Study.select` does it.

    Raises:
        ValueError: if the study is unknown.
    """
    head, tail = split(name)
    return study(head), tail


def split(name: str) -> tuple[str, str | None]:
    """The two parts of a name such as "ahn-2023/depth-gains" or "PATH/file.py/depth-gains".

    Args:
        name: As for `find`.

    Returns:
        The name or file of the study, and the name of the part or claim, or None.
    """
    found = re.match(r"(.+?\.py|[^/]*)(?:/(.*))?$", name)
    return (found[1], found[2] or None) if found else (name, None)


def _from_file(file: Path) -> Study:
    """The study that a Python file declares, in a variable of any name; the file is imported."""
    if not is_there(file):
        raise InputError(f"there is no file {file}; give a file that declares a Study.")
    name = FILE_MODULE + file.resolve().as_posix().encode().hex()
    try:
        module = import_file(file, name)
    except InputError as error:
        raise InputError(_with_place(error, file)) from None
    except Exception as error:
        place = _with_place(error, file)
        raise InputError(f"{place} ({type(error).__name__}).") from error
    studies = [value for value in vars(module).values() if isinstance(value, Study)]
    if len(set(map(id, studies))) != 1:
        raise InputError(f"{file} declares {len(studies)} studies; it must declare one Study.")
    return studies[0]


def _with_place(error: Exception, file: Path) -> str:
    """The error's sentence, with the line of the file that caused it."""
    if f"{file.name}:" in str(error):
        return str(error)
    traceback, line = error.__traceback__, None
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(file.resolve()):
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    line = getattr(error, "lineno", None) if line is None else line
    return f"{file}:{line}: {error}" if line else f"{file}: {error}"
