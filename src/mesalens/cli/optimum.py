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
from mesalens.theory import Certificate, OptimalLayer, bayes_risk, optimal_layer

BEST = "The best layer of linear self-attention is"
WORDS = {
    "gradient-descent": f"{BEST} one step of gradient descent from zero.",
    "preconditioned-gradient-descent": f"{BEST} one step of preconditioned gradient descent.",
    "other": f"{BEST} not a step of gradient descent from zero, preconditioned or not.",
}


class Optimum(Command):
    """Computes the best layer of linear self-attention for a task.

      mesalens optimum --dim 20 --context-length 20 --noise-variance 0.5
      mesalens optimum --dim 5 --pool 64

    Prints what the best layer computes, its risk, the Bayes risk, and a certificate: a lower bound
    on the risk of every layer, with any number of heads.
    """

    task: Annotated[Any, Member("task")] = "regression"
    """distribution of prompts"""
    pool: int | None = None
    """draw the function of each prompt from a fixed pool of this size"""
    mixture: Path | None = None
    """JSON file with a list of tasks, one of which is drawn for each prompt: [{"probability": 0.5,
    "dim": 5}, …]"""
    mean_variance: float | None = None
    """draw the inputs of each prompt around a mean, which has this variance per entry"""
    descriptor: bool = False
    """with --mean-variance: the tokens contain that mean as well"""
    retrieval: float | None = None
    """similarity of the inputs in the context to the query, from 0 (independent) to 1 (equal)"""
    relative_error: float = 1e-3
    """relative standard error of simulated risks: the Bayes risk, and all risks if functions are
    not linear"""
    seed: int = 0
    """seed of the simulations"""
    device: str | None = None
    """device for the simulations: cpu, gpu, …; by default JAX's choice"""

    def __call__(self) -> int:
        """Prints the best layer."""
        positive("relative_error", self.relative_error)
        task: Any = checked(self._task).build()
        task = task.task if isinstance(task, CondensedTask) else task
        options: Any = {"key": random.key(self.seed), "relative_error": self.relative_error}
        with ProgressReport() as progress, warnings.catch_warnings(record=True) as messages:
            warnings.simplefilter("always")
            best = optimal_layer(task, progress=progress.start, **options)
            try:
                bayes = bayes_risk(task, **options)
            except InputError:  # unknown for this task
                bayes = None
        for warning in messages:
            print(f"mesalens: {warning.message}", file=sys.stderr)
        if self.json_:
            print_json(_plain(best, bayes))
        else:
            print(_text(best, bayes))
        return 0

    def _task(self) -> Any:
        """The settings of the task, as changed by the options of this command."""
        shown = {"mean_variance": self.mean_variance, "retrieval": self.retrieval}
        given = [name for name, value in shown.items() if value is not None]
        others = [] if self.pool is None else ["pool"]
        if self.mixture is not None:
            if clash := [*given, *others]:
                raise InputError(
                    f"give mixture or {clash[0]}, not both; {clash[0]} can be set in the file."
                )
            if self.task != Member("task").read("regression"):
                raise InputError(
                    "give mixture or options of a task, not both; they can be set in the file."
                )
            return Member("task").read({"kind": "mixture", "components": str(self.mixture)})
        if len(given) > 1 or (self.descriptor and given != ["mean_variance"]):
            raise InputError(
                "give either mean_variance (with or without descriptor) or retrieval; descriptor "
                "needs mean_variance."
            )
        if (given or others) and self.task.kind != "regression":
            raise InputError(
                f"{(given or others)[0]} needs a regression task; got {self.task.kind}."
            )
        if self.descriptor and (
            others or self.task.functions != Member("functions").read("linear")
        ):
            raise InputError("descriptor needs linear functions with the default prior.")
        changes: dict[str, Any] = {}
        if self.pool is not None:
            changes["functions"] = {"kind": "pool", "size": self.pool}
        if self.retrieval is not None:
            changes["covariates"] = {"kind": "retrieved", "relevance": self.retrieval}
        if self.mean_variance is not None:
            mean = {"mean_variance": self.mean_variance, "descriptor": self.descriptor}
            changes["covariates"] = {"kind": "random-mean", **mean}
        if self.descriptor:
            d = self.task.dim  # the functions depend on x, not on its mean
            prior = np.diag([1.0] * d + [0.0] * d).tolist()
            changes |= {"dim": 2 * d, "functions": {"kind": "linear", "covariance": prior}}
        return Member("task").read(overlay(self.task.model_dump(), changes))


def _plain(best: OptimalLayer, bayes: Estimate | None) -> dict[str, Any]:
    """What `--json` prints; next to each simulated number is its standard error."""

    def numbers(of: OptimalLayer | Certificate, *names: str) -> dict[str, Any]:
        errors = of.standard_errors
        return {name: getattr(of, name) for name in names} | {
            f"{name}_standard_error": errors[name] for name in names if name in errors
        }

    result = numbers(best, "risk", "null_risk", "preconditioner", "step_size", "descent_risk")
    result["bayes_risk"] = None
    if bayes is not None:
        result |= {"bayes_risk": bayes.value, "bayes_risk_standard_error": bayes.standard_error}
    proof = ("lower_bound", "gap", "method", "proves_optimality", "meaning")
    on_sum = None if best.step_size is None else best.step_size / best.context_length
    return result | {
        "step_size_on_sum": on_sum,
        "implements": best.implements,
        "certificate": numbers(best.certificate, *proof),
        "effective_weights": {"A": best.A, "B": best.B},
    }


def _text(best: OptimalLayer, bayes: Estimate | None) -> str:
    proof = best.certificate

    def line(label: str, value: Any, error: Any = None) -> str:
        shown = f"{float(value):.6g}" if error is None else plus_minus(value, error)
        return f"  {label:<26}{shown}"

    def number(label: str, of: OptimalLayer | Certificate, name: str) -> str:
        return line(label, getattr(of, name), of.standard_errors.get(name))

    lines = [WORDS[best.implements]]
    if best.step_size is not None:
        on_sum = best.step_size / best.context_length
        step = number("step size", best, "step_size")
        lines.append(f"{step} on the mean loss of the context; {on_sum:.6g} on ½ Σᵢ (w·xᵢ − yᵢ)²")
    lines.append(number("risk", best, "risk"))
    if best.implements == "other":
        lines.append(number("best preconditioned step", best, "descent_risk"))
    lines.append(number("predicting zero", best, "null_risk"))
    if bayes is not None:
        lines.append(line("Bayes risk", bayes.value, bayes.standard_error))
    if best.implements == "preconditioned-gradient-descent":
        matrix = np.array2string(best.descent_preconditioner, precision=4, prefix="  ")
        lines.append(f"prediction x_queryᵀ P Σᵢ yᵢ xᵢ with P =\n  {matrix}")
    lines += [
        f"certificate ({proof.method})",
        number("lower bound", proof, "lower_bound"),
        number("gap", proof, "gap"),
        proof.meaning,
    ]
    return "\n".join(lines)
