"""The page of the benchmark, from what was measured: `page/benchmarks.md` is its template."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from results import AXES, Results, divided, seconds_of
from targets import TARGETS

TEMPLATE = Path(__file__).parent / "page" / "benchmarks.md"
WAYS = ("mesalens", "textbook", "PyTorch", "PyTorch compiled")
NOT_MEASURED = "not measured"

CELLS = (
    "depth",
    "width, one layer",
    "width, five layers",
    "length, one layer",
    "length, five layers",
)
"""Parts that train layers of linear self-attention in several ways."""

LIMIT_OF = {"flops": "flops", "bytes_accessed": "bytes", "bytes_needed": "bytes"}
"""The limit of the machine to which each cost of a step is compared."""


class Page:
    """The tables of the page, in Markdown."""

    def __init__(self, results: Results):
        self.results = results

    def text(self) -> str:
        """The whole page."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATE.parent),
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
            trim_blocks=True,
        )
        return environment.get_template(TEMPLATE.name).render(page=self, cells=CELLS)

    def targets(self) -> str:
        """What is to be reached, before and now."""
        rows = []
        for target in TARGETS:
            values, met = target.values(self.results), target.met(self.results)
            sign = "≥" if target.at_least else "≤"
            bound = "measured" if target.bound is None else f"{sign} {target.bound:g}"
            verdict = {True: "met", False: "**MISSED**", None: ""}[met]
            rows.append([target.case, target.before, spread(values), target.unit, bound, verdict])
        return table(["case", "before", "now", "unit", "to reach", ""], rows)

    def missed(self) -> str:
        """How many targets are met, and which are not, in words."""
        met = {target.case: target.met(self.results) for target in TARGETS if target.bound}
        missed = [case for case, is_met in met.items() if is_met is False]
        unknown = [case for case, is_met in met.items() if is_met is None]
        words = [f"{len(met) - len(missed) - len(unknown)} of {len(met)} targets are met"]
        words += [f"Missed: {'; '.join(missed)}"] if missed else []
        words += [f"Not measured: {'; '.join(unknown)}"] if unknown else []
        return ". ".join(words)

    def times(self, *parts: str) -> str:
        """Milliseconds a step of each way."""
        rows = self._rows(*parts)
        ways = [way for way in WAYS if any(way in row["ways"] for row in rows)]
        return table(
            ["case", *(f"{way}, ms/step" for way in ways)],
            [[row["name"], *(self._milliseconds(row, way) for way in ways)] for row in rows],
        )

    def ratios(self, *parts: str) -> str:
        """Times of the other ways over those of mesalens, round by round."""
        rows = self._rows(*parts)
        ways = [way for way in WAYS[1:] if any(way in row["ways"] for row in rows)]

        def ratio(row: dict[str, Any], way: str) -> str:
            values = divided(seconds_of(row, way), seconds_of(row, "mesalens"))
            return "–" if values is None else spread(values)

        return table(
            ["case", *(f"{way} / mesalens" for way in ways), "mesalens, prompts/s"],
            [
                [row["name"], *(ratio(row, way) for way in ways), prompts_per_second(row)]
                for row in rows
            ],
        )

    def memory(self, *parts: str) -> str:
        """Compiling and memory of each way."""
        rows = self._rows(*parts)
        compiled = ("mesalens", "textbook", "PyTorch compiled")
        kept = ("mesalens", "textbook", "PyTorch")
        return table(
            [
                "case",
                *(f"{way}, MB" for way in kept),
                *(f"{way}, s to compile" for way in compiled),
            ],
            [
                [
                    row["name"],
                    *(quantity(row, way, "memory", 1e-6) for way in kept),
                    *(quantity(row, way, "compile_seconds") for way in compiled),
                ]
                for row in rows
            ],
        )

    def shares(self, *parts: str) -> str:
        """What a step takes of the machine, and the shares of its limits."""
        rows = []
        for row in self._rows(*parts):
            cells = [row["name"]]
            for name in LIMIT_OF:
                cells += [number(1e-6 * row["cost"][name]), self.share(row["name"], name)]
            rows.append([*cells, self.share(row["name"], "drawing")])
        heads = ["case", "MFLOP", "share", "MB moved", "share", "MB needed", "share"]
        return table([*heads, "drawing prompts, share of time"], rows)

    def share(self, name: str, of: str) -> str:
        """The share of a limit that a row reaches: `flops`, `bytes_accessed`, `bytes_needed`; or
        the share of its time that `drawing` prompts takes.
        """
        for part in CELLS:
            for row in self.results.rows(part):
                seconds = seconds_of(row, "mesalens")
                if row["name"] != name or seconds is None:
                    continue
                if of == "drawing":
                    drawn = seconds_of(row, "drawing")
                    return "–" if drawn is None else f"{np.median(drawn / seconds):.2g}"
                peak = self.results.parts[part]["limits"][LIMIT_OF[of]]
                return f"{row['cost'][of] / np.median(seconds) / peak:.2g}"
        return NOT_MEASURED

    def machine_limits(self, *parts: str) -> str:
        """The range over parts of what the machine did at most, in words."""
        found = [self.results.parts[part]["limits"] for part in parts if part in self.results.parts]
        if not found:
            return NOT_MEASURED
        flops, moved = ([1e-9 * limits[name] for limits in found] for name in ("flops", "bytes"))
        return (
            f"{min(flops):,.0f} to {max(flops):,.0f} GFLOP/s in a product of large float32 "
            f"matrices, and {min(moved):,.1f} to {max(moved):,.1f} GB/s to and from memory"
        )

    def growth(self) -> str:
        """The exponents of time in each size."""
        rows = []
        for axis in AXES:
            found = [axis.exponent(self.results, way) for way in WAYS[:2]]
            ours, theirs = found
            sizes = "–" if ours is None else ", ".join(f"{size:,}" for size in ours.sizes)
            bound, fitted = "", str(ours or NOT_MEASURED)
            if axis.target is not None:
                bound = f"≤ {axis.target:g}"
                if ours is not None:
                    bound += ": met" if ours.mean <= axis.target else ": **MISSED**"
            other = "–" if theirs is None else str(theirs)
            if theirs is not None and ours is not None and theirs.sizes != ours.sizes:
                other += f" up to {theirs.sizes[-1]:,}"
            rows.append([axis.of, sizes, axis.at, fitted, bound, other])
        return table(["time in", "over", "at", "mesalens", "target", "textbook"], rows)

    def over_first(self, part: str) -> str:
        """Times of mesalens over those of the first row."""
        rows = self.results.rows(part)
        return table(
            ["case", "ms/step", "over the first", "prompts/s", "s to compile", "MB"],
            [
                [
                    row["name"],
                    self._milliseconds(row, "mesalens"),
                    spread(divided(seconds_of(row, "mesalens"), seconds_of(rows[0], "mesalens"))),
                    prompts_per_second(row),
                    quantity(row, "mesalens", "compile_seconds"),
                    quantity(row, "mesalens", "memory", 1e-6),
                ]
                for row in rows
            ],
        )

    def long_contexts(self) -> str:
        """The memory of a gradient on whole contexts, in words."""
        memory = self.results.parts.get("contexts", {}).get("memory_of_long_contexts")
        if memory is None:
            return NOT_MEASURED
        ours, theirs = (f"{1e-6 * memory[way]:,.1f} MB" for way in ("mesalens", "textbook"))
        return f"mesalens {ours}, textbook {theirs}"

    def commands(self, *parts: str) -> str:
        """Seconds and memory of whole commands."""
        rows = []
        for row in self._rows(*parts):
            counts = Counter(row.get("outcomes", {}).values())
            verdicts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
            more = row.get("answer") or verdicts
            for way, found in row["ways"].items():
                seconds = found.get("not_run") or spread(np.array(found["seconds"]))
                rows.append([row["name"], way, seconds, quantity(row, way, "memory", 1e-6), more])
        return table(["", "", "seconds", "MB", "answer"], rows)

    def generators(self) -> str:
        """Milliseconds of a draw and of a step with each generator."""
        rows = self.results.rows("generators")
        names = list(rows[0]["ways"]) if rows else []
        return table(
            ["ms", *names],
            [[row["name"], *(self._milliseconds(row, name) for name in names)] for row in rows],
        )

    def pools(self) -> str:
        """Times of training on a pool of tasks and on one task."""
        cells = []
        for row in self.results.rows("pools"):
            for way, found in row["ways"].items():
                moments = number(found["moments_seconds"])
                cells.append([row["name"], way, self._milliseconds(row, way), moments])
        return table(["", "", "ms/step", "moments, s"], cells)

    def pool_over_one(self) -> str:
        """The ratio of the two."""
        row = next((row["name"] for row in self.results.rows("pools")), "")
        return spread(self.results.ratio("pools", row, "pool", "one Gaussian task"))

    def conditions(self) -> str:
        """Where, when and with what each part was measured."""
        groups: dict[str, list[str]] = {}
        for part, found in self.results.parts.items():
            known = {n: v for n, v in found["conditions"].items() if n not in ("date", "seconds")}
            words = "; ".join(f"{name}: {value}" for name, value in known.items() if value)
            date, seconds = (found["conditions"][name] for name in ("date", "seconds"))
            groups.setdefault(words, []).append(f"{part} ({date}, {seconds:,.0f} s)")
        return "\n\n".join(f"{'; '.join(of)}: {words}." for words, of in groups.items())

    def _rows(self, *parts: str) -> list[dict[str, Any]]:
        """The rows of the parts; the first of those with the same name."""
        rows: dict[str, dict[str, Any]] = {}
        for part in parts:
            for row in self.results.rows(part):
                rows.setdefault(row["name"], row)
        return list(rows.values())

    def _milliseconds(self, row: dict[str, Any], way: str) -> str:
        seconds = seconds_of(row, way)
        if seconds is None:
            return row["ways"].get(way, {}).get("not_run", "–")
        return spread(1e3 * seconds)


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A table, or words that there is none."""
    if not rows:
        return "Not measured."
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: np.ndarray | None) -> str:
    """A median and its range over rounds."""
    if values is None:
        return NOT_MEASURED
    median = number(np.median(values))
    return (
        median if len(values) == 1 else f"{median} [{number(values.min())}..{number(values.max())}]"
    )


def number(value: Any) -> str:
    """Three digits, without an exponent; more where the number has more before the point."""
    digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def quantity(row: dict[str, Any], way: str, name: str, scale: float = 1.0) -> str:
    """A number of a way, or a dash."""
    value = row["ways"].get(way, {}).get(name)
    return "–" if value is None else number(scale * value)


def prompts_per_second(row: dict[str, Any]) -> str:
    """How many prompts mesalens trains on in a second."""
    seconds = seconds_of(row, "mesalens")
    if seconds is None or "batch_size" not in row:
        return "–"
    return f"{row['seeds'] * row['batch_size'] / np.median(seconds):,.0f}"
