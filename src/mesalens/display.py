"""How objects show themselves: in one line for `repr`, and as a table in a notebook."""

import base64
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax.core
import numpy as np
import wadler_lindig

MOST_CHARACTERS = 300
"""Of a value in a table; the rest is left out."""

# Colours are those of the notebook, so that it may be dark
TEMPLATE = """\
<div style="max-width: 60em">
<p style="margin: 0.3em 0"><strong>{{ name }}</strong>{% if title %}: {{ title }}{% endif %}</p>
{% for line in lines %}<p style="margin: 0.1em 0">{{ line }}</p>
{% endfor %}{% if rows %}<table style="margin: 0.3em 0"><tbody>
{% for key, value in rows.items() %}<tr><th scope="row" style="{{ cell }}">{{ key }}</th>\
<td style="{{ cell }}">{{ value }}</td></tr>
{% endfor %}</tbody></table>{% endif %}
{% if head %}<table style="margin: 0.3em 0"><thead><tr>
{% for word in head %}<th scope="col" style="{{ cell }}">{{ word }}</th>
{% endfor %}</tr></thead><tbody>
{% for row in body %}<tr>{% for value in row %}<td style="{{ cell }}">{{ value }}</td>{% endfor %}\
</tr>
{% endfor %}</tbody></table>{% endif %}
{% if svg %}<img src="data:image/svg+xml;base64,{{ svg }}" alt="{{ alt }}" \
style="max-width: 100%; background: white">{% endif %}
</div>"""
CELL = "text-align: left; vertical-align: top; padding: 0.2em 0.6em"


@dataclass(frozen=True)
class Summary:
    """What a person needs to know of an object.

    Attributes:
        title: in one line.
        rows: more of it, by names.
        head: of a further table, if it has one.
        body: the rows of that table.
        lines: further sentences.
        svg: what draws an image, for notebooks alone.
        alt: what one sees on the image.
    """

    title: str = ""
    rows: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    head: Sequence[str] = ()
    body: Sequence[Sequence[Any]] = ()
    lines: Sequence[str] = ()
    svg: Callable[[], bytes] | None = None
    alt: str = ""


class InNotebook:
    """A base of what is a table in a notebook: of its fields, if it has no other `_summary`."""

    def _summary(self) -> Summary:
        return Summary(rows=fields(self))

    def _repr_html_(self) -> str:
        return html(type(self).__name__, self._summary())


class Described(InNotebook):
    """A base of what has one line as `repr`, its title, and a table in a notebook."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._summary().title})"


def html(name: str, summary: Summary) -> str:
    """A table for a notebook; all text is escaped."""
    svg = b"" if summary.svg is None else summary.svg()
    return _template().render(
        name=name,
        title=summary.title,
        rows={key: value for key, value in summary.rows.items() if str(value)},
        head=summary.head,
        body=summary.body,
        lines=summary.lines,
        svg=base64.b64encode(svg).decode(),
        alt=summary.alt,
        cell=CELL,
    )


def fields(thing: Any) -> dict[str, str]:
    """The fields of a dataclass with their values in a line, but for those left at their default.

    Of arrays it is the shape, of arrays without dimensions the number.
    """
    found = {}
    for field in dataclasses.fields(thing):
        value, default = getattr(thing, field.name), field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if field.repr and not (value is default or _same(value, default)):
            text = wadler_lindig.pformat(value, width=10**9, custom=number)
            short = text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"
            found[field.name.replace("_", " ")] = short
    return found


def number(leaf: Any) -> wadler_lindig.AbstractDoc | None:
    """For Wadler-Lindig: a number as text; other arrays, and traced numbers, have their shapes."""
    if not eqx.is_inexact_array(leaf) or leaf.shape or isinstance(leaf, jax.core.Tracer):
        return None
    return wadler_lindig.TextDoc(f"{float(leaf):.7g}")


def _same(value: Any, default: Any) -> bool:
    plain = isinstance(value, bool | int | float | str | tuple | eqx.Module)
    return plain and type(value) is type(default) and bool(eqx.tree_equal(value, default))


def spread(values: Any, digits: int = 4) -> str:
    """Numbers in words: their mean, and the least and the greatest if there are several."""
    finite = np.asarray(values, float).ravel()
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return "no finite value"
    mean, low, high = (f"{x:.{digits}g}" for x in (finite.mean(), finite.min(), finite.max()))
    return mean if finite.size == 1 else f"{mean} ({low} to {high})"


@functools.cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(TEMPLATE)
