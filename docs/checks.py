"""What the built site must not have: parts from elsewhere, figures without a text, dead links,
and formulas with other characters than LaTeX has.
"""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, Tag

LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
"""Elements that a browser loads without being asked, and where they say what."""


def faults(site: Path) -> list[str]:
    """One sentence for each fault of the pages in a folder."""
    pages = {
        file: BeautifulSoup(file.read_text("utf-8"), "html.parser")
        for file in sorted(site.rglob("*.html"))
    }
    anchors = {file: {tag["id"] for tag in page.find_all(id=True)} for file, page in pages.items()}
    return [
        f"{file.relative_to(site)}: {fault}"
        for file, page in pages.items()
        for fault in (
            *_from_elsewhere(page),
            *_without_text(page),
            *_unusual(page),
            *_dead(file, page, anchors),
        )
    ]


def _from_elsewhere(page: BeautifulSoup) -> Iterator[str]:
    for name, attribute in LOADED.items():
        for tag in page.find_all(name):
            address = urlsplit(str(tag.get(attribute, "")))
            if (address.netloc or address.scheme in ("http", "https")) and _is_loaded(tag):
                yield f"loads {tag[attribute]}"


def _is_loaded(tag: Tag) -> bool:
    """Whether a browser fetches it: of links, those to styles, icons and the like."""
    return tag.name != "link" or not {"canonical", "alternate"} & set(tag.get_attribute_list("rel"))


def _without_text(page: BeautifulSoup) -> Iterator[str]:
    for image in page.find_all("img"):
        if not str(image.get("alt", "")).strip():
            yield f"the figure {image.get('src', '')[:60]} has no text"
    for frame in page.find_all("iframe"):
        if not frame.get("title"):
            yield "a frame has no title"


def _unusual(page: BeautifulSoup) -> Iterator[str]:
    """Characters in formulas that KaTeX has no command for, and draws in another font."""
    for formula in page.select(".arithmatex"):
        if not formula.get_text().isascii():
            yield f"the formula {formula.get_text()} has more than ASCII"


def _dead(file: Path, page: BeautifulSoup, anchors: dict[Path, set]) -> Iterator[str]:
    for tag in page.find_all(["a", "img", "script", "link", "iframe"]):
        address = urlsplit(str(tag.get("href") or tag.get("src") or ""))
        if address.scheme or address.netloc or address.path.startswith("/"):
            continue
        target = (file.parent / unquote(address.path)).resolve() if address.path else file
        target = target / "index.html" if target.is_dir() else target
        fragment = unquote(address.fragment)
        drawn = fragment.startswith(("__", "tab="))  # by scripts
        if not target.exists():
            yield f"links to {address.path}, which is not there"
        elif fragment and not drawn and fragment not in anchors.get(target, {fragment}):
            yield f"links to {address.path}#{fragment}, which is not there"
