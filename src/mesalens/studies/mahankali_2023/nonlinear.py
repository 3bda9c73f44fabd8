"""Part `nonlinear`: families of nonlinear functions, rotation-invariant, f and -f equally likely (Theorem 3)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from mesalens import plots
from mesalens.simulation import expectation
from mesalens.studies.criterion import Evidence, below, within
from mesalens.studies.mahankali_2023.laboratory import Laboratory, away, by_setting, identity_part
from mesalens.studies.study import Claim, Figure, Findings, Part
from mesalens.tasks import Gaussian, RegressionTask
from mesalens.theory import best_descent, estimate, lower_bound, simulated_moments

PLACE = "Section 5, Theorem 3"

CLAIMS = (
    Claim(
        "sign-symmetry",
        "In the families of this part f and -f are equally likely, as the theorem asks.",
        f"{PLACE}, assumptions",
        "E sign(y₁), E sign(y₁ + y₂ + y₃) and, for each entry xₐ of an input, E sign(y₁x₁ₐ), over prompts, for each family",
        within(0.02),
    ),
    Claim(
        "rotation-invariance",
        "The best step of preconditioned descent is plain: P* is a multiple of the identity.",
        PLACE,
        "‖P* - p I‖_F / ‖p I‖_F with p = tr P*/d, P* from simulated moments that are told of no symmetry, for each family",
        below(0.05),
    ),
    Claim(
        "nonlinear-certificate",
        "No layer of linear self-attention has less risk than one step of gradient descent on the least-squares loss of a linear model.",
        PLACE,
        "(risk of the best step - certified bound) / bound, from simulated moments, for each family",
        within(0.01),
    ),
    Claim(
        "nonlinear-prompts",
        "Layers that are trained on prompts of a nonlinear family come to the risk of that step.",
        PLACE,
        "R / R_step - 1, both from the simulated moments",
        within(0.01),
    ),
    Claim(
        "nonlinear-step-size",
        "What they learn is gradient descent with the step size of that family.",
        PLACE,
        "p / p* - 1, p = tr P/d of the trained layer and p* of the best step",
        within(0.05),
    ),
)


def run(laboratory: Laboratory) -> Findings:
    """Simulates the moments of every family, and trains on the first."""
    budget = laboratory.budget
    tasks = {
        name: RegressionTask(Gaussian(budget.dim), family, context_length=budget.context_length)
        for name, family in laboratory.families(budget.dim).items()
    }
    symmetry, identity, gap, preconditioners = {}, {}, {}, {}
    for place, (name, task) in enumerate(tasks.items()):
        symmetry[name] = odd_signs(task, laboratory, place)
        found = [solve(task, laboratory, place, seed) for seed in range(laboratory.seeds)]
        identity[name] = xr.DataArray([values["away"] for values in found], dims="seed")
        gap[name] = xr.DataArray([values["gap"] for values in found], dims="seed")
        preconditioners[name] = np.stack([values["P"] for values in found])
    first = next(iter(tasks))
    layers = laboratory.sampled(first, tasks[first])
    P, risk = best_descent(layers.moments)
    learned, left = identity_part(layers.preconditioners()), layers.trained()
    return Findings(
        evidence={
            "sign-symmetry": Evidence(by_setting(symmetry, "family")),
            "rotation-invariance": Evidence(by_setting(identity, "family")),
            "nonlinear-certificate": Evidence(by_setting(gap, "family")),
            "nonlinear-prompts": Evidence(
                xr.DataArray(layers.risks() / risk - 1, dims="seed"), left
            ),
            "nonlinear-step-size": Evidence(
                xr.DataArray(learned / identity_part(P) - 1, dims="seed"), left
            ),
        },
        figures=[step_figure(preconditioners, first, layers.preconditioners()[left.values])],
        datasets={
            "nonlinear": xr.Dataset(
                {"gap": by_setting(gap, "family"), "away": by_setting(identity, "family")}
            )
        },
        learners={"nonlinear": layers.training.learners},
        remarks=[layers.remark(f"prompts of {first}")],
    )


def odd_signs(task: RegressionTask, laboratory: Laboratory, place: int) -> xr.DataArray:
    """Statistics that change sign with f, for each seed."""
    examples = RegressionTask(
        task.covariates, task.functions, context_length=2
    )  # two and the query

    def signs(prompt, target):
        y = jnp.append(prompt.ys[:, 0], target)
        return jnp.sign(jnp.stack([y[0], jnp.sum(y), *(y[0] * prompt.xs[0])]))

    @eqx.filter_jit
    def means(keys):
        return jax.lax.map(
            lambda key: expectation(signs, examples, key, prompts=laboratory.budget.prompts).value,
            keys,
        )

    keys = jax.random.split(laboratory.key(3, place), laboratory.seeds)
    return xr.DataArray(
        np.asarray(means(keys), np.float64),
        dims=("seed", "statistic"),
        coords={"statistic": ["y₁", "y₁+y₂+y₃", *(f"y₁x₁,{a + 1}" for a in range(task.dim))]},
    )


def solve(task: RegressionTask, laboratory: Laboratory, place: int, seed: int) -> dict:
    """P* and the relative gap, from moments simulated for one seed."""
    key = laboratory.key(4, place, seed)
    moments = simulated_moments(task, key=key, relative_error=laboratory.budget.relative_error)

    def of(these):
        P, risk = best_descent(these)
        bound = lower_bound(these)
        return {"P": P, "gap": (risk - bound) / bound}

    values, _ = estimate(of, moments)
    P = values["P"]
    return values | {"away": away(P, identity_part(P) * np.eye(len(P)))}


def step_figure(preconditioners: dict[str, np.ndarray], first: str, learned: np.ndarray) -> Figure:
    """Diagonal and other entries of P* for each family."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    d = learned.shape[-1]
    others = ~np.eye(d, dtype=bool)
    families = list(preconditioners)
    for place, name in enumerate(families):
        for matrices, offset, color, label in (
            (preconditioners[name], -0.14, plots.REFERENCE, "best step, from moments"),
            (learned if name == first else None, 0.14, plots.TRAINED, "trained layers"),
        ):
            if matrices is None:
                continue
            scale = identity_part(preconditioners[name]).mean()
            diagonal = np.diagonal(matrices, axis1=1, axis2=2).ravel() / scale
            shown = label if place == 0 else None
            axes.plot(
                np.full(len(diagonal), place + offset),
                diagonal,
                "o",
                color=color,
                markersize=4,
                alpha=0.5,
                label=shown,
            )
            rest = matrices[:, others].ravel() / scale
            axes.plot(
                np.full(len(rest), place + offset), rest, "x", color=color, markersize=4, alpha=0.4
            )
    axes.axhline(1, color=plots.NEUTRAL, linewidth=0.8, linestyle=":")
    axes.axhline(0, color=plots.NEUTRAL, linewidth=0.8, linestyle=":")
    labels = [f"{name}\np = {identity_part(preconditioners[name]).mean():.3g}" for name in families]
    axes.set(
        xticks=range(len(families)),
        xticklabels=labels,
        ylabel="entries of P / p",
        xlim=(-0.5, len(families) - 0.5),
        ylim=(-0.4, 1.5),
    )
    axes.legend(loc="center right")
    return Figure(
        "nonlinear",
        "Entries of the best preconditioner P*, in units of its mean diagonal p, for families of nonlinear functions: the diagonal (dots) lies at 1 and "
        "all other entries (crosses) at 0, so that P* = p I is plain gradient descent with the step size p of the family. Each mark is one entry for one "
        f"seed, from moments that were told of no symmetry. Blue: layers trained on prompts of {first}.",
        figure,
    )


PART = Part("nonlinear", "Theorem 3: nonlinear functions", CLAIMS, run)
