"""The answer of `identify` in words."""

from typing import Any

import numpy as np

from mesalens.display import Summary
from mesalens.identification.decision import BLIND
from mesalens.identification.prompts import MOST_PROMPTS
from mesalens.identification.regimes import TASK

ROUNDING = 1e-9
"""Below this share of what the context explains, a distance is one of rounding errors."""


def text(report: Any) -> str:
    """A few lines: what the learner runs, with parameters and intervals, or why nothing fits."""
    lines = [_answer(report)]
    table, margin = report.dataset, report.about["margin"]
    if report.verdict == "named":
        lines += _parameters(report, report.name)
        below, where = _worst(table, report.name)
        lines.append(
            f"  distance {below} of what the context explains in each "
            f"of {table.regime.size} regimes{where}; margin {_share(margin)}"
        )
    if report.verdict == "set":
        for name in report.names:
            below, where = _worst(table, name)
            lines.append(f"  {report.describe(name)}: distance {below}{where}")
        why = report.why_not
        lines.append(
            f'  They differ most on prompts of the regime "{why["regime"]}", by '
            f"{_share(why['distance'])} of what the context explains; margin {_share(margin)}"
        )
    if report.verdict == "in-distribution-only":
        for name in report.names:
            lines.append(f"  {report.describe(name)}: {differences(table, name, margin)}")
        lines.append(f"  margin {_share(margin)} of what the context explains")
    if report.verdict in ("none", "inconclusive"):
        nearest = report.nearest
        share = f"{_interval(nearest['share'], 100.0)} %"
        if nearest["share"].high <= 0:
            share = "nothing"
        lines.append(
            f"  nearest: {report.describe(nearest['name'])}; it accounts for {share} of what the "
            f"context explains, and {_share(1 - margin)} are needed"
        )
    if report.verdict == "inconclusive":
        open_ = [_where_open(table, name, margin) for name in report.decision.open]
        lines.append(f"  candidates that are undecided: {', '.join(open_)}")
        lines.append(f"  {_more_prompts(report)}")
    if report.verdict in ("none", "inconclusive", "set") and len(report.confidence_set) > 1:
        which = ", ".join(report.confidence_set)
        level = f"{100 * report.about['level']:g}%"
        lines.append(
            f"  the nearest on the task itself, with confidence {level}, is one of: {which}"
        )
    if report.mixture and len(report.mixture) > 1:
        parts = [f"{_interval(w)} {name}" for name, w in report.mixture.items()]
        lines.append(f"  nearest mixture: {' + '.join(parts)}")
    for name, others in report.decision.also.items():
        gives, contains = ("give", "contain") if len(others) > 1 else ("gives", "contains")
        lines.append(
            f"  {', '.join(others)} {gives} the same predictions here, or {contains} {name}"
        )
    lines += _properties(report)
    if report.fingerprint is not None and report.filter is None:
        lines.append(f"  no spectral filter: {report.no_filter}")
    if report.filter is not None and len(report.filter.values) > 1:
        lines.append(f"  spectral filters after each of {len(report.filter.values)} layers")
    if report.exact:
        lines.append(f"  exact on the task itself, from moments: {', '.join(report.exact)}")
    if not report.deterministic:
        lines.append(
            f"  not deterministic: predictions for the same prompt differ by "
            f"{_share(report.noise)} of what the context explains"
        )
    regimes: dict[str, list[str]] = {}
    for name, why in report.left_out.items():
        if name.startswith("regime "):
            regimes.setdefault(why, []).append(name.removeprefix("regime "))
    if regimes:
        parts = (f"{', '.join(map(_quoted, names))} ({why})" for why, names in regimes.items())
        lines.append(f"  regimes left out: {'; '.join(parts)}")
    lines.append(
        f"  {report.prompts:,} prompts, level {100 * report.about['level']:g}%, "
        f"{report.seconds:.1f} s"
    )
    return "\n".join(lines)


def title(report: Any) -> str:
    """The verdict and the learner in a few words, for the title of a page."""
    verdict = f"{report.verdict}, {report.name}" if report.name else report.verdict
    return f"{_learner(report.about['model'])}: {verdict} (mesalens)"


def _learner(learner: Any) -> str:
    """The name of what a learner was made of: a function, an estimator or a module."""
    own = getattr(learner, "function", learner)
    return getattr(own, "__name__", type(own).__name__)


