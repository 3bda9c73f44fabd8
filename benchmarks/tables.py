"""What the benchmark prints: rows of cells, exponents and verdicts from plain values."""

from typing import Any

from limits import Spread
from rich.table import Table

SIZES = {"L": "layers", "n": "context_length", "d": "dim", "seeds": "seeds", "batch": "batch_size"}


def columns(*heads: str) -> Table:
    """An empty table of numbers."""
    table = Table(*heads, box=None, pad_edge=False)
    for column in table.columns:
        column.justify, column.no_wrap = "right", True
    return table


def speed_table(results: list[dict[str, Any]]) -> Table:
    """One row a cell: time of a step in both ways, their ratio, and prompts a second."""
    table = columns(
        *SIZES,
        "mesalens\nms/step",
        "textbook\nms/step",
        "ratio",
        "target",
        "mesalens\nprompts/s",
        "textbook\nprompts/s",
    )
    for result in results:
        ours, theirs = result["mesalens"], result["textbook"]
        ran = "not_run" not in theirs
        table.add_row(
            *sizes(result),
            with_spread(ours["ms_per_step"], ".2f"),
            with_spread(theirs["ms_per_step"], ".1f") if ran else theirs["not_run"],
            with_spread(result["ratio"], ".1f") if ran else "-",
            verdict(result["ratio"], at_least=result.get("target")) if ran else "",
            f"{ours['prompts_per_second']:,.0f}",
            f"{theirs['prompts_per_second']:,.0f}" if ran else "-",
        )
    return table


def cost_table(results: list[dict[str, Any]], *, gpu: bool) -> Table:
    """One row a cell: compilation, memory, what a step takes of the machine and the share of its
    limits; on a GPU with a target.
    """
    heads = ["compile s\nmesalens", "compile s\ntextbook", "MB\nmesalens", "MB\ntextbook"]
    heads += [
        "MFLOP\na step",
        "of the\nlimit",
        "MB moved\na step",
        "of the\nlimit",
        "MB needed\na step",
        "of the\nlimit",
    ]
    table = columns(*SIZES, *heads, *(["target"] if gpu else []))
    for result in results:
        ours, theirs, cost, share = (
            result[name] for name in ("mesalens", "textbook", "cost", "shares")
        )
        ran = "not_run" not in theirs
        table.add_row(
            *sizes(result),
            f"{ours['compile_seconds']:.1f}",
            f"{theirs['compile_seconds']:.1f}" if ran else "-",
            f"{ours['memory_bytes'] / 1e6:,.1f}",
            f"{theirs['memory_bytes'] / 1e6:,.1f}" if ran else "-",
            f"{cost['flops'] / 1e6:,.1f}",
            f"{share['flops']:.2g}",
            f"{cost['bytes_accessed'] / 1e6:,.1f}",
            f"{share['bytes_accessed']:.2g}",
            f"{cost['bytes_needed'] / 1e6:,.2f}",
            f"{share['bytes_needed']:.2g}",
            *([at_limit(share["bytes_needed"], at_least=0.5)] if gpu else []),
        )
    return table


def exponent_table(fits: list[dict[str, Any]]) -> Table:
    """One row a fit: what varied, what did not, and the exponent."""
    table = columns("cost in", "over", "at", "mesalens", "target", "textbook", "over")
    for fit in fits:
        theirs = fit["textbook"]
        table.add_row(
            fit["axis"],
            ", ".join(f"{size:,}" for size in fit["sizes"]),
            fit["at"],
            with_spread(fit["mesalens"], ".2f"),
            verdict(fit["mesalens"], at_most=fit["target"]),
            "-" if theirs is None else with_spread(theirs, ".2f"),
            "-" if theirs is None else ", ".join(f"{size:,}" for size in fit["textbook_sizes"]),
        )
    return table


def growth_table(results: list[dict[str, Any]], size: str, targets: dict[int, float]) -> Table:
    """One row a cell: its time over that of the first of its group, round by round."""
    table = columns(
        size,
        "ms/step",
        "over the first",
        *(["target"] if targets else []),
        "prompts/s",
        "compile s",
        "MB",
    )
    for result in results:
        ours, at = result["mesalens"], result[SIZES[size]]
        table.add_row(
            f"{at:,}",
            with_spread(ours["ms_per_step"], ".2f"),
            with_spread(result["over_first"], ".2f"),
            *([verdict(result["over_first"], at_most=targets.get(at))] if targets else []),
            f"{ours['prompts_per_second']:,.0f}",
            f"{ours['compile_seconds']:.1f}",
            f"{ours['memory_bytes'] / 1e6:,.1f}",
        )
    return table


def sizes(result: dict[str, Any]) -> list[str]:
    """The cell of a row."""
    return [f"{result[name]:,}" for name in SIZES.values()]


def with_spread(values: Spread, form: str) -> str:
    """A median and its range over rounds."""
    return f"{values['median']:{form}} [{values['min']:{form}}..{values['max']:{form}}]".replace(
        "[", r"\["
    )


def verdict(values: Spread, *, at_least: float | None = None, at_most: float | None = None) -> str:
    """The bound that is wanted, and whether the median is on its right side; nothing where there is
    none.
    """
    if at_least is not None:
        return at_limit(values["median"], at_least=at_least)
    if at_most is not None:
        return f"<= {at_most:g}: {'met' if values['median'] <= at_most else 'MISSED'}"
    return ""


def at_limit(value: float, *, at_least: float) -> str:
    """The least value that is wanted, and whether this is one."""
    return f">= {at_least:g}: {'met' if value >= at_least else 'MISSED'}"
