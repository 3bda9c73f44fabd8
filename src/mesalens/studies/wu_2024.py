"""Wu, Zou, Chen, Braverman, Gu and Bartlett (2024): how many tasks one layer has to see."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr

from mesalens import analysis, atlas, models, tasks, theory, training
from mesalens.atlas import above, below, every_seed_below, figures, settings_of, within

STUDY = atlas.Study(
    "wu-2024",
    title="How Many Pretraining Tasks Are Needed for In-Context Learning of Linear Regression?",
    citation="Wu, Zou, Chen, Braverman, Gu and Bartlett, ICLR 2024, arXiv 2310.08391",
    system="x ~ N(0, H), w ~ N(0, ψ² I), noise σ²; one matrix, ŷ = ⟨x, Γ 1/N Σ yᵢxᵢ⟩, trained by "
    "one pass of SGD over T prompts, one task each, from Γ = 0, with a rate halved log T times.",
    note="Claims are those of the abstract; formulas are derived here. Γ is N times P. The first "
    "rate is a share of 1 / (tr H tr H̃), H̃ = E[s sᵀ]/N² for s = Σ yᵢxᵢ; errors are not halved.",
    unchecked={
        "effective dimension": "its constants are not known to us; what needs none is checked"
    },
    settings={"seeds": (6, 12, 24), "noise": 0.1, "length": 20, "share": 0.1, "others": (5, 100)}
    | {"flat": (7, 8), "power_law": (10, 40), "tasks": (2**13, 2**14, 2**15), "bayes": (2, 5, 10)},
    quick={"seeds": (6, 12), "flat": (8,), "tasks": (2**13, 2**15)},
    full={},
    paper={"flat": (10, 20), "tasks": (2**14, 2**15, 2**16), "power_law": (10, 20, 40)},
    small={"flat": (3,), "power_law": (4, 16), "tasks": (2**11, 2**13), "length": 10},
)
moments_of = atlas.remembered(theory.task_moments)


def law(H, length, noise, psi=1.0):
    """Prompts with x ~ N(0, H) and w ~ N(0, ψ² I)."""
    factors = tasks.Gaussian(len(H), covariance=H), tasks.LinearFunctions(len(H), scale=psi)
    noise = tasks.GaussianNoise(noise)
    return tasks.RegressionTask(*factors, noise=noise, context_length=length)


def drawn(lab, length):
    """A task with a random covariance for each seed, with ψ² = 2 in every other seed."""
    factor = lab.rng().normal(size=(5, 10))
    return law(factor @ factor.T / 10, length, lab.settings.noise, np.sqrt(1.0 + lab.seed % 2))


def moments_by_formula(task, noise=1.0):
    """H, and E[s sᵀ]/N² = ψ² ((N+1)/N H² + (tr H + σ²/ψ²)/N H)."""
    H, psi, N = task.covariates.second_moment(), task.functions.scale**2, task.context_length
    spread = np.trace(H) + noise * task.noise.variance / psi
    return H, psi * ((N + 1) / N * H @ H + spread / N * H)


@STUDY.experiment
def one_pass(s, slower=1.0, power=2.0):
    """One pass from Γ = 0, for H = I and for eigenvalues i⁻², for several d and T."""
    spectra = {f"H = I, d = {d}": np.ones(d) for d in s.flat}
    spectra |= {f"i⁻², d = {d}": np.arange(1.0, d + 1) ** -power for d in s.power_law}

    def of(spectrum, steps):
        task, d = law(np.diag(spectrum), s.length, s.noise), len(spectrum)
        H, K = moments_by_formula(task)
        share = s.share if np.ptp(spectrum) == 0 else s.share / 2  # heavier tails
        rate = share / slower / (np.trace(H) * np.trace(K)) / s.length**2  # for P, which is Γ/N
        zero = models.DescentStep(jnp.zeros((1, 1, d, d)))
        layer = models.LinearTransformer(zero, layers=1)
        given: Any = {"task": task, "model": lambda key: layer, "steps": steps, "batch_size": 1}
        return atlas.Experiment(optimiser=training.SGD(rate, schedule="geometric"), **given)

    return {f"{name}, T = {T}": of(each, T) for name, each in spectra.items() for T in s.tasks}


@STUDY.measurement
def excess(lab, trained=one_pass):
    """The exact excess R(Γ) - R(Γ*), for each spectrum and T."""

    def of(run):
        P, moments = analysis.learned_preconditioner(run.learner)[0], moments_of(run.task)
        return theory.preconditioned_risk(P, moments) - theory.best_preconditioner(moments)[1]

    labels = {"law": list(dict.fromkeys(label.rpartition(",")[0] for label in trained))}
    labels |= {"tasks": list(lab.settings.tasks)}
    found = [[of(trained[f"{law}, T = {T}"]) for T in labels["tasks"]] for law in labels["law"]]
    return xr.Dataset({"excess": (("law", "tasks"), found)}, labels)


@STUDY.claim("Abstract", every_seed_below(1e-9), headline=True, must_fail_on={"noise": 0.0})
def best_matrix(lab, noise=1.0):
    """The best matrix is ((N+1)/N H + (tr H + σ²/ψ²)/N I)⁻¹.

    Measured: ‖Γ* - formula‖_F / ‖formula‖_F, with Γ* from exact moments; a random H for each seed.
    """
    task = drawn(lab, lab.settings.length)
    H, K = moments_by_formula(task, noise)
    formula = np.linalg.inv(np.linalg.solve(H, K) / task.functions.scale**2)
    away = task.context_length * theory.best_preconditioner(moments_of(task))[0] - formula
    return np.linalg.norm(away) / np.linalg.norm(formula)


@STUDY.claim("Abstract", every_seed_below(1e-9), headline=True, must_fail_on={"noise": 0.0})
def excess_formula(lab, noise=1.0):
    """The excess risk of any Γ is ⟨H, (Γ - Γ*) H̃ (Γ - Γ*)ᵀ⟩, for context length N and others.

    Measured: R_M(Γ) divided by the formula, minus 1, for a random Γ, M = N and other lengths.
    """
    task, gamma = drawn(lab, lab.settings.length), lab.rng("matrix").normal(size=(5, 5))

    def away(M):
        other = drawn(lab, M)
        H, K = moments_by_formula(other, noise)
        change = gamma - task.functions.scale**2 * np.linalg.solve(K, H).T
        formula = theory.best_preconditioner(moments_of(other))[1] + np.trace(
            H @ change @ K @ change.T
        )
        return abs(theory.risk_at_length(task, M, gamma / task.context_length) / formula - 1)

    return settings_of(away, (lab.settings.length, *lab.settings.others), "examples")


SLOWER = excess.given(trained=one_pass.given(slower=1e4))
ALL_ALIKE = excess.given(trained=one_pass.given(power=0.0))


@STUDY.claim("Abstract", within(0.2), headline=True, must_fail_on={"measured": SLOWER})
def tasks_needed(lab, measured=excess):
    """For H = I, the excess risk falls like 1/T in the number T of tasks.

    Measured: the slope of the log exact excess in log T over all T, plus 1, for each d.
    """
    ends = np.log(measured.excess).isel(tasks=[0, -1], law=slice(len(lab.settings.flat)))
    return ends.diff("tasks").isel(tasks=0, drop=True) / np.log(ends.tasks).diff("tasks").item() + 1


@STUDY.claim("Abstract", below(1.2), headline=True, must_fail_on={"measured": ALL_ALIKE})
def dimension_free(lab, measured=excess):
    """For eigenvalues i⁻², the excess risk after a fixed number of tasks does not grow with d.

    Measured: excess at the largest d over that at the smallest, a quarter of it, for the first T.
    """
    of_laws = measured.excess.isel(tasks=0).values[len(lab.settings.flat) :]
    return of_laws[-1] / of_laws[0]


@STUDY.claim("Abstract", below(2.0), headline=True, must_fail_on={"noise": 0.01, "longer": 10})
def near_bayes_at_own_length(lab, noise=1.0, longer=1):
    """With noise, and no more examples than dimensions, the risk of the best layer minus the noise
    variance is within a factor of two of that of the Bayes predictor.

    Measured: (R - σ²) / (R_Bayes - σ²), H = I, d = 10, σ² from 1 to 2; R exact, R_Bayes simulated.
    """
    noise = noise * lab.rng().uniform(1, 2)

    def ratio(n):
        task = law(np.eye(10), longer * n, noise)
        bayes = theory.bayes_risk(task, key=lab.key(str(n))).value
        return (theory.best_preconditioner(moments_of(task))[1] - noise) / (bayes - noise)

    return settings_of(ratio, lab.settings.bayes, "examples")


@STUDY.claim("Abstract", above(1.25), headline=True, must_fail_on={"same": True})
def other_length_hurts(lab, same=False):
    """On contexts of a quarter, or five times, the length N, the risk of the layer for N minus the
    noise variance is at least a quarter above that of the layer for that length.

    Measured: (R_M(Γ_N) - σ²) / (R_M(Γ_M) - σ²), eigenvalues 1/i, d = 10, σ² from 0.05 to 0.15.
    """
    noise, H = lab.rng().uniform(0.05, 0.15), np.diag(1 / np.arange(1.0, 11))

    def ratio(M):
        risks = (theory.risk_at_length(law(H, N, noise), M) for N in (M if same else 20, M))
        return np.divide(*(risk - noise for risk in risks))

    return settings_of(ratio, lab.settings.others, "examples")


@STUDY.figure(shows=[other_length_hurts, near_bayes_at_own_length])
def at_other_lengths(lab):
    """Risk minus the noise variance against the context length: of the best layer for 20 examples,
    of the best for each length, and of the Bayes predictor. d = 10, eigenvalues 1/i, σ² = 0.1.
    """
    H, noise, lengths = np.diag(1 / np.arange(1.0, 11)), 0.1, (3, 5, 10, 20, 40, 80, 160, 320)
    own = [law(H, M, noise) for M in lengths]
    risks = {
        "best layer for N = 20": [theory.risk_at_length(law(H, 20, noise), M) for M in lengths],
        "best layer for each length": [
            theory.best_preconditioner(moments_of(each))[1] for each in own
        ],
        "Bayes": [theory.bayes_risk(each, key=lab.key()).value for each in own],
    }
    lines = {name: (lengths, np.array(each) - noise) for name, each in risks.items()}
    options: Any = {"ylabel": "excess risk", "yscale": "log", "xscale": "log"}
    return figures.risk_against("examples M", lines, {}, **options)


@STUDY.figure(shows=[tasks_needed, dimension_free])
def excess_over_tasks(lab, measured=excess):
    """Exact excess risk against the number of tasks seen, a dot for each seed. The lines fall like
    1/T, as claimed if all eigenvalues are 1.
    """
    points = {str(law): measured.excess.sel(law=law, drop=True) for law in measured.law.values}
    T, flat = measured.tasks, measured.law.values[: len(lab.settings.flat)]
    lines = {f"{law}: 1/T": (T, float((points[law] * T)[..., -1].mean()) / T) for law in flat}
    options: Any = {"ylabel": "excess risk", "yscale": "log", "xscale": "log"}
    return figures.risk_against("tasks T", lines, points, **options)
