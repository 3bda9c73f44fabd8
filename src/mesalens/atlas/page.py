"""`page`: verdicts and figures as one HTML file that loads no other files."""

import base64
import math
import re
import struct
from collections.abc import Mapping
from typing import Any

import jinja2
from markupsafe import Markup, escape

from mesalens._citation import citation, study_reference
from mesalens.atlas import verdicts

PIXELS_PER_INCH = 100
"""The scale of all figures on the page, so that their text has the same size."""


def page(content: dict[str, Any], images: Mapping[str, bytes]) -> str:
    """The page, which links to the files `figures/STUDY/NAME.png` and `.pdf`.

    Args:
        content: The content of `verdicts.json`; see docs/pages/guides/verdicts-schema.md.
        images: Figures as PNG, by "STUDY/NAME".
    """
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("mesalens.atlas", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "code": _code,
        "number": verdicts.number,
        "duration": verdicts.duration,
        "falsification": verdicts.falsification,
        "interval": verdicts.interval,
        "level": _level,
        "moment": verdicts.moment,
        "plot": interval_plot,
        "seeds": verdicts.seed_count,
        "tally": verdicts.tally,
    }
    figures = [
        f"{study['study']}/{figure['figure']}"
        for study in content["studies"]
        for part in study["parts"]
        for figure in part["figures"]
    ]
    files = [study["file"] for study in content["studies"] if study.get("file")]
    return templates.get_template("page.html.j2").render(
        content=content,
        claims=[claim for *_, claim in verdicts.claims_of(content)],
        of_papers=any(not study.get("own") for study in content["studies"]),
        falsified=content.get("falsified", False),
        false_world=verdicts.FALSE_WORLD,
        files=files,
        beside=_beside(content, files, images),
        images={name: _image(png) for name, png in images.items()},
        numbers={name: place for place, name in enumerate(figures, 1)},
        bibtex=citation(*map(study_reference, content["studies"])),
    )


def _code(text: str) -> Markup:
    """Text with what stands between backticks as code; everything is escaped."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _beside(content: dict[str, Any], files: list[str], images: Mapping[str, bytes]) -> list[str]:
    """What is in the folder of the page, in words."""
    trained = any(study["experiments"] for study in content["studies"])
    return [
        "verdicts.json",
        "the evidence (data/)",
        *(["the study (study/)"] if files else []),
        *(["figures (figures/)"] if images else []),
        *(["weights and metrics of each seed (units/)"] if trained else []),
    ]


def interval_plot(claim: dict[str, Any]) -> Markup:
    """An SVG of a claim: the criterion shaded, the interval, the value, and a dot for each seed."""
    width, height, edge = 320, 56, 46
    bounds, ends, value = claim["bounds"], claim["interval"], claim["value"]
    dots = {seed: x for seed, x in claim["values"].items() if x is not None}
    shown = [x for x in (*bounds, *ends, value, *dots.values()) if x is not None]
    low, high = min(shown), max(shown)
    # Halved before they are subtracted, as the difference may overflow
    half = (high / 2 - low / 2) or abs(high) / 2 or 1.0

    def place(x: float | int | None, otherwise: int) -> float | int:
        share = math.nan if x is None else (x / 2 - low / 2) / half
        return round(edge + share * (width - 2 * edge), 1) if math.isfinite(share) else otherwise

    left, right = place(bounds[0], 0), place(bounds[1], width)
    begin, end = place(ends[0], 0), place(ends[1], width)
    words = f"{verdicts.number(value)}, {_level(claim)} {verdicts.interval(claim)}"
    drawn = [
        Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            width, height, f"{words}; {claim['criterion']}"
        ),
        Markup('<rect class="margin" x="{}" y="4" width="{}" height="34"/>').format(
            left, round(right - left, 1)
        ),
    ]
    line = Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>')
    text = Markup('<text x="{}" y="52" text-anchor="{}">{}</text>')
    for bound, x, anchor, away in ((bounds[0], left, "end", -2), (bounds[1], right, "start", 2)):
        if bound is not None:
            # The labels of two bounds may lie close together, so they go outwards
            shift, side = (0, "middle") if None in bounds else (away, anchor)
            drawn.append(line.format("bound", x, 4, x, 38))
            drawn.append(text.format(round(x + shift, 1), side, verdicts.number(bound)))
    if claim["seeds"] and not (ends == [None, None] and claim["seeds"] > 1):
        drawn.append(line.format("interval", begin, 16, end, 16))
        for limit, x in zip(ends, (begin, end), strict=True):
            if limit is not None:
                drawn.append(line.format("interval", x, 11, x, 21))
    if value is not None:
        x = place(value, 0)
        drawn.append(Markup('<circle class="value" cx="{}" cy="16" r="5"/>').format(x))
    for seed, x in dots.items():
        dot = Markup('<circle class="seed" cx="{}" cy="30" r="3"><title>{}</title></circle>')
        drawn.append(dot.format(place(x, 0), f"seed {seed}: {verdicts.number(x)}"))
    return Markup("").join([*drawn, Markup("</svg>")])


def _level(claim: dict[str, Any]) -> str:
    """The kind of the interval: "95% interval"."""
    if claim["universal"]:
        return "range over seeds"
    return f"{100 * claim['level']:.3g}% interval" if claim["level"] < 1 else "no interval"


def _image(png: bytes) -> dict[str, Any]:
    """A PNG as a data URL, with the size at which it is shown."""
    width, height = struct.unpack(">II", png[16:24])
    place = png.find(b"pHYs", 0, 1000)
    # If there is no resolution, the one in the style of figures
    per_metre = struct.unpack(">I", png[place + 4 : place + 8])[0] if place > 0 else 200 / 0.0254
    scale = PIXELS_PER_INCH / (per_metre * 0.0254)
    url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return {"url": url, "width": round(width * scale), "height": round(height * scale)}
