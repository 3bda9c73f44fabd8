"""`mesalens compare`."""

import dataclasses
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree
from rich.table import Table

from mesalens import random
from mesalens.analysis import alignment, risks
from mesalens.checks import InputError, as_matrix, count
from mesalens.cli.device import on
from mesalens.cli.output import Json, Positional, console, print_json
from mesalens.learners import GradientDescent
from mesalens.progress import ProgressReport
from mesalens.simulation import Estimate
from mesalens.tasks import LinearFunctions, Task
from mesalens.theory import (
    DescentSteps,
    OneStepRisk,
    best_steps,
    one_step_risk,
    one_step_risk_from,
    simulated_moments,
)
from mesalens.training import TrainingSettings, load_run

NAMES = {"gradient_descent": "gradient descent", "gd_plus_plus": "GD++"}
NO_START = (
    "the best descent from the initial weights of this run is not known: it is for linear functions (of several layers: without "
    "distractors); train without initial weights to compare."
)


def compare(
    run: Positional[Path],
    /,
    *,
    prompts: int = 10_000,
    seed: int = 1,
    json: Json = False,
    device: str | None = None,
) -> int:
    """Compares the layers of a run with as many steps of gradient descent, on the task they were trained on.

    On interleaved tokens, where the first layer has to copy, it is one step fewer. More than one step are those of GD++ too. The rates
    are the best ones.

    Args:
        run: a folder that `mesalens train` wrote
        prompts: fresh prompts for each seed
        seed: where the prompts come from
        json: print JSON alone on standard output
        device: where to compute: cpu, gpu, … (JAX's choice by default)
    """
    count("prompts", prompts, at_least=2)
    with on(device):
        settings, training = load_run(run)
        if _steps(settings) == 1:
            theory = _one_step(settings, random.key(seed))
            learners = {"gradient_descent": GradientDescent(theory.best_step_size)}
        else:
            theory = _many_steps(settings, random.key(seed))
            learners = {name: best.learner for name, best in theory.items()}
        keys = jax.random.split(random.measurement_key(seed), settings.seeds)
        measured = {
            name: _measured(
                training.learners, _from_start(learner, settings), name, settings.sampled_task(), keys, prompts
            )
            for name, learner in learners.items()
        }
    if json:
        print_json({"run": str(run)} | _plain(theory, measured))
        return 0
    if settings.tokens == "interleaved":
        print(
            "The first layer on interleaved tokens has to copy each y to its x: steps are one fewer than layers, at least one."
        )
    for name, estimates in measured.items():
        print(_in_words(theory, settings) if isinstance(theory, OneStepRisk) else _steps_in_words(name, theory[name]))
        table = Table("seed", *(measure.replace(name, NAMES[name]).replace("_", " ") for measure in estimates))
        for index in range(settings.seeds):
            cells = [
                f"{np.asarray(e.value)[index]:.4f} ± {np.asarray(e.standard_error)[index]:.4f}"
                for e in estimates.values()
            ]
            table.add_row(str(index), *cells)
        console().print(table)
    print("Means over fresh prompts ± standard error; differences are lengths, see mesalens.analysis.Alignment.")
    return 0


def _steps(settings: TrainingSettings) -> int:
    """As many as the layers that are left to descend."""
    return settings.layers if settings.tokens == "joint" else max(settings.layers - 1, 1)


def _one_step(settings: TrainingSettings, key: Key[Array, ""]) -> OneStepRisk:
    """The best step from W_0: exact for linear functions, else from moments that are simulated."""
    task = settings.task()
    if isinstance(task.functions, LinearFunctions):
        return one_step_risk(task, as_matrix(settings.initial_weights))
    if settings.initial_weights is not None:
        raise InputError(NO_START)
    return one_step_risk_from(simulated_moments(task, key=key, relative_error=0.01), task.context_length)


