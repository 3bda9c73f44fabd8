"""The answer of `identify` in words."""

from typing import Any

import numpy as np

from mesalens.display import Summary
from mesalens.identification.decision import BLIND

MOST_PROMPTS = 10_000_000
"""The largest number of prompts that a message recommends."""


def text(report: Any) -> str:
    """A few lines: what the learner runs, with parameters and intervals, or why nothing fits."""
    lines = [_answer(report)]
    table, margin = report.dataset, report.about["margin"]
    if report.verdict == "named":
        lines += _parameters(report, report.name)
        worst = table.high.sel(candidate=report.name)
        where = str(worst.regime.values[int(np.argmax(worst.values))])
        lines.append(
            f"  distance below {_share(float(worst.max()))} of what the context explains in each "
            f"of {table.regime.size} regimes (largest in: {where}); margin {_share(margin)}"
        )
    if report.verdict == "set":
        for name in report.names:
            lines.append(f"  {report.describe(name)}")
        why = report.why_not
        lines.append(
            f"  They differ most on prompts of the regime {why['regime']}, by "
            f"{_share(why['distance'])} of what the context explains."
        )
    if report.verdict == "in-distribution-only":
        for name in report.names:
            rows = table.sel(candidate=name)
            failed = [str(r) for r in table.regime.values if rows.equivalent.sel(regime=r) == 0]
            lines.append(f"  {report.describe(name)}: differs in {', '.join(failed)}")
    if report.verdict in ("none", "inconclusive"):
        nearest = report.nearest
        share = f"{_interval(nearest['share'], 100.0)} %"
        if nearest["share"].high <= 0:
            share = "nothing"
        lines.append(
            f"  nearest: {report.describe(nearest['name'])}; it accounts for {share} of what the "
            "context explains"
        )
    if report.verdict == "inconclusive":
        needed = 2 * report.decision.pairs
        more = (
            f"about {needed:,} prompts in each regime would probably decide it"
            if needed <= MOST_PROMPTS
            else "a few prompts make up most of the distance, so more prompts would hardly help"
        )
        lines.append(f"  undecided: {', '.join(report.decision.open)}; {more}")
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
        lines.append(f"  {name} is the same here as, or contained in: {', '.join(others)}")
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
        parts = (f"{', '.join(names)} ({why})" for why, names in regimes.items())
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
        "inconclusive": lambda: "Undecided with this number of prompts.",
    }[report.verdict]()


def _parameters(report: Any, name: str) -> list[str]:
    lines = []
    for parameter, found in report.parameters_of(name).items():
        value, (low, high) = np.asarray(found["value"]), map(np.asarray, found["interval"])
        if value.ndim > 1 or value.size > 8:
            numbers = np.array2string(value, precision=4, prefix=" " * 4).replace("\n", "\n  ")
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


def _share(value: float) -> str:
    return f"{100 * value:.2g}%"


def _interval(interval: Any, factor: float = 1.0) -> str:
    value, low, high = (factor * x for x in interval)
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"
