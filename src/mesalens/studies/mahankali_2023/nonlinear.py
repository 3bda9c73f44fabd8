"""Part `nonlinear`: rotation-invariant functions, f and -f equally likely (Theorem 3)."""

import numpy as np
import xarray as xr

from mesalens import analysis, tasks, theory
from mesalens.atlas import below, figures, within
from mesalens.studies.mahankali_2023 import study

part = study.STUDY.part("nonlinear", "Theorem 3: nonlinear functions")
PLACE = "Section 5, Theorem 3"


def symmetric(s):
    """Tasks with rotation-invariant families in which f and -f are equally likely."""
    families = {
        "relu networks": tasks.TwoLayerNetworks(s.dim, hidden=16, activation="relu"),
        "sines": tasks.Cosines(s.dim, frequency=2.0, phase=np.pi / 2),
        "cubic polynomials": tasks.RotatedPolynomials(s.dim),
    }
    x, n = tasks.Gaussian(s.dim), s.context_length
    return {f: tasks.RegressionTask(x, families[f], context_length=n) for f in s.families}


def asymmetric(s):
    """Linear functions whose weights have a mean, which have neither symmetry."""
    return {"a mean": study.linear_task(s.dim, s.context_length, 0.0, mean=np.ones((1, s.dim)))}


@part.experiment
def nonlinear_sampled(s):
    """Layers trained on prompts of the first family."""
    return study.trained_layer(s, symmetric(s)[s.families[0]], "sampled")


def step_size(P):
    """The step size p = tr P/d of P = p I."""
    return np.trace(P) / len(P)


@part.measurement
def solved(lab, families=symmetric):
    """P* of each family, its distance from p I, and the gap to the bound, from simulations."""

    def values(moments):
        P, risk = theory.best_preconditioner(moments)
        return {"P": P, "gap": risk / theory.lower_bound(moments) - 1}

    rows, error = {}, lab.settings.relative_error
    for name, task in families(lab.settings).items():
        moments = theory.simulated_moments(task, key=lab.key(name), relative_error=error)
        row, _ = theory.estimate(values, moments)
        away = study.away(row["P"], step_size(row["P"]) * np.eye(task.dim))
        rows[name] = xr.Dataset(row | {"P": (("row", "column"), row["P"]), "away": away})
    return xr.concat(rows.values(), "family").assign_coords(family=[*rows])


ASYMMETRIC = {"solved": solved.given(families=asymmetric)}


@part.claim(f"{PLACE}, assumptions", within(0.02), must_fail_on={"families": asymmetric})
def sign_symmetry(lab, families=symmetric):
    """In the families of this part, f and -f are equally likely, as the theorem assumes.

    Measured: E sign(y₁), E sign(y₁ + y₂ + y₃) and, for each entry xₐ of an input, E sign(y₁x₁ₐ),
    over prompts, for each family.
    """
    rows = {}
    for name, task in families(lab.settings).items():
        signs = analysis.odd_signs(task, lab.key(name), prompts=lab.settings.prompts)
        rows[name] = xr.Dataset(signs).to_dataarray("statistic")
    return xr.Dataset(rows).to_dataarray("family")


@part.claim(PLACE, below(0.05), headline=True, must_fail_on=ASYMMETRIC)
def rotation_invariance(lab, solved=solved):
    """The best preconditioned step is a plain step of gradient descent: P* is a multiple of the
    identity.

    Measured: ‖P* - p I‖_F / ‖p I‖_F with p = tr P*/d, for each family, with P* from simulated
    moments that do not use the symmetry.
    """
    return solved.away


@part.claim(PLACE, within(0.01), headline=True, must_fail_on=ASYMMETRIC)
def nonlinear_certificate(lab, solved=solved):
    """No layer of linear self-attention has less risk than one step of gradient descent on the
    least-squares loss of a linear model.

    Measured: (risk of the best step - certified bound) / bound, simulated, for each family.
    """
    return solved.gap


@part.claim(PLACE, within(0.01), headline=True, must_fail_on="untrained")
def nonlinear_prompts(lab, trained=nonlinear_sampled):
    """Layers trained on prompts of a nonlinear family reach the risk of that step.

    Measured: R / R_step - 1, both from the same simulated moments.
    """
    moments = study.moments_of(trained.task, lab.settings.relative_error)
    return theory.layer_risk(trained.learner, moments) / theory.best_preconditioner(moments)[1] - 1


@part.claim(PLACE, within(0.05), headline=True, must_fail_on="untrained")
def nonlinear_step_size(lab, trained=nonlinear_sampled):
    """These layers learn gradient descent with the best step size for the family.

    Measured: p / p* - 1, with p = tr P/d of the trained layer and p* of the best step.
    """
    best, _ = theory.best_preconditioner(
        study.moments_of(trained.task, lab.settings.relative_error)
    )
    return step_size(study.learned(trained)) / step_size(best) - 1


@part.figure(shows=[rotation_invariance, nonlinear_step_size])
def nonlinear(lab, solved=solved, sampled=nonlinear_sampled):
    """Entries of the best preconditioner P* of each family, in units of its mean diagonal p. The
    diagonal is at 1 and all other entries are at 0: P* = p I is plain gradient descent with step
    size p. A dot is one entry for one seed, from moments that do not use the symmetry; next to them
    are the entries that layers trained on prompts of {first} learned.
    """
    first, diagonal = lab.settings.families[0], np.eye(lab.settings.dim, dtype=bool)
    best = {name: solved.P.sel(family=name).values for name in lab.settings.families}
    trained = {first: np.stack([study.learned(run) for run in sampled.shown])}
    p = {family: step_size(P.mean(0)) for family, P in best.items()}
    points = {}
    for who, matrices in {"best step": best, "trained layers": trained}.items():
        labels = {"family": [f"{family}\np = {p[family]:.3g}" for family in matrices]}
        for which, where in {"diagonal": diagonal, "other entries": ~diagonal}.items():
            values = [P[:, where].ravel() / p[family] for family, P in matrices.items()]
            points[f"{who}: {which}"] = xr.DataArray(values, labels, ("family", "seed"))
    drawn = figures.risk_against("family", {}, points, ylabel="entries of P / p")
    return drawn, {"first": first}
