"""`page`: an identification as one HTML file that loads nothing from elsewhere."""

import base64
from typing import Any

import jinja2


def page(text: str, content: dict[str, Any], figure: bytes, bibtex: str) -> str:
    """The page.

    Args:
        text: The answer in words.
        content: What is in `identification.json`.
        figure: A PNG.
        bibtex: What to cite.
    """
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("mesalens.identification", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"number": _number, "value": _value}
    regimes = list(dict.fromkeys(r for c in content["candidates"] for r in c["regimes"]))
    return templates.get_template("page.html.j2").render(
        lines=text.splitlines(),
        content=content,
        regimes=regimes,
        bibtex=bibtex,
        figure=f"data:image/png;base64,{base64.b64encode(figure).decode()}",
    )


def _number(value: float | None) -> str:
    return "∞" if value is None else f"{value:.3g}"


def _value(value: Any) -> str:
    """A parameter: a number, or numbers."""
    if isinstance(value, list):
        return f"[{', '.join(_value(each) for each in value)}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
