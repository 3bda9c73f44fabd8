"""Writes an examination: a page that opens anywhere, and everything behind it as files."""

import base64
import json
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.pyplot as plt

from mesalens import plots
from mesalens.environment import environment
from mesalens.report.examination import Examination
from mesalens.storage import save_arrays, save_dataset


def write_report(examination: Examination, folder: Path) -> None:
    """Writes `index.html`, `verdicts.json`, `settings.json`, `figures/`, `data/` and `weights/` into an existing folder."""
    for name in ("figures", "data", "weights"):
        (folder / name).mkdir()
    with plots.style():
        for figure in examination.figures:
            for ending in ("pdf", "png"):
                figure.figure.savefig(folder / "figures" / f"{figure.name}.{ending}")
            plt.close(figure.figure)
    for name, dataset in examination.datasets.items():
        save_dataset(dataset, folder / "data" / f"{name}.nc")
    for name, learners in examination.learners.items():
        save_arrays(learners, folder / "weights" / f"{name}.safetensors")
    results = summary(examination)
    (folder / "verdicts.json").write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    settings = {key: results[key] for key in ("study", "budget", "seeds", "seed", "settings", "environment", "command")}
    (folder / "settings.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "index.html").write_text(page(examination, folder / "figures"), encoding="utf-8")


def summary(examination: Examination) -> dict[str, Any]:
    """The examination in plain values, ready for JSON; numbers that JSON does not have, as infinity, are null."""
    return {
        "study": examination.study.name,
        "budget": examination.budget,
        "seeds": examination.seeds,
        "seed": examination.seed,
        "verdicts": [
            {
                "claim": verdict.claim.name,
                "part": part.name,
                "outcome": verdict.judgement.outcome,
                "value": _finite(verdict.judgement.value),
                "interval": [_finite(verdict.judgement.low), _finite(verdict.judgement.high)],
                "seeds": verdict.judgement.seeds,
                "seeds_run": verdict.judgement.of,
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


def page(examination: Examination, figures: Path) -> str:
    """The HTML page, figures inside it."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("mesalens.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    templates.filters["number"] = number
    return templates.get_template("page.html.j2").render(
        study=examination.study,
        tally=examination.tally(),
        budget=examination.budget,
        seeds=examination.seeds,
        seed=examination.seed,
        date=f"{examination.started:%Y-%m-%d %H:%M} UTC",
        duration=f"{examination.seconds:.0f} s",
        parts=examination.parts,
        seconds_to_verdict=examination.seconds_to_verdict,
        remarks=examination.remarks,
        figures=[
            {
                "name": figure.name,
                "caption": figure.caption,
                "png": base64.b64encode((figures / f"{figure.name}.png").read_bytes()).decode(),
            }
            for figure in examination.figures
        ],
        settings=examination.settings,
        environment=environment(),
        command=examination.command(),
    )


def number(value: float) -> str:
    """A number as a person reads it: three significant digits, a proper minus and infinity."""
    return f"{value:.3g}".replace("inf", "∞").replace("-", "−")


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
