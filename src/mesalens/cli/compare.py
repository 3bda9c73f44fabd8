"""`mesalens compare`."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from rich.table import Table

from mesalens import kinds, random
from mesalens.analysis import compare
from mesalens.checks import InputError, as_matrix, count
from mesalens.cli.device import on
from mesalens.cli.options import Command, Folder, Positional, Words
from mesalens.cli.output import console, print_json
from mesalens.learners import GradientDescent
from mesalens.models import Interleaved
from mesalens.progress import ProgressReport
from mesalens.simulation import plus_minus
from mesalens.tasks import CondensedTask, LinearFunctions, RegressionTask, Task
from mesalens.theory import (
    DescentSteps,
    OneStepRisk,
    best_steps,
    one_step_risk,
    one_step_risk_from,
    simulated_moments,
)
from mesalens.training import TrainingSettings, load_run

BEST = "best-descent"
NAMES = {"gradient_descent": "Gradient descent", "gd_plus_plus": "GD++"}
NO_START = (
    "the best descent from initial_weights is known for linear functions only (of several layers: "
    "without distractors); give another --reference."
)


class Compare(Command):
    """Holds the learners of a training beside references, on the task they were trained on.

    The default reference, best-descent, is as many steps of gradient descent as there are layers
    (on interleaved tokens, where the first layer has to copy, one fewer), with the best rates, and
    for several steps GD++ too. Others are named with their parameters, as in `--reference ridge
    penalty=1 gradient-descent step_size=0.3`.
    """

    run: Annotated[Folder, Positional()]
    """a folder that `mesalens train` wrote"""
    reference: Annotated[tuple[str, ...], Words()] = (BEST,)
    """learners by name, each followed by its parameters"""
    prompts: int = 10_000
    """fresh prompts for each seed"""
    seed: int = 1
    """where the prompts come from"""
    json_: bool = False
    """print JSON alone on standard output"""
    device: str | None = None
    """where to compute: cpu, gpu, … (JAX's choice by default)"""

    def __call__(self) -> int:
        """Prints how the learners and the references differ."""
        count("prompts", self.prompts, at_least=2)
        key = random.measurement_key(self.seed)
        with on(self.device):
            settings, training = load_run(self.run)
            task = settings.sampled_task()
            theory: dict[str, Any] = {}
            references: dict[str, Any] = {}
            for words in _split(self.reference):
                if words == [BEST]:
                    theory = _best_descent(settings, training.learners, random.key(self.seed))
                    references |= {
                        name: _from_start(_learner(best), training.learners)
                        for name, best in theory.items()
                    }
                else:
                    references[" ".join(words)] = _built(words, task)
            dims = training.metrics.ending.dims if "ending" in training.metrics else ("seed",)
            axes = {str(axis): training.metrics[axis].values.tolist() for axis in dims}
            result = compare(
                training.learners, references, task, key, prompts=self.prompts, axes=axes
            )
        if self.json_:
            print_json({"run": str(self.run), **_plain(result, theory)})
        else:
            _print(result, theory)
        return 0


def _split(words: tuple[str, ...]) -> list[list[str]]:
    """The words of each reference: a name, then parameters."""
    references: list[list[str]] = []
    for word in " ".join(words).split():
        if "=" not in word:
            references.append([word])
        elif references:
            references[-1].append(word)
        else:
            raise InputError(
                f"{word} needs a learner before it, as in: --reference ridge penalty=1."
            )
    return references


def _built(words: list[str], task: Task) -> Any:
    name, *pairs = words
    parameters = dict(pair.split("=", 1) for pair in pairs)
    settings = kinds.checked(lambda: kinds.Member("learner").read({"kind": name, **parameters}))
    return settings.build(dim=task.dim, outputs=task.outputs, key=random.key(0))


def _best_descent(
    settings: TrainingSettings, learners: Any, key: Any
) -> dict[str, OneStepRisk | DescentSteps]:
    """The best rates of as many steps as there are layers left to descend, by name."""
    layers = getattr(learners, "layers", 1)
    interleaved = isinstance(getattr(learners, "tokens", None), Interleaved)
    steps = max(layers - 1, 1) if interleaved else layers
    if interleaved:
        with ProgressReport() as progress:
            progress.say("the first layer on interleaved tokens copies: steps are one fewer")
    task, start = settings.exact_task(), _start(learners)
    if not isinstance(task, RegressionTask):
        given = type(task).__name__
        raise InputError(
            f"{BEST} is known for a RegressionTask, not for {given}; give --reference."
        )
    if steps == 1:
        return {"gradient_descent": _one_step(task, start, key)}
    residual = settings.sampled_task() if start is None else _residual(settings, task, start)
    # Rates of its own for each step of GD++ could diverge on rare contexts
    shared = getattr(learners, "looped", False)
    options = {"gradient_descent": {"shared": shared}, "gd_plus_plus": {"data_correction": True}}
    best: dict[str, Any] = {}
    with ProgressReport() as progress:
        for name, option in options.items():
            progress.say(f"finding the best rates of {steps} steps: {NAMES[name]}")
            best[name] = best_steps(residual, steps, key=key, **option)
    return best


def _start(learners: Any) -> Any:
    """W_0 of the query token, the same for all seeds, or None."""
    start = getattr(learners, "initial_weights", None)
    if start is None:
        start = getattr(getattr(learners, "tokens", None), "initial_weights", None)
    return None if start is None else np.asarray(start).reshape(-1, *np.shape(start)[-2:])[0]


def _one_step(task: Any, start: Any, key: Any) -> OneStepRisk:
    """The best step from W_0: exact for linear functions, else from simulated moments."""
    if isinstance(task.functions, LinearFunctions):
        return one_step_risk(task, as_matrix(start))
    if start is not None:
        raise InputError(NO_START)
    moments = simulated_moments(task, key=key, relative_error=0.01)
    return one_step_risk_from(moments, task.context_length)


def _residual(settings: TrainingSettings, task: Any, start: Any) -> Task:
    """The task of the residuals `y - W_0 x`: linear functions of another mean."""
    functions = task.functions
    if not isinstance(functions, LinearFunctions) or int(task.distractors.count):
        raise InputError(NO_START)
    mean = (functions.weight_mean() - start) / functions.scale
    task = dataclasses.replace(task, functions=dataclasses.replace(functions, mean=mean))
    return CondensedTask(task) if isinstance(settings.sampled_task(), CondensedTask) else task


def _learner(best: OneStepRisk | DescentSteps) -> GradientDescent:
    return best.learner if isinstance(best, DescentSteps) else GradientDescent(best.best_step_size)


def _from_start(descent: GradientDescent, learners: Any) -> GradientDescent:
    """The same descent from the W_0 of the learners."""
    start = _start(learners)
    if start is None:
        return descent
    return dataclasses.replace(descent, initial_weights=jnp.asarray(start, jnp.float32))


def _rates(best: OneStepRisk | DescentSteps) -> dict[str, tuple[Any, Any]]:
    """The best rates and the risk of descent, each with its standard error or None."""
    if isinstance(best, OneStepRisk):
        values = (best.best_step_size, best.best_risk, best.null_risk)
        return dict(
            zip(("step_size", "risk", "null_risk"), ((v, None) for v in values), strict=True)
        )
    rates: dict[str, Any] = {"step_size": (best.step_size, best.standard_error)}
    if best.data_correction is not None:
        rates["data_correction"] = (best.data_correction, best.correction_error)
    return rates | {"risk": (best.risk.value, best.risk.standard_error)}


def _plain(result: xr.Dataset, theory: Mapping[str, Any]) -> dict[str, Any]:
    """What `--json` prints: the best rates, and values and errors by reference and measure."""

    def pair(value: Any, error: Any) -> Any:
        values = [np.asarray(part).tolist() for part in (value, error)]
        return dict(zip(("value", "standard_error"), values, strict=True))

    references = {
        reference: {
            measure: pair(cell.value.values, cell.standard_error.values)
            for measure in result.measure.values.tolist()
            if (cell := result.sel(reference=reference, measure=measure))
        }
        for reference in result.reference.values.tolist()
    }
    axes = {axis: result[axis].values.tolist() for axis in map(str, result.value.dims[2:])}
    best = {
        name: {n: value if e is None else pair(value, e) for n, (value, e) in _rates(of).items()}
        for name, of in theory.items()
    }
    return {"best_descent": best, "axes": axes, "references": references}


def _print(result: xr.Dataset, theory: Mapping[str, Any]) -> None:
    axes = list(map(str, result.value.dims[2:]))
    for reference in result.reference.values.tolist():
        print(_sentence(reference, theory.get(reference)))
        rows = result.sel(reference=reference).stack(run=axes).transpose("run", "measure")
        rows = rows.dropna("measure", how="all", subset=["value"])
        table = Table()
        for name in (*axes, *rows.measure.values.tolist()):
            table.add_column(str(name).replace("_", " "), overflow="fold")  # numbers are never cut
        for place in range(rows.sizes["run"]):
            row = rows.isel(run=place)
            cells = zip(row.value.values, row.standard_error.values, strict=True)
            labels = (str(row[axis].item()) for axis in axes)
            table.add_row(*labels, *(plus_minus(value, error) for value, error in cells))
        console().print(table)
    print("Means over fresh prompts ± standard error; see mesalens.analysis.compare.")


def _sentence(reference: str, best: OneStepRisk | DescentSteps | None) -> str:
    if best is None:
        return f"{reference}:"
    steps = best.steps if isinstance(best, DescentSteps) else 1

    def shown(value: Any, error: Any) -> str:
        if error is None:
            return f"{value:.6g}"
        return ", ".join(itertools.starmap(plus_minus, np.stack([value, error]).reshape(2, -1).T))

    rates = [f"{n.replace('_', ' ')} {shown(*pair)}" for n, pair in _rates(best).items()]
    return (
        f"{NAMES[reference]}, {steps} step{'s' * (steps > 1)} at the best rates: {'; '.join(rates)}"
    )
