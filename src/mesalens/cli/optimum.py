"""`mesalens optimum`."""

import sys
import warnings
from typing import Annotated, Any

import numpy as np

from mesalens import random
from mesalens.checks import InputError, positive
from mesalens.cli.device import on
from mesalens.cli.options import Command
from mesalens.cli.output import print_json
from mesalens.kinds import Member
from mesalens.progress import ProgressReport
from mesalens.simulation import Estimate, plus_minus
from mesalens.tasks import CondensedTask
from mesalens.theory import OptimalLsa, bayes_risk, optimal_lsa

BEST = "The best layer of linear self-attention is"
WORDS = {
    "gradient-descent": f"{BEST} one step of gradient descent from zero.",
    "preconditioned-gradient-descent": f"{BEST} one step of preconditioned gradient descent.",
    "other": f"{BEST} not a step of gradient descent from zero, preconditioned or not.",
}


class Optimum(Command):
    """Says what the best layer of linear self-attention computes on a task, at what risk, and
    whether that is proved.
    """

    task: Annotated[Any, Member("task")] = "regression"
    """the task"""
    relative_error: float = 1e-3
    """of risks that are simulated, where functions are not linear, and of the Bayes risk"""
    seed: int = 0
    """where the random numbers of simulations come from"""
    json_: bool = False
    """print JSON alone on standard output"""
    device: str | None = None
    """where simulations compute: cpu, gpu, … (JAX's choice by default)"""

    def __call__(self) -> int:
        """Solves the task and prints the solution."""
        positive("relative_error", self.relative_error)
        task, key = self.task.build(), random.key(self.seed)
        task: Any = task.task if isinstance(task, CondensedTask) else task
        with (
            on(self.device),
            ProgressReport() as progress,
            warnings.catch_warnings(record=True) as messages,
        ):
            warnings.simplefilter("always")
            options: Any = {"key": key, "relative_error": self.relative_error}
            best = optimal_lsa(task, progress=progress.start, **options)
            try:
                bayes = bayes_risk(task, **options)
            except InputError:  # not known for the task
                bayes = None
        for warning in messages:
            print(f"mesalens: {warning.message}", file=sys.stderr)
        if self.json_:
            print_json(_plain(best, bayes, task.context_length))
        else:
            print(_text(best, bayes, task.context_length))
        return 0


def _plain(best: OptimalLsa, bayes: Estimate | None, context_length: int) -> dict[str, Any]:
    """The keys of `--json`; beside each simulated number its standard error."""

    def with_errors(values: dict[str, Any], errors: dict[str, Any]) -> dict[str, Any]:
        simulated = {name: errors[name] for name in values if name in errors}
        return values | {
            f"{n}_standard_error": np.asarray(e).tolist() for n, e in simulated.items()
        }

    names = ("risk", "null_risk", "preconditioner", "step_size", "descent_risk")
    numbers = {name: getattr(best, name) for name in names}
    numbers |= {"bayes_risk": None if bayes is None else bayes.value}
    errors = best.standard_errors | ({} if bayes is None else {"bayes_risk": bayes.standard_error})
    proof = best.certificate
    certificate = {name: getattr(proof, name) for name in ("lower_bound", "gap", "method")}
    certificate |= {"proves_optimality": proof.proves_optimality, "meaning": proof.meaning}
    mean = None if best.step_size is None else context_length * best.step_size
    return with_errors(numbers, errors) | {
        "step_size_on_mean_loss": mean,
        "implements": best.implements,
        "certificate": with_errors(certificate, proof.standard_errors),
        "effective_weights": {"A": best.A, "B": best.B},
    }


def _text(best: OptimalLsa, bayes: Estimate | None, context_length: int) -> str:
    errors, proof = best.standard_errors, best.certificate

    def line(name: str, value: Any, error: Any = None) -> str:
        known = f"{float(value):.6g}" if error is None else plus_minus(value, error)
        return f"  {name:<26}{known}"

    lines = [WORDS[best.implements]]
    if best.step_size is not None:
        mean = context_length * best.step_size
        step = line("step size", best.step_size, errors.get("step_size"))
        lines.append(f"{step} on ½ Σ (w·xᵢ − yᵢ)²; {mean:.6g} on the mean over the context")
    lines.append(line("risk", best.risk, errors.get("risk")))
    if best.implements == "other":
        lines.append(
            line("best preconditioned step", best.descent_risk, errors.get("descent_risk"))
        )
    lines.append(line("predicting zero", best.null_risk, errors.get("null_risk")))
    if bayes is not None:
        lines.append(line("Bayes risk", bayes.value, bayes.standard_error))
    if best.implements == "preconditioned-gradient-descent":
        matrix = np.array2string(best.descent_preconditioner, precision=4, prefix="  ")
        lines.append(f"prediction x_queryᵀ P Σ yᵢ xᵢ with P =\n  {matrix}")
    lines.append(f"certificate ({proof.method})")
    for name in ("lower_bound", "gap"):
        error = proof.standard_errors.get(name)
        lines.append(line(name.replace("_", " "), getattr(proof, name), error))
    return "\n".join([*lines, proof.meaning])