def _many_steps(settings: TrainingSettings, key: Key[Array, ""]) -> dict[str, DescentSteps]:
    """The best steps from W_0: from zero on the residuals `y - W_0 x`, which are linear functions of another mean."""
    start, residual = as_matrix(settings.initial_weights), settings
    if start is not None:
        functions = settings.task().functions
        if not isinstance(functions, LinearFunctions) or settings.distractors:
            raise InputError(NO_START)
        mean = (functions.weight_mean() - start) / functions.scale
        residual = settings.model_copy(update={"weight_mean": mean.tolist()})
    # Rates of its own for each step of GD++ could diverge on rare contexts
    asked = {"gradient_descent": {"shared": settings.looped}, "gd_plus_plus": {"data_correction": True}}
    steps, found = _steps(settings), {}
    with ProgressReport() as progress:
        for name, options in asked.items():
            progress.say(f"finding the best rates of {steps} steps of {NAMES[name]}")
            found[name] = best_steps(residual.sampled_task(), steps, key=key, **options)
    return found


def _from_start(learner: GradientDescent, settings: TrainingSettings) -> GradientDescent:
    """The same descent from the W_0 of the run."""
    if settings.initial_weights is None:
        return learner
    return dataclasses.replace(learner, initial_weights=jnp.asarray(settings.initial_weights, jnp.float32))


def _measured(
    layers: PyTree, descent: GradientDescent, name: str, task: Task, keys: Key[Array, " seeds"], prompts: int
) -> dict[str, Estimate]:
    """The risks of each seed's transformer and of descent on the same prompts, and how alike the two are."""

    def measure(layer, key):
        trained, of_descent = risks((layer, descent), task, key, prompts=prompts)
        alike = alignment(layer, descent, task, key, prompts=prompts)
        return trained, of_descent, alike.prediction_difference, alike.sensitivity_cosine, alike.sensitivity_difference

    names = ("risk", f"{name}_risk", "prediction_difference", "sensitivity_cosine", "sensitivity_difference")
    return dict(zip(names, eqx.filter_vmap(measure)(layers, keys), strict=True))


def _plain(theory: OneStepRisk | dict[str, DescentSteps], measured: dict[str, dict[str, Estimate]]) -> dict[str, Any]:
    """The keys of `--json`: for many steps, what is said of the seeds stands under the name of the descent they are compared with."""
    seeds = jax.tree.map(_plain_estimate, measured, is_leaf=lambda node: isinstance(node, Estimate))
    if isinstance(theory, OneStepRisk):
        exact = {"step_size": theory.best_step_size, "risk": theory.best_risk, "null_risk": theory.null_risk}
        return {"one_gradient_descent_step": exact, "seeds": seeds["gradient_descent"]}
    return {name: _plain_steps(best) for name, best in theory.items()} | {"seeds": seeds}


def _plain_steps(best: DescentSteps) -> dict[str, Any]:
    rates = {"step_size": Estimate(best.step_size, best.standard_error)}
    if best.data_correction is not None and best.correction_error is not None:
        rates["data_correction"] = Estimate(best.data_correction, best.correction_error)
    return {"steps": best.steps} | {name: _plain_estimate(e) for name, e in (rates | {"risk": best.risk}).items()}


def _plain_estimate(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": np.asarray(estimate.value).tolist(),
        "standard_error": np.asarray(estimate.standard_error).tolist(),
    }


def _in_words(theory: OneStepRisk, settings: TrainingSettings) -> str:
    known = "exact" if settings.functions == "linear" else "simulated"
    nothing = "0" if settings.initial_weights is None else "W_0 x"
    return (
        f"One step of gradient descent: best step size {theory.best_step_size:.6g}, {known} risk {theory.best_risk:.6g} "
        f"(predicting {nothing}: {theory.null_risk:.6g})."
    )


def _steps_in_words(name: str, best: DescentSteps) -> str:
    def listed(rates) -> str:
        return ("s " if np.ndim(rates) else " ") + ", ".join(f"{rate:.4g}" for rate in np.atleast_1d(rates))

    correction = "" if best.data_correction is None else f", data correction{listed(best.data_correction)}"
    return (
        f"{best.steps} steps of {NAMES[name]}: best step size{listed(best.step_size)}{correction}, "
        f"risk {float(best.risk.value):.4g} ± {float(best.risk.standard_error):.1g}."
    )
