"""`mesalens compare`."""

import itertools
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import xarray as xr
from rich.table import Table

from mesalens import kinds, random, theory
from mesalens.analysis import compare
from mesalens.checks import InputError, count
from mesalens.cli.options import POSITIONAL, WORDS, Command, Folder
from mesalens.cli.output import console, print_json
from mesalens.learners import GradientDescent
from mesalens.models import Interleaved
from mesalens.progress import ProgressReport
from mesalens.simulation import Estimate, plus_minus
from mesalens.tasks import LinearFunctions, Mixture, RegressionTask
from mesalens.training import TrainingSettings, load_run

Descent = theory.OneStepRisk | theory.DescentSteps

BEST = "best-descent"
NAMES = {"gradient_descent": "Gradient descent", "gd_plus_plus": "GD++"}


class Compare(Command):
    """Compares trained learners with reference algorithms, on the task of the training.

      mesalens compare runs/d5
      mesalens compare runs/d5 --reference ridge penalty=1 best-descent

    Prints the risks, the differences of predictions and the differences of sensitivities to the
    query. The reference best-descent is gradient descent with as many steps as the model has layers
    and the best step sizes; for several steps also GD++. On interleaved tokens, where the first
    layer has to copy, it has one step fewer.
    """

    run: Annotated[Folder, POSITIONAL]
    """folder that `mesalens train` wrote"""
    reference: Annotated[tuple[str, ...], WORDS] = (BEST,)
    """names of reference algorithms, each followed by its parameters as NAME=VALUE"""
    prompts: int = 10_000
    """number of fresh prompts for each seed"""
    seed: int = 1
    """seed of the prompts"""
    device: str | None = None
    """device to compute on: cpu, gpu, …; by default JAX's choice"""

    def __call__(self) -> int:
        """Prints the comparison."""
        count("prompts", self.prompts, at_least=2)
        settings, training = load_run(self.run)
        task, metrics = settings.sampled_task(), training.metrics
        axes = {str(axis): metrics[axis] for axis in metrics.loss.dims if axis != "step"}
        first = training.learner(**{n: axis[0].item() for n, axis in axes.items() if n != "seed"})
        best: dict[str, Descent] = {}
        references: dict[str, Any] = {}
        for name, *pairs in _split(self.reference):
            if name == BEST and not pairs:
                best = _best_descent(settings, first, random.key(self.seed))
                start = _start(first)
                references |= {name: _learner(descent, start) for name, descent in best.items()}
            else:
                content = {"kind": name} | dict(pair.split("=", 1) for pair in pairs)
                references[" ".join([name, *pairs])] = kinds.build(
                    "learner", content, dim=task.dim, outputs=task.outputs, key=random.key(0)
                )
        key = random.measurement_key(self.seed)
        result = compare(training.learners, references, task, key, prompts=self.prompts, axes=axes)
        if self.json_:
            print_json({"run": str(self.run), **_plain(result, best)})
        else:
            _print(result, best)
        return 0


def _split(words: tuple[str, ...]) -> list[list[str]]:
    """The words of each reference: its name, then its parameters."""
    references: list[list[str]] = []
    for word in " ".join(words).split():
        if "=" not in word:
            references.append([word])
        elif references:
            references[-1].append(word)
        else:
            raise InputError(f"{word} needs a learner before it, such as ridge penalty=1.")
    return references


