"""`page`: an identification as one HTML file that loads no other files."""

import base64
from typing import Any

import jinja2


def page(title: str, text: str, content: dict[str, Any], figure: bytes, bibtex: str) -> str:
    """The page.

    Args:
        title: The title of the page, a few words.
        text: The answer in words.
        content: The content of `identification.json`.
        figure: The figure as PNG.
        bibtex: BibTeX of what the report uses.
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
        title=title,
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
