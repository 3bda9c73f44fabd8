"""The results of a study's functions, and the form in which they are stored."""

import functools
import hashlib
import json
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

import mesalens
from mesalens import plots
from mesalens.atlas.comparison import runs_of
from mesalens.atlas.experiment import Runs, Trained
from mesalens.atlas.study import Claim, FigureNode, Lab, Node, Remark, Study, place_of
from mesalens.checks import InputError
from mesalens.storage import load_dataset, save_dataset

_DRAWING = threading.Lock()  # pyplot's figures and styles belong to the process


def together(results: list[Any]) -> Any:
    """The results of all seeds: `Runs`, or several by label, or a dataset over seeds."""
    first = results[0]
    if isinstance(first, Mapping) and not isinstance(first, xr.Dataset):
        return {label: together([each[label] for each in results]) for label in first}
    if isinstance(results[0], Trained):
        return Runs(results)
    return over_seeds(dict(enumerate(results)))


def over_seeds(tables: Mapping[int, xr.Dataset]) -> xr.Dataset:
    """The datasets of seeds as one, with the dimension `seed`."""
    found = [
        table.reset_coords("counted").expand_dims(seed=[seed])
        if "counted" in table.coords
        else table.expand_dims(seed=[seed])
        for seed, table in tables.items()
    ]
    return xr.concat(found, "seed", join="outer", coords="minimal", compat="override")


def finished(node: Node, lab: Lab, results: Mapping[str, Any]) -> Any:
    """The result of a node's function, in the form in which it is stored."""
    if isinstance(node, FigureNode):
        with _DRAWING, plots.style():
            drawn = node.call(lab, results)
            figure, words = drawn if isinstance(drawn, tuple) else (drawn, {})
            # Otherwise pyplot warns about twenty open figures; a closed one can still be saved
            plt.close(figure)
            return figure, node.caption(words)
    value = node.call(lab, results)
    _require_result(node, value)
    if isinstance(value, str):
        return value
    trained = list(runs_of(tuple(results.values())))
    counted = all(run.counts for run in trained)
    if not isinstance(node, Claim):
        table = value if isinstance(value, xr.Dataset) else xr.Dataset(_arrays(value))
        # A measurement records whether its seed counts, for the claims that use it
        if "counted" not in table.coords:
            before = [t.counted for t in results.values() if isinstance(t, xr.Dataset)]
            table = table.assign_coords(
                counted=functools.reduce(lambda a, b: a & b, before, counted)
            )
        return table
    array = value if isinstance(value, xr.DataArray) else xr.DataArray(np.asarray(value, float))
    own = array.coords.get("counted")
    if node.count_all_seeds:
        own = xr.DataArray(True)
    elif own is None:
        tables = [t.counted for t in results.values() if isinstance(t, xr.Dataset)]
        own = functools.reduce(lambda a, b: a & b, tables, xr.DataArray(counted))
    array = array.drop_vars("counted", errors="ignore").astype(float)
    return xr.Dataset({"value": array, "counted": own.drop_vars("counted", errors="ignore")})


def _require_result(node: Node, value: Any) -> None:
    """Raises `ValueError` if a function of a study returns what is not of its kind."""
    if isinstance(node, Remark):
        kind, words, right = "remark", "text", isinstance(value, str)
    elif isinstance(node, Claim):
        kind, right = "claim", _is_numeric(value)
        words = "a number, or an xarray.DataArray with a number for each setting"
    else:
        kind, right = "measurement", isinstance(value, Mapping)
        words = 'numbers or arrays by name, such as {"risk": 0.1}, or an xarray.Dataset'
    if not right:
        shown = repr(value) if isinstance(value, str | float | int | None) else type(value).__name__
        raise InputError(
            f"{place_of(node.function)}: the {kind} {node.name} must return {words}; got {shown}."
        )


def _is_numeric(value: Any) -> bool:
    if value is None or isinstance(value, str | Mapping):  # NumPy makes numbers of None and "1"
        return False
    try:
        (value if isinstance(value, xr.DataArray) else np.asarray(value, float)).astype(float)
    except (TypeError, ValueError):
        return False
    return True


def _arrays(values: Mapping[str, Any]) -> dict[str, Any]:
    """Gives names to the dimensions of unlabelled arrays."""
    arrays = {}
    for name, value in values.items():
        if not isinstance(value, xr.DataArray):
            array = np.asarray(value)
            value = xr.DataArray(array, dims=[f"{name}_{place}" for place in range(array.ndim)])
        arrays[name] = value
    return arrays


def save(result: Any, folder: Path) -> None:
    """Writes a result of `finished` into a folder."""
    if isinstance(result, xr.Dataset):
        save_dataset(result, folder / "table.nc")
    elif isinstance(result, str):
        (folder / "remark.txt").write_text(result, encoding="utf-8")
    else:
        figure, caption = result
        with _DRAWING, plots.style():
            for ending in ("pdf", "png"):
                figure.savefig(folder / f"figure.{ending}")
        (folder / "caption.txt").write_text(caption, encoding="utf-8")


def load(folder: Path) -> Any:
    """Reads what `save` wrote: a dataset, a remark, or the caption of a figure."""
    for file in ("remark.txt", "caption.txt"):
        if (folder / file).is_file():
            return (folder / file).read_text(encoding="utf-8")
    return load_dataset(folder / "table.nc")


@functools.cache
def _package() -> str:
    """A digest of the code that results depend on: all but studies, commands and the page."""
    root = Path(mesalens.__file__).parent
    files = [
        file
        for file in sorted(root.rglob("*.py"))
        if file.relative_to(root).parts[0] not in ("studies", "cli")
        and file.name not in ("page.py", "report.py", "verdicts.py")
    ]
    return _digest_files(files)


def code_digest(study: Study) -> str:
    """A digest of the package and of the study's modules: those in its folder that are loaded."""
    folder = study.file.resolve().parent
    loaded = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    # Some modules, such as torch.classes, name a file that does not exist
    files = {Path(file).resolve() for file in loaded if file and Path(file).is_file()}
    alone = folder == Path(mesalens.__file__).parent / "studies"
    own = [file for file in files if file.parent == folder and not alone]
    return json.dumps([_package(), _digest_files(sorted({study.file.resolve(), *own}))])


def _digest_files(files: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for file in files:
        total.update(file.name.encode() + file.read_bytes())
    return total.hexdigest()
