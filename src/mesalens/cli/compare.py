"""`mesalens compare`."""

import itertools
import math
import textwrap
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import numpy as np
import xarray as xr
from rich.table import Table

from mesalens import kinds, random, theory
from mesalens.analysis import compare
from mesalens.checks import InputError, count, with_near_names
from mesalens.cli.options import POSITIONAL, WORDS, Command, Folder
from mesalens.cli.output import console, print_json
from mesalens.learners import GradientDescent, Learner
from mesalens.models import Interleaved, LinearTransformer
from mesalens.progress import ProgressReport
from mesalens.simulation import Estimate, plus_minus
from mesalens.tasks import LinearFunctions, Mixture, RegressionTask
from mesalens.training import TrainingSettings, load_run


class SimulatedStep(NamedTuple):
    """The best step of descent on a task whose moments are simulated, with standard errors."""

    step_size: Estimate
    risk: Estimate
    null_risk: Estimate


Descent = theory.OneStepRisk | SimulatedStep | theory.DescentSteps
Best = Descent | theory.OptimalLayer

BEST = "best-descent"
OPTIMAL = "optimal-layer"
DEFAULT = (BEST, OPTIMAL)
NAMES = {
    "gradient_descent": "Gradient descent",
    "gd_plus_plus": "GD++",
    "optimal_layer": "The best layer of linear self-attention",
}

IMPLEMENTS = {
    "gradient-descent": "which is one step of gradient descent",
    "preconditioned-gradient-descent": "which is one step of preconditioned gradient descent",
    "other": "which is no step of gradient descent",
}

LAST = "Means over fresh prompts ± standard error; the rows: docs, guides/command-line#compare."

QUICK = 32
"""Up to this d + m the optimum takes about a second, so that nobody has to ask for it."""


class Compare(Command):
    """Compares trained learners with reference algorithms, on the task of the training.

      mesalens compare runs/d5
      mesalens compare runs/d5 --reference ridge penalty=1 best-descent

    Prints the risks, the differences of predictions and the differences of sensitivities to the
    query. The reference best-descent is gradient descent with as many steps as the model has layers
    and the best step sizes; for several steps also GD++. On interleaved tokens, where the first
    layer has to copy, it has one step fewer. The reference optimal-layer is the best layer of
    linear self-attention for the task, that of `mesalens optimum`.
    """

    run: Annotated[Folder, POSITIONAL]
    """folder that `mesalens train` wrote"""
    reference: Annotated[tuple[str, ...], WORDS] = ()
    """names of reference algorithms, each followed by its parameters as NAME=VALUE; by default
    best-descent, and for one layer of linear self-attention optimal-layer"""
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
        best: dict[str, Best] = {}
        references: dict[str, Any] = {}
        chosen = self.reference or (DEFAULT if _has_optimum(settings, first) else (BEST,))
        for name, *pairs in _split(chosen):
            if name in DEFAULT and not pairs:
                find = _best_descent if name == BEST else _optimal_layer
                found = find(settings, first, random.key(self.seed))
                references |= {each: _learner(one, _start(first)) for each, one in found.items()}
                best |= found
            else:
                content = {"kind": name} | dict(pair.split("=", 1) for pair in pairs)
                _require_parameters(name, content)
                references[" ".join([name, *pairs])] = kinds.build(
                    "learner", content, dim=task.dim, outputs=task.outputs, key=random.key(0)
                )
        key = random.measurement_key(self.seed)
        result = compare(training.learners, references, task, key, prompts=self.prompts, axes=axes)
        if self.json_:
            print_json({"run": str(self.run), **_plain(result, best)})
        else:
            _print(result, best, "" if self.reference else _advice(settings, first))
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


