"""Writes an examination: a page that opens anywhere, and the data behind it as files."""

import base64
import json
from pathlib import Path
from typing import Any

import jinja2
from pydantic_core import to_jsonable_python

from mesalens import plots
from mesalens.environment import environment
from mesalens.report.examination import Examination
from mesalens.storage import save_arrays, save_dataset


def write_report(examination: Examination, folder: Path) -> None:
    """Writes a report into an existing, empty folder.

    These are `index.html`, `verdicts.json`, `settings.json`, `figures/`, `data/` and `weights/`.
    """
    for name in ("figures", "data", "weights"):
        (folder / name).mkdir()
    results = summary(examination)
    settings = ("study", "budget", "seeds", "seed", "settings", "environment", "command")
    _write_json(folder / "verdicts.json", results)
    _write_json(folder / "settings.json", {name: results[name] for name in settings})
    for name, dataset in examination.datasets.items():
        save_dataset(dataset, folder / "data" / f"{name}.nc")
    for name, learners in examination.learners.items():
        save_arrays(learners, folder / "weights" / f"{name}.safetensors")
    with plots.style():
        for figure in examination.figures:
            for ending in ("pdf", "png"):
                figure.figure.savefig(folder / "figures" / f"{figure.name}.{ending}")
    page = _page(examination, folder / "figures")
    (folder / "index.html").write_text(page, encoding="utf-8")


def summary(examination: Examination) -> dict[str, Any]:
    """The examination as values for JSON; infinities and NaN, which JSON lacks, are None."""
    values = {
        "study": examination.study.name,
        "budget": examination.budget,
        "seeds": examination.seeds,
        "seed": examination.seed,
        "verdicts": [
            {
                "claim": verdict.claim.name,
                "part": part.name,
                "outcome": verdict.judgement.outcome,
                "value": verdict.judgement.value,
                "interval": [verdict.judgement.low, verdict.judgement.high],
                "seeds": verdict.judgement.seeds,
                "seeds_run": verdict.judgement.seeds_run,
                "where": verdict.judgement.where,
                "criterion": verdict.claim.criterion.words,
                "statement": verdict.claim.statement,
                "estimator": verdict.claim.estimator,
                "source": verdict.claim.source,
                "seconds_to_verdict": round(examination.seconds_to_verdict[part.name], 1),
            }
            for part, verdicts in examination.parts
            for verdict in verdicts
        ],
        "remarks": examination.remarks,
        "settings": examination.settings,
        "environment": environment(),
        "started": examination.started.isoformat(timespec="seconds"),
        "seconds": round(examination.seconds, 1),
        "command": examination.command(),
    }
    return to_jsonable_python(values, inf_nan_mode="null")


def number(value: float) -> str:
    """A number for people: three significant digits, with the signs − and ∞."""
    return f"{value:.3g}".replace("inf", "∞").replace("-", "−")


def _page(examination: Examination, figures: Path) -> str:
    """The HTML page, with the figures in it; everything that is not HTML is escaped."""
    loader = jinja2.PackageLoader("mesalens.report", ".")
    templates = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    templates.filters["number"] = number
    files = figures.glob("*.png")
    images = {file.stem: base64.b64encode(file.read_bytes()).decode() for file in files}
    page = templates.get_template("page.html.j2")
    return page.render(examination=examination, environment=environment(), images=images)


def _write_json(file: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")
