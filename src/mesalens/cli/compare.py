"""`mesalens compare`."""

from pathlib import Path

import equinox as eqx
import jax
from rich.table import Table

from mesalens import random
from mesalens.analysis import alignment, risks
from mesalens.checks import count
from mesalens.cli.device import on
from mesalens.cli.output import Json, Positional, console, print_json
from mesalens.learners import GradientDescent
from mesalens.tasks import LinearFunctions
from mesalens.theory import one_step_risk, one_step_risk_from, simulated_moments
from mesalens.training import load_run


def compare(
    run: Positional[Path],
    /,
    *,
    prompts: int = 10_000,
    seed: int = 1,
    json: Json = False,
    device: str | None = None,
) -> int:
    """Compares the layers of a run with one step of gradient descent, on the task they were trained on.

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
        task = settings.task()
        linear = isinstance(task.functions, LinearFunctions)
        theory = (
            one_step_risk(task)
            if linear
            else one_step_risk_from(
                simulated_moments(task, key=random.key(seed), relative_error=0.01), task.context_length
            )
        )
        descent = GradientDescent(theory.best_step_size)

        def measure(layer, key):
            trained, gd = risks((layer, descent), task, key, prompts=prompts)
            alike = alignment(layer, descent, task, key, prompts=prompts)
            return {
                "risk": trained,
                "gradient_descent_risk": gd,
                "prediction_difference": alike.prediction_difference,
                "sensitivity_cosine": alike.sensitivity_cosine,
                "sensitivity_difference": alike.sensitivity_difference,
            }

        keys = jax.random.split(random.measurement_key(seed), settings.seeds)
        measured = eqx.filter_vmap(measure)(training.learners, keys)
        measured = {
            name: measured[name] for name in sorted(measured, key=lambda name: "risk" not in name)
        }  # risks first
    exact = {"step_size": theory.best_step_size, "risk": theory.best_risk, "null_risk": theory.null_risk}
    if json:
        estimates = {
            name: {"value": estimate.value.tolist(), "standard_error": estimate.standard_error.tolist()}
            for name, estimate in measured.items()
        }
        print_json({"run": str(run), "one_gradient_descent_step": exact, "seeds": estimates})
        return 0
    print(
        f"One step of gradient descent: best step size {theory.best_step_size:.6g}, {'exact' if linear else 'simulated'} risk {theory.best_risk:.6g} "
        f"(predicting 0: {theory.null_risk:.6g})."
    )
    table = Table("seed", *(name.replace("_", " ") for name in measured))
    for index in range(settings.seeds):
        cells = [f"{e.value[index]:.4f} ± {e.standard_error[index]:.4f}" for e in measured.values()]
        table.add_row(str(index), *cells)
    console().print(table)
    print("Means over fresh prompts ± standard error; differences are lengths, see mesalens.analysis.Alignment.")
    return 0
