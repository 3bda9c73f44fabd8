"""Part `covariance`: x ~ N(0, Σ), w ~ N(0, Σ⁻¹) (Theorem 2)."""

import numpy as np
import xarray as xr

from mesalens import tasks, theory
from mesalens.atlas import every_seed_below, figures, within
from mesalens.studies.mahankali_2023 import study

part = study.STUDY.part("covariance", "Theorem 2: inputs with a covariance")
PLACE = "Section 4, Theorem 2"
THEOREM = "Σ⁻¹ / (n + d + 1 + σ²)"
PLAIN = {"power": 0}


def task_of(s, sigma):
    """The task of a covariance Σ."""
    covariates, inverse = tasks.Gaussian(s.dim, covariance=sigma), np.linalg.inv(sigma)
    prior = (inverse + inverse.T) / 2
    return study.linear_task(s.dim, s.context_length, s.noise, covariates, covariance=prior)


def drawn(lab):
    """The task of a random Σ for each seed."""
    return task_of(lab.settings, study.random_covariance(lab.rng(), lab.settings.dim))


def claimed(task, power=-1):
    """Σ^power / (n + d + 1 + σ²): Σ⁻¹ as in the theorem, or Σ⁰ = I, as in Theorem 1."""
    step = theory.isotropic_step_size(task.dim, task.context_length, task.noise.variance)
    return (
        step / task.context_length * np.linalg.matrix_power(task.covariates.second_moment(), power)
    )


@part.experiment
def covariance_layer(s, objective="population"):
    """A layer trained on the task of one Σ, with eigenvalues from 1/3 to 3 in a random frame."""
    rng = np.random.default_rng(s.task_seed)
    frame, _ = np.linalg.qr(rng.normal(size=(s.dim, s.dim)))
    sigma = (frame * np.geomspace(1 / 3, 3, s.dim)) @ frame.T
    return study.trained_layer(s, task_of(s, (sigma + sigma.T) / 2), objective)


SAMPLED = covariance_layer.given(objective="sampled")


@part.claim(PLACE, every_seed_below(1e-9), headline=True, must_fail_on=PLAIN, name="preconditioner")
def best_preconditioner(lab, power=-1):
    """The best preconditioned step of gradient descent has the preconditioner Σ⁻¹ and the step size
    η = 1/(n + d + 1 + σ²).

    Measured: ‖P* - Σ⁻¹ η‖_F / ‖Σ⁻¹ η‖_F, with P* from exact moments; a random Σ for each seed.
    """
    task = drawn(lab)
    return study.away(theory.best_preconditioner(study.moments_of(task))[0], claimed(task, power))


@part.claim(PLACE, every_seed_below(1e-9), headline=True, must_fail_on=PLAIN)
def preconditioned_certificate(lab, power=-1):
    """No layer of linear self-attention has less risk than that step.

    Measured: (risk of the step - certified bound) / bound; a random Σ for each seed.
    """
    task = drawn(lab)
    return study.step_gap(claimed(task, power), task)


@part.claim(PLACE, every_seed_below(0.01), headline=True, must_fail_on=PLAIN)
def learned_preconditioner(lab, trained=covariance_layer, power=-1):
    """Layers trained on the population loss learn the preconditioner Σ⁻¹.

    Measured: ‖P - Σ⁻¹ η‖_F / ‖Σ⁻¹ η‖_F, with P from the trained weights.
    """
    return study.away(study.learned(trained), claimed(trained.task, power))


@part.claim(PLACE, within(0.01), must_fail_on={"longer": 2})
def preconditioned_prompts(lab, trained=SAMPLED, longer=1):
    """Layers trained on prompts reach the bound.

    Measured: R / bound - 1, with the exact R.
    """
    return study.gap(trained, longer)


@part.figure(shows=[learned_preconditioner, preconditioned_prompts])
def preconditioner(lab, trained=covariance_layer, sampled=SAMPLED):
    """P of the prediction x_queryᵀ P Σ yᵢxᵢ, from the weights of a layer trained on the exact risk
    (left) and of one trained on prompts (middle), and by the theorem (right).
    """
    runs = {"trained on the risk": trained, "trained on prompts": sampled}
    shown = {label: study.learned(each.shown[0]) for label, each in runs.items()}
    return figures.matrices({"": shown | {THEOREM: claimed(trained[0].task)}})


@part.figure(shows=[learned_preconditioner, preconditioned_prompts])
def spectrum(lab, trained=covariance_layer, sampled=SAMPLED):
    """Eigenvalues of the preconditioner by the theorem (bars) and of the symmetric part of the
    learned ones (one dot per seed): large in directions in which inputs vary little.
    """
    numbers = [str(place + 1) for place in range(lab.settings.dim)]  # as words, which have bars

    def eigenvalues(P):
        return np.linalg.eigvalsh((P + P.T) / 2)[::-1]

    points = {}
    for label, runs in {"trained on the risk": trained, "trained on prompts": sampled}.items():
        values = [eigenvalues(study.learned(run)) for run in runs.shown]
        points[label] = xr.DataArray(values, {"number": numbers}, ("seed", "number"))
    lines = {THEOREM: (numbers, eigenvalues(claimed(trained[0].task)))}
    xlabel, ylabel = "number of the eigenvalue", "eigenvalue of P"
    return figures.risk_against(xlabel, lines, points, ylabel=ylabel)
