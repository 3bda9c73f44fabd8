"""`citation`: BibTeX entries for mesalens, papers and the methods behind a result.

`references.bib` has all entries; this file says which of them a name stands for.
"""

import re
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, Protocol, runtime_checkable

from mesalens.checks import InputError, with_near_names

ALL = "all"
"""The name that stands for every entry."""

SOURCES = {
    "mesalens-2026": "mesalens",
    "identification": "schuirmann-1987 white-1982",
    "confidence-set": "hansen-2011",
    "gradient-descent": "von-oswald-2023",
    "gradient-descent-rates": "von-oswald-2023",
    "descent-from-weights": "von-oswald-2023",
    "gd-plus-plus": "von-oswald-2023",
    "gd-plus-plus-rates": "von-oswald-2023",
    "preconditioned-step": "ahn-2023 mahankali-2023",
    "centred-descent": "he-2025",
    "chebyshev-descent": "saad-2003",
    "conjugate-gradient": "hestenes-1952",
    "newton-schulz": "schulz-1933 fu-2024",
    "principal-components": "massy-1965 hastie-2009",
    "least-squares-with-intercept": "hastie-2009",
    "ridge-with-intercept": "hastie-2009",
    "discrete-bayes": "raventos-2023",
    "kernel-ridge": "saunders-1998 rasmussen-2006",
    "kernel-smoother": "nadaraya-1964 watson-1964",
    "softmax-head": "nadaraya-1964 watson-1964 tsai-2019",
    "nearest-neighbours": "fix-1951 cover-1967",
    "lasso": "tibshirani-1996 friedman-2010 lee-2006",
    "online-descent": "widrow-1960 schlag-2021",
    "logistic-descent": "bishop-2006",
    "linear-transformer": "von-oswald-2023",
}
"""The keys of the entries behind a study, a method, or an algorithm by its name."""

UNSOURCED = {
    "ridge": "hastie-2009",
    "least-squares": "hastie-2009",
    "bayes": "bishop-2006",
    "weighted-ridge": "",
    "constant": "",
    "zero": "",
    "mean-label": "",
    "averaging": "",
    "momentum": "",
    "transformer": "",
}
"""Algorithms without an entry of their own; each with a textbook that has it, if one is here."""


@runtime_checkable
class Cited(Protocol):
    """What can be cited beside a name: a study, a report, an identification."""

    @property
    def references(self) -> tuple[str, ...]:
        """Names, or entries as they are."""
        ...


def citation(*names: Any) -> str:
    """BibTeX entries for mesalens and for the papers behind what is given, each entry once.

        print(mesalens.citation("wu-2024", "newton-schulz"))

    Args:
        *names: Studies by name or as they are, reports of `Session.reproduce`, identifications,
            algorithms by the names that they have on the command line, keys of entries, or "all".
            An algorithm that is in textbooks only, such as ridge, adds no entry.

    Returns:
        The entries, with mesalens first.

    Raises:
        ValueError: for an unknown name, with the nearest ones, or a value of another kind.
    """
    known = _entries()
    given: list[str] = ["mesalens"]
    for name in names:
        if not isinstance(name, str | Cited):
            raise InputError(
                "citation takes names, studies, reports and identifications; got a value of type "
                f"{type(name).__name__}."
            )
        given += [name] if isinstance(name, str) else name.references
    chosen: dict[str, str] = {}
    for name in given:
        if name.startswith("@"):
            chosen[name] = name
            continue
        if name in UNSOURCED:
            continue
        keys = known if name == ALL else SOURCES.get(name, name).split()
        for key in keys:
            if key not in known:
                raise InputError(_unknown(key))
            chosen[key] = known[key]
    return "\n\n".join(chosen.values()) + "\n"


def _unknown(name: str) -> str:
    """The sentence for an unknown name, with those that are near."""
    names = [each for group in names_to_cite().values() for each in group]
    missing = f"there is no name to cite {name!r}"
    sentence = with_near_names(missing, name, names)
    if sentence.endswith("?"):
        return sentence
    return f"{missing}; mesalens cite --list lists all."


def names_to_cite() -> dict[str, list[str]]:
    """All names that `citation` takes, in groups."""
    return {
        "everything": [ALL],
        "papers and books": list(_entries()),
        "studies, algorithms and methods": sorted({*SOURCES, *UNSOURCED}),
    }


def sources(names: Iterable[str]) -> tuple[str, ...]:
    """Those of some algorithms that have a source."""
    return tuple(name for name in names if name in SOURCES)


def study_reference(study: Mapping[str, Any]) -> str:
    """What to cite of a study: its name, or an entry of its own if its paper is not known here.

    Args:
        study: `study`, the name, with `title` and `citation`.
    """
    name = study["study"]
    if name in SOURCES or name in _entries():
        return name
    fields = {"title": study["title"], "note": study["citation"]}
    lines = [f"  {field:<5} = {{{_escaped(text)}}}," for field, text in fields.items()]
    return "\n".join([f"@misc{{{re.sub(r'[^A-Za-z0-9-]+', '-', name)},", *lines, "}"])


def _entries() -> dict[str, str]:
    """All entries by their keys; blank lines part them."""
    text = resources.files("mesalens").joinpath("references.bib").read_text(encoding="ascii")
    return {each.split("{", 1)[1].split(",", 1)[0]: each for each in text.strip().split("\n\n")[1:]}


def _escaped(text: str) -> str:
    """Text as BibTeX and LaTeX take it."""
    words = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return re.sub(r"[\\{}%&$#_~^]", lambda found: words.get(found[0], f"\\{found[0]}"), text)
