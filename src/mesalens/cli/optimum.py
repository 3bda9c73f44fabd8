"""`mesalens optimum`."""

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from mesalens import random
from mesalens.checks import InputError, positive
from mesalens.cli.options import Command
from mesalens.cli.output import print_json
from mesalens.kinds import Member, checked, overlay
from mesalens.progress import ProgressReport
from mesalens.simulation import Estimate, plus_minus
from mesalens.tasks import CondensedTask
from mesalens.theory import Certificate, OptimalLsa, bayes_risk, optimal_lsa

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
    pool: int | None = None
    """functions from a pool of so many, drawn once"""
    mixture: Path | None = None
    """a JSON file with tasks, of which each prompt has one: [{"probability": 0.5, "dim": 5}, …]"""
    mean_variance: float | None = None
    """inputs around a mean of this variance that each prompt draws"""
    descriptor: bool = False
    """tokens state that mean, besides x"""
    retrieval: float | None = None
    """how much the inputs of a context are like its query, from 0 to 1"""
    relative_error: float = 1e-3
    """of risks that are simulated, where functions are not linear, and of the Bayes risk"""
    seed: int = 0
    """where the random numbers of simulations come from"""
    device: str | None = None
    """where simulations compute: cpu, gpu, … (JAX's choice by default)"""

    def __call__(self) -> int:
        """Solves the task and prints the solution."""
        positive("relative_error", self.relative_error)
        task: Any = checked(self._task).build()
        task = task.task if isinstance(task, CondensedTask) else task
        options: Any = {"key": random.key(self.seed), "relative_error": self.relative_error}
        with ProgressReport() as progress, warnings.catch_warnings(record=True) as messages:
            warnings.simplefilter("always")
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

    def _task(self) -> Any:
        """The settings of the task, with what the options of this command change in them."""
        shown = {"mean_variance": self.mean_variance, "retrieval": self.retrieval}
        given = [name for name, value in shown.items() if value is not None]
        others = [] if self.pool is None else ["pool"]
        if self.mixture is not None:
            if clash := [*given, *others]:
                raise InputError(
                    f"give mixture or {clash[0]}, not both; tasks of a mixture say it."
                )
            if self.task != Member("task").read("regression"):
                raise InputError("give mixture or options of a task, not both; its file says them.")
            return Member("task").read({"kind": "mixture", "components": str(self.mixture)})
        if len(given) > 1 or (self.descriptor and given != ["mean_variance"]):
            raise InputError("give mean_variance, with or without descriptor, or retrieval.")
        if (given or others) and self.task.kind != "regression":
            raise InputError(
                f"{(given or others)[0]} is for a regression task; got {self.task.kind}."
            )
        if self.descriptor and (
            others or self.task.functions != Member("functions").read("linear")
        ):
            raise InputError("descriptor is for linear functions with the default prior.")
        changes: dict[str, Any] = {}
        if self.pool is not None:
            changes["functions"] = {"kind": "pool", "size": self.pool}
        if self.retrieval is not None:
            changes["covariates"] = {"kind": "retrieved", "relevance": self.retrieval}
        if self.mean_variance is not None:
            mean = {"mean_variance": self.mean_variance, "descriptor": self.descriptor}
            changes["covariates"] = {"kind": "random-mean", **mean}
        if self.descriptor:
            d = self.task.dim  # the functions read x, and not its mean
            prior = np.diag([1.0] * d + [0.0] * d).tolist()
            changes |= {"dim": 2 * d, "functions": {"kind": "linear", "covariance": prior}}
        return Member("task").read(overlay(self.task.model_dump(), changes))


def _plain(best: OptimalLsa, bayes: Estimate | None, context_length: int) -> dict[str, Any]:
    """The keys of `--json`; beside each simulated number its standard error."""

    def numbers(of: OptimalLsa | Certificate, *names: str) -> dict[str, Any]:
        errors = of.standard_errors
        return {name: getattr(of, name) for name in names} | {
            f"{name}_standard_error": errors[name] for name in names if name in errors
        }

    result = numbers(best, "risk", "null_risk", "preconditioner", "step_size", "descent_risk")
    result["bayes_risk"] = None
    if bayes is not None:
        result |= {"bayes_risk": bayes.value, "bayes_risk_standard_error": bayes.standard_error}
    proof = ("lower_bound", "gap", "method", "proves_optimality", "meaning")
    mean = None if best.step_size is None else context_length * best.step_size
    return result | {
        "step_size_on_mean_loss": mean,
        "implements": best.implements,
        "certificate": numbers(best.certificate, *proof),
        "effective_weights": {"A": best.A, "B": best.B},
    }


def _text(best: OptimalLsa, bayes: Estimate | None, context_length: int) -> str:
    proof = best.certificate

    def line(label: str, value: Any, error: Any = None) -> str:
        shown = f"{float(value):.6g}" if error is None else plus_minus(value, error)
        return f"  {label:<26}{shown}"

    def number(label: str, of: OptimalLsa | Certificate, name: str) -> str:
        return line(label, getattr(of, name), of.standard_errors.get(name))

    lines = [WORDS[best.implements]]
    if best.step_size is not None:
        mean = context_length * best.step_size
        step = number("step size", best, "step_size")
        lines.append(f"{step} on ½ Σ (w·xᵢ − yᵢ)²; {mean:.6g} on the mean over the context")
    lines.append(number("risk", best, "risk"))
    if best.implements == "other":
        lines.append(number("best preconditioned step", best, "descent_risk"))
    lines.append(number("predicting zero", best, "null_risk"))
    if bayes is not None:
        lines.append(line("Bayes risk", bayes.value, bayes.standard_error))
    if best.implements == "preconditioned-gradient-descent":
        matrix = np.array2string(best.descent_preconditioner, precision=4, prefix="  ")
        lines.append(f"prediction x_queryᵀ P Σ yᵢ xᵢ with P =\n  {matrix}")
    lines += [
        f"certificate ({proof.method})",
        number("lower bound", proof, "lower_bound"),
        number("gap", proof, "gap"),
        proof.meaning,
    ]
    return "\n".join(lines)