def summary(report: Any) -> Summary:
    """The answer, a table of the parameters of the named algorithm, the rest of the text, and g."""
    from mesalens.identification.figure import filter_image  # which needs Matplotlib

    answer, *rest = text(report).splitlines()
    body = [
        (name.replace("_", " "), f"{found['value']:.6g}", "{:.6g} to {:.6g}".format(*ends))
        for name, found in report.parameters.items()
        if np.ndim(found["value"]) == 0
        for ends in [found["interval"]]
    ]
    said = _parameters(report, report.name) if body else []
    return Summary(
        answer.rstrip(":."),
        lines=[line.strip() for line in rest if line not in said],
        head=("parameter", "value", "95% interval") if body else (),
        body=body,
        svg=None if report.filter is None else lambda: filter_image(report),
        alt="The measured spectral filter g(λ) beside those of the nearest candidates.",
    )


def _answer(report: Any) -> str:
    return {
        "named": lambda: f"It runs {report.describe(report.name)}.",
        "set": lambda: "It runs one of these algorithms, which this task cannot distinguish:",
        "in-distribution-only": lambda: (
            "It agrees with these on the task itself, but not in all other regimes:"
        ),
        "none": lambda: "It runs none of the known algorithms.",
        "context-blind": lambda: (
            f"Its predictions do not depend on the context: it explains less than {BLIND:g} of "
            "their mean square."
        ),
        "inconclusive": lambda: "Inconclusive: this number of prompts does not decide it.",
    }[report.verdict]()


def _parameters(report: Any, name: str) -> list[str]:
    lines = []
    for parameter, found in report.parameters_of(name).items():
        value, (low, high) = np.asarray(found["value"]), map(np.asarray, found["interval"])
        if value.ndim > 1 or value.size > 8:
            numbers = np.array2string(value, precision=4, prefix=" " * 4)
            lines.append(f"  {parameter.replace('_', ' ')}\n    {numbers}")
        else:
            shown = ", ".join(
                f"{v:.6g} [{a:.6g}, {b:.6g}]"
                for v, a, b in zip(value.ravel(), low.ravel(), high.ravel(), strict=True)
            )
            lines.append(f"  {parameter.replace('_', ' ')} {shown}")
    return lines


def _properties(report: Any) -> list[str]:
    found = report.fingerprint
    if found is None:
        return []
    has = [each.name for each in found.properties if each.holds]
    lacks = [each.name for each in found.properties if each.holds is False]
    open_ = [each.name for each in found.properties if each.holds is None and not each.why]
    lines = [f"  properties: {', '.join(has)}"] if has else []
    lines += [f"  not: {', '.join(lacks)}"] if lacks else []
    lines += [f"  undecided: {', '.join(open_)}"] if open_ else []
    if found.decay is not None:
        lines.append(f"  an example counts {found.decay:.3g} times as much as the one after it")
    return lines


def differences(table: Any, name: str, margin: float) -> str:
    """How far a candidate is on the task, and in the other regimes in which it fails."""
    distances, low = table.distance.sel(candidate=name), table.low.sel(candidate=name)
    far = [str(r) for r in table.regime.values if low.sel(regime=r) > margin]
    parts = [f"{r} ({_share(float(distances.sel(regime=r)))})" for r in far]
    words = f"distance {_share(float(distances.sel(regime=TASK.name)))} on the task itself"
    return f"{words}; it differs in {', '.join(parts)}" if parts else words


def _worst(table: Any, name: str) -> tuple[str, str]:
    """The largest upper end of a candidate's distance, and in which regime it is.

    The regime is left out of rounding errors, which are largest here or there by chance.
    """
    high = table.high.sel(candidate=name)
    largest, where = float(high.max()), high.regime.values[int(np.argmax(high.values))]
    words = f"below {_share(largest)}" if largest else "0"
    return words, f" (largest in: {where})" if largest > ROUNDING else ""


def _where_open(table: Any, name: str, margin: float) -> str:
    """An undecided candidate, with its widest interval that contains the margin."""
    rows = table.sel(candidate=name)
    rows = rows.sel(regime=(rows.low <= margin) & (rows.high >= margin))
    if not rows.regime.size:  # it failed, but once it is fitted again it may pass
        return name
    widest = rows.isel(regime=int(np.argmax(rows.high.values)))
    ends = (100 * float(widest[part]) for part in ("distance", "low", "high"))
    return "{} ({:.3g} [{:.3g}, {:.3g}] % in {})".format(name, *ends, widest.regime.item())


def _more_prompts(report: Any) -> str:
    needed = report.prompts_needed
    if needed is None:
        return (
            "more prompts would hardly decide it, not even the largest number, "
            f"{MOST_PROMPTS:,} in each regime"
        )
    return (
        f"--prompts {needed} (prompts={needed} in Python) may decide it: an estimate from these "
        "prompts, which can be too low"
    )


def _quoted(name: str) -> str:
    return f'"{name}"'


def _share(value: float) -> str:
    return f"{100 * value:.2g}%" if np.isfinite(value) else "infinite"


def _interval(interval: Any, factor: float = 1.0) -> str:
    value, low, high = (factor * x for x in interval)
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"