def _require_parameters(name: str, given: Mapping[str, str]) -> None:
    """Raises `ValueError` for an unknown parameter, or if one without a default is not given."""
    fields = kinds.settings_class("learner", name).model_fields
    for each in given:
        if each not in fields:
            known = [field for field in fields if field != "kind"]
            raise InputError(with_near_names(f"{name} has no parameter {each}", each, known))
    if missing := [each for each, field in fields.items() if field.is_required()]:
        example = " ".join(f"{each}={given.get(each, 1)}" for each in missing)
        if not set(missing) <= given.keys():
            raise InputError(f"{name} needs parameters, for example --reference {name} {example}.")


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
            return {"gradient_descent": _one_step(moments, task.context_length)}
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


def _one_step(moments: theory.ContextMoments, context_length: int) -> Descent:
    """The best step from zero; simulated moments give estimates."""

    def numbers(moments: theory.ContextMoments) -> dict[str, Any]:
        return _numbers(theory.one_step_risk_from(moments, context_length))

    values, errors = theory.estimate(numbers, moments)
    if not errors:
        return theory.one_step_risk_from(moments, context_length)
    return SimulatedStep(**{name: Estimate(value, errors[name]) for name, value in values.items()})


def _optimal_layer(settings: TrainingSettings, learner: Any, key: Any) -> dict[str, Any]:
    """The best layer of linear self-attention for the task, by the name of its reference."""
    task = settings.exact_task()
    if not isinstance(task, RegressionTask | Mixture):
        given = type(task).__name__
        raise InputError(
            f"{OPTIMAL} needs a RegressionTask; got {given}. Give another --reference."
        )
    with ProgressReport() as progress:
        options: dict[str, Any] = {"key": key, "relative_error": 0.01}
        return {"optimal_layer": theory.optimal_layer(task, progress=progress.start, **options)}


def _has_optimum(settings: TrainingSettings, learner: Any) -> bool:
    """Whether the learner is a layer whose optimum is known exactly, and soon."""
    task = settings.exact_task()
    small = task.dim + task.outputs <= QUICK
    return small and _is_layer(learner) and theory.has_exact_moments(task)


def _is_layer(learner: Any) -> bool:
    """Whether the learner is one layer of linear self-attention from zero."""
    one = isinstance(learner, LinearTransformer) and learner.layers == 1
    return one and _start(learner) is None


def _advice(settings: TrainingSettings, learner: Any) -> str:
    """How to get the best layer, where it is not given unasked; "" if it is, or cannot be."""
    task = settings.exact_task()
    known = isinstance(task, RegressionTask | Mixture)
    if not known or not _is_layer(learner) or _has_optimum(settings, learner):
        return ""
    verb = "computes" if theory.has_exact_moments(task) else "simulates"
    return f"--reference {OPTIMAL} {verb} the best layer."


def _start(learner: Any) -> Any:
    """W_0 of the query token in float64, the same for all runs, or None."""
    start = getattr(learner, "initial_weights", None)
    if start is None:
        start = getattr(getattr(learner, "tokens", None), "initial_weights", None)
    return None if start is None else np.float64(start)


def _learner(best: Best, start: Any) -> Learner:
    if isinstance(best, theory.OptimalLayer):
        return best.layer()
    if isinstance(best, theory.DescentSteps):
        return best.learner
    if isinstance(best, SimulatedStep):
        return GradientDescent(float(best.step_size.value))
    return GradientDescent(best.best_step_size, initial_weights=start)


def _numbers(best: Best) -> dict[str, Any]:
    """The best step sizes and the risk of a reference; simulated ones are estimates."""
    if isinstance(best, theory.OptimalLayer):
        names = ("step_size", "risk", "null_risk")
        numbers: dict[str, Any] = {name: getattr(best, name) for name in names}
        errors = best.standard_errors
        return {
            name: Estimate(value, errors[name]) if name in errors else value
            for name, value in numbers.items()
            if value is not None
        }
    if isinstance(best, SimulatedStep):
        return best._asdict()
    if isinstance(best, theory.OneStepRisk):
        step_size, risk = best.best_step_size, best.best_risk
        return {"step_size": step_size, "risk": risk, "null_risk": best.null_risk}
    numbers = {"step_size": Estimate(best.step_size, best.standard_error)}
    if best.data_correction is not None:
        numbers["data_correction"] = Estimate(best.data_correction, best.correction_error)  # pyright: ignore
    return numbers | {"risk": best.risk}


