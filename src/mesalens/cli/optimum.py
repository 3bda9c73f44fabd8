"""`mesalens optimum`."""

import sys
import warnings
from typing import Annotated, Any

import numpy as np
import tyro

from mesalens import random
from mesalens.checks import positive
from mesalens.cli.device import on
from mesalens.cli.output import Json, print_json
from mesalens.progress import ProgressReport
from mesalens.tasks import LinearFunctions
from mesalens.tasks.settings import TaskSettings
from mesalens.theory import OptimalLsa, bayes_risk, optimal_lsa

WORDS = {
    "gradient-descent": "The best layer of linear self-attention is one step of gradient descent from zero.",
    "preconditioned-gradient-descent": "The best layer of linear self-attention is one step of preconditioned gradient descent from zero.",
    "other": "The best layer of linear self-attention is no step of gradient descent from zero, preconditioned or not.",
}


def optimum(
    settings: Annotated[TaskSettings, tyro.conf.arg(name="")],
    *,
    relative_error: float = 1e-3,
    seed: int = 0,
    json: Json = False,
    device: str | None = None,
) -> int:
    """Says what the best layer of linear self-attention computes on a task, at what risk, and whether that is proved.

    Args:
        settings: the task
        relative_error: wanted of risks that are simulated: where functions are not linear, and of the Bayes risk
        seed: where the random numbers of simulations come from
        json: print JSON alone on standard output
        device: where simulations compute: cpu, gpu, … (JAX's choice by default)
    """
    positive("the relative error", relative_error)
    task, key = settings.task(), random.key(seed)
    with on(device), ProgressReport() as progress, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        best = optimal_lsa(task, key=key, relative_error=relative_error, progress=progress.start)
        bayes = None
        if isinstance(task.functions, LinearFunctions) and not settings.distractors:
            bayes = bayes_risk(task, key=key, relative_error=relative_error)
    for warning in warned:
        print(f"mesalens: {warning.message}", file=sys.stderr)
    if json:
        print_json(_plain(best, bayes, task.context_length))
    else:
        print(_text(best, bayes, task))
    return 0


def _plain(best: OptimalLsa, bayes: Any, context_length: int) -> dict[str, Any]:
    """The keys of `--json`; beside each simulated number its standard error."""

    def with_errors(values: dict[str, Any], errors: dict[str, Any]) -> dict[str, Any]:
        return values | {
            f"{name}_standard_error": np.asarray(errors[name]).tolist() for name in values if name in errors
        }

    numbers = {
        name: getattr(best, name) for name in ("risk", "null_risk", "preconditioner", "step_size", "descent_risk")
    }
    certificate = {name: getattr(best.certificate, name) for name in ("lower_bound", "gap", "method")}
    return with_errors(
        numbers | {"bayes_risk": None if bayes is None else bayes.value},
        best.standard_errors | ({} if bayes is None else {"bayes_risk": bayes.standard_error}),
    ) | {
        "step_size_on_mean_loss": None if best.step_size is None else context_length * best.step_size,
        "implements": best.implements,
        "certificate": with_errors(certificate, best.certificate.standard_errors)
        | {"proves_optimality": best.certificate.proves_optimality, "meaning": best.certificate.meaning},
        "effective_weights": {"A": best.A, "B": best.B},
    }


def _text(best: OptimalLsa, bayes: Any, task) -> str:
    def line(name: str, value: float, error: float | None = None) -> str:
        return f"  {name:<26}{value:.6g}" + ("" if error is None else f" ± {float(error):.1g}")

    errors = best.standard_errors
    lines = [WORDS[best.implements]]
    if best.step_size is not None:
        on_sum = line("step size", best.step_size, errors.get("step_size"))
        lines.append(
            f"{on_sum} on ½ Σ (w·xᵢ − yᵢ)²; {task.context_length * best.step_size:.6g} on the mean over the context"
        )
    lines.append(line("risk", best.risk, errors.get("risk")))
    if best.implements == "other":
        lines.append(line("best preconditioned step", best.descent_risk, errors.get("descent_risk")))
    lines.append(line("predicting zero", best.null_risk, errors.get("null_risk")))
    if bayes is not None:
        lines.append(line("Bayes risk", bayes.value, bayes.standard_error))
    if best.implements == "preconditioned-gradient-descent":
        matrix = np.array2string(best.descent_preconditioner, precision=4, suppress_small=True, prefix="  ")
        lines.append(f"prediction x_queryᵀ P Σ yᵢ xᵢ with P =\n  {matrix}")
    of_certificate = best.certificate.standard_errors
    lines.append(f"certificate ({best.certificate.method})")
    lines.append(line("lower bound", best.certificate.lower_bound, of_certificate.get("lower_bound")))
    lines.append(line("gap", best.certificate.gap, of_certificate.get("gap")))
    return "\n".join([*lines, best.certificate.meaning])
