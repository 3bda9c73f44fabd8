"""Published claims, one file a paper; files of one's own are studies as well."""

import importlib
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
"""The studies that `mesalens reproduce` carries out where none is named."""


def study(name: str) -> Study:
    """The study with this name, or the one in a file of one's own, as `PATH/file.py`.

    Raises:
        ValueError: for an unknown name, with the nearest ones, or a file that declares no study.
    """
    if name.endswith(".py"):
        return _from_file(Path(name))
    module = importlib.import_module(f"mesalens.studies.{STUDIES[one_of('study', name, STUDIES)]}")
    return module.STUDY


def find(name: str) -> tuple[Study, str | None]:
    """The study and the part or claim of a name such as "ahn-2023/depth-gains".

    Raises:
        ValueError: for an unknown study; `Study.select` checks parts and claims.
    """
    head, dot, tail = name.partition(".py")
    if dot:
        return study(head + dot), tail.strip("/") or None
    head, _, tail = name.partition("/")
    return study(head), tail or None


def _from_file(file: Path) -> Study:
    """The study that a Python file declares, by whatever name; the file is imported."""
    if not is_there(file):
        raise InputError(f"there is no file {file}; give one that declares a Study.")
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
        raise InputError(f"{file} declares {len(studies)} studies; it has to declare one Study.")
    return studies[0]


def _with_place(error: Exception, file: Path) -> str:
    """The error's sentence, with the line of the file that led to it."""
    if f"{file.name}:" in str(error):
        return str(error)
    traceback, line = error.__traceback__, None
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(file.resolve()):
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    line = getattr(error, "lineno", None) if line is None else line
    return f"{file}:{line}: {error}" if line else f"{file}: {error}"