def _plain(result: xr.Dataset, best: Mapping[str, Best]) -> dict[str, Any]:
    """What `--json` prints: best step sizes, and values and errors by reference and measure."""
    references = {
        reference: {
            measure: dict(result.sel(reference=reference, measure=measure))
            for measure in result.measure.values
        }
        for reference in result.reference.values
    }
    numbers = {name: _numbers(one) for name, one in best.items()}
    layers = {
        name: {"implements": one.implements, **numbers.pop(name)}
        for name, one in best.items()
        if isinstance(one, theory.OptimalLayer)
    }
    return {
        "best_descent": numbers,
        **layers,
        "axes": {axis: result[axis] for axis in result.value.dims[2:]},
        "references": references,
    }


def _print(result: xr.Dataset, best: Mapping[str, Best], advice: str = "") -> None:
    width = console().width
    for reference in result.reference.values.tolist():
        one = best.get(reference)
        title = f"{reference}:" if one is None else f"{NAMES[reference]}, {_sentence(one)}"
        print(textwrap.fill(title, width, subsequent_indent="  "))
        if not _is_shown(one, best):
            for table in _tables(result.sel(reference=reference), width):
                console().print(table)
    for last in filter(None, (advice, LAST)):
        print(textwrap.fill(last, width))


def _tables(result: xr.Dataset, width: int) -> Iterator[Table]:
    """Tables with a row for each measure and a column for each run, as many as fit the width."""
    axes = list(map(str, result.value.dims[1:]))
    rows = result.stack(run=axes).transpose("run", "measure")
    rows = rows.dropna("measure", how="all", subset=["value"])
    labels = [name.replace("_", " ").replace(".", " ") for name in (*axes, *rows.measure.values)]
    cells = zip(rows.run.values, rows.value.values, rows.standard_error.values, strict=True)
    runs = [[*map(str, run), *map(plus_minus, values, errors)] for run, values, errors in cells]
    beside = 3  # the line and the spaces of a column
    room = width - max(map(len, labels)) - beside - 1
    number = max(1, room // (max(len(cell) for run in runs for cell in run) + beside))
    for first in range(0, len(runs), number):
        table = Table(show_header=False)
        for place, row in enumerate(zip(labels, *runs[first : first + number], strict=True)):
            table.add_row(*row, end_section=place == len(axes) - 1)
        yield table


def _is_shown(one: Best | None, best: Mapping[str, Best]) -> bool:
    """Whether this is the best layer, and the step of descent that it is has a table already."""
    descent = best.get("gradient_descent")
    if not isinstance(one, theory.OptimalLayer) or not isinstance(descent, theory.OneStepRisk):
        return False
    return one.implements == "gradient-descent" and math.isclose(
        one.risk, descent.best_risk, rel_tol=1e-6
    )


def _sentence(best: Best) -> str:
    def shown(number: Any) -> str:
        if not isinstance(number, Estimate):
            return f"{number:.6g}"
        pairs = np.broadcast(number.value, number.standard_error)
        return ", ".join(itertools.starmap(plus_minus, pairs))

    numbers = [f"{name.replace('_', ' ')} {shown(n)}" for name, n in _numbers(best).items()]
    if isinstance(best, theory.OptimalLayer):
        return f"{IMPLEMENTS[best.implements]}: {'; '.join(numbers)}"
    steps = best.steps if isinstance(best, theory.DescentSteps) else 1
    return f"{steps} step{'s' * (steps > 1)} with the best step sizes: {'; '.join(numbers)}"
