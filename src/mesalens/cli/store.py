"""`mesalens store`."""

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from rich.table import Table

from mesalens.checks import InputError, positive
from mesalens.cli.options import POSITIONAL, WORDS, Command, Folder
from mesalens.cli.output import console, print_json
from mesalens.store import Entry
from mesalens.store import Store as Results


class Store(Command):
    """Shows or deletes stored results.

      mesalens store                        lists them
      mesalens store show ADDRESS           shows how a result was made
      mesalens store clear ADDRESS …        deletes results
      mesalens store clear --older-than 30  deletes results by age

    The first letters of an address are enough.
    """

    action: Annotated[Literal["list", "show", "clear"], POSITIONAL] = "list"
    """list, show or clear"""
    addresses: Annotated[tuple[str, ...], POSITIONAL, WORDS] = ()
    """addresses of results, or their first letters"""
    older_than: float | None = None
    """with clear: delete results older than this many days"""
    all_: bool = False
    """with clear: delete all results"""
    store: Folder | None = None
    """folder of stored results; by default in the user's cache folder"""

    def __call__(self) -> int:
        """Shows or deletes results."""
        results = Results(self.store)
        if self.action == "show":
            if not self.addresses:
                raise InputError("show needs an address; `mesalens store` lists the addresses.")
            shown = [results.entry(address) for address in self.addresses]
            print(json.dumps([_content(e) | dict(e.about) for e in shown], indent=2))
            return 0
        if self.action == "clear":
            return self._clear(results)
        entries = list(results.entries())
        if self.json_:
            content = [_content(entry) for entry in entries]
            print_json({"store": str(results.folder), "results": content})
            return 0
        table = Table("address", "what", "made", "kB", "mesalens")
        for entry in sorted(entries, key=lambda e: e.about["made"]):
            row = _content(entry)
            size = f"{row['bytes'] / 1e3:.0f}"
            table.add_row(row["address"][:12], row["what"], row["made"][:16], size, row["mesalens"])
        console().print(table)
        size = sum(entry.bytes for entry in entries) / 1e6
        print(f"{len(entries)} results, {size:.1f} MB, in {results.folder}")
        return 0

    def _clear(self, results: Results) -> int:
        if not (self.addresses or self.all_ or self.older_than is not None):
            raise InputError("clear needs addresses, --older-than DAYS or --all.")
        chosen = [results.entry(address) for address in self.addresses]
        if self.all_ or self.older_than is not None:
            days = positive("older_than", self.older_than) if self.older_than is not None else 0
            limit = datetime.now(UTC) - timedelta(days=days)
            chosen += [
                entry
                for entry in results.entries()
                if self.all_ or datetime.fromisoformat(entry.about["made"]) < limit
            ]
        chosen = list({entry.address: entry for entry in chosen}.values())
        size = sum(entry.bytes for entry in chosen) / 1e6
        for entry in chosen:
            results.remove(entry)
        print(f"removed {len(chosen)} results, {size:.1f} MB, from {results.folder}")
        return 0


def _content(entry: Entry) -> dict[str, Any]:
    about = entry.about
    what = about.get("experiment") or about.get("result") or about["kind"]
    seed = about.get("seed")
    words = f"{about.get('study', '')}/{what}" + ("" if seed is None else f", seed {seed}")
    return {
        "address": entry.address,
        "kind": about["kind"],
        "what": words,
        "made": about["made"],
        "bytes": entry.bytes,
        "mesalens": about["environment"]["mesalens"],
        "commit": about["commit"],
    }