def _best_descent(settings: TrainingSettings, learner: Any, key: Any) -> dict[str, Descent]:
    """The best step sizes for as many steps as there are layers that can descend, by name."""
    task, start = settings.exact_task(), _start(learner)
    if not isinstance(task, RegressionTask | Mixture):
        given = type(task).__name__
        raise InputError(f"{BEST} needs a RegressionTask; got {given}. Give another --reference.")
    layers = getattr(learner, "layers", 1)
    interleaved = isinstance(getattr(learner, "tokens", None), Interleaved)
    steps = max(layers - interleaved, 1)
    with ProgressReport() as progress:
        if interleaved:
            progress.say("the first layer on interleaved tokens copies, so there is one step fewer")
        linear = isinstance(getattr(task, "functions", None), LinearFunctions)
        if steps == 1 and linear and task.covariates.independent:  # pyright: ignore
            return {"gradient_descent": theory.one_step_risk(task, start)}
        if steps == 1 and start is None:
            moments = theory.task_moments(task, key=key, relative_error=0.01)
            return {"gradient_descent": theory.one_step_risk_from(moments, task.context_length)}
        shared = steps == 1 or getattr(learner, "looped", False)
        options: dict[str, Any] = {"gradient_descent": {"shared": shared}}
        if steps > 1:  # GD++ with separate rates for each step could diverge on rare contexts
            options["gd_plus_plus"] = {"data_correction": True}
        best: dict[str, Any] = {}
        for name, option in options.items():
            progress.say(f"finding the best step sizes of {steps} steps: {NAMES[name]}")
            best[name] = theory.best_step_sizes(
                settings.sampled_task(), steps, start, key=key, **option
            )
    return best


def _start(learner: Any) -> Any:
    """W_0 of the query token in float64, the same for all runs, or None."""
    start = getattr(learner, "initial_weights", None)
    if start is None:
        start = getattr(getattr(learner, "tokens", None), "initial_weights", None)
    return None if start is None else np.float64(start)


def _learner(best: Descent, start: Any) -> GradientDescent:
    if isinstance(best, theory.DescentSteps):
        return best.learner
    return GradientDescent(best.best_step_size, initial_weights=start)


def _numbers(best: Descent) -> dict[str, Any]:
    """The best step sizes and the risk of descent; simulated ones are estimates."""
    if isinstance(best, theory.OneStepRisk):
        step_size, risk = best.best_step_size, best.best_risk
        return {"step_size": step_size, "risk": risk, "null_risk": best.null_risk}
    numbers = {"step_size": Estimate(best.step_size, best.standard_error)}
    if best.data_correction is not None:
        numbers["data_correction"] = Estimate(best.data_correction, best.correction_error)  # pyright: ignore
    return numbers | {"risk": best.risk}


def _plain(result: xr.Dataset, best: Mapping[str, Descent]) -> dict[str, Any]:
    """What `--json` prints: best step sizes, and values and errors by reference and measure."""
    references = {
        reference: {
            measure: dict(result.sel(reference=reference, measure=measure))
            for measure in result.measure.values
        }
        for reference in result.reference.values
    }
    return {
        "best_descent": {name: _numbers(descent) for name, descent in best.items()},
        "axes": {axis: result[axis] for axis in result.value.dims[2:]},
        "references": references,
    }


def _print(result: xr.Dataset, best: Mapping[str, Descent]) -> None:
    axes = list(map(str, result.value.dims[2:]))
    for reference in result.reference.values.tolist():
        descent = best.get(reference)
        print(f"{reference}:" if descent is None else f"{NAMES[reference]}, {_sentence(descent)}")
        rows = result.sel(reference=reference).stack(run=axes).transpose("run", "measure")
        rows = rows.dropna("measure", how="all", subset=["value"])
        table = Table()
        for name in (*axes, *rows.measure.values):
            header = name.replace("_", " ").replace(".", " ")
            widest = max(map(len, header.split()))
            table.add_column(header, overflow="fold", min_width=widest)  # numbers are never cut
        cells = (rows.run.values, rows.value.values, rows.standard_error.values)
        for run, values, errors in zip(*cells, strict=True):
            table.add_row(*map(str, run), *map(plus_minus, values, errors))
        console().print(table)
    print("Means over fresh prompts ± standard error; see the docs of mesalens.analysis.compare.")


def _sentence(best: Descent) -> str:
    def shown(number: Any) -> str:
        if not isinstance(number, Estimate):
            return f"{number:.6g}"
        pairs = np.broadcast(number.value, number.standard_error)
        return ", ".join(itertools.starmap(plus_minus, pairs))

    steps = best.steps if isinstance(best, theory.DescentSteps) else 1
    numbers = [f"{name.replace('_', ' ')} {shown(n)}" for name, n in _numbers(best).items()]
    return f"{steps} step{'s' * (steps > 1)} with the best step sizes: {'; '.join(numbers)}"
