"""Zhang, Wu and Bartlett (2024): attention followed by a linear MLP is descent from a start."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from mesalens import atlas, learners, models, tasks, theory, training
from mesalens.atlas import above, below, every_seed_below, figures, settings_of

STUDY = atlas.Study(
    "zhang-2024",
    title="In-Context Learning of a Linear Transformer Block: Benefits of the MLP Component and "
    "One-Step GD Initialization",
    citation="Zhang, Wu and Bartlett, NeurIPS 2024, arXiv 2402.14951",
    system="x ~ N(0, H), w ~ N(β, Ψ), noise σ²; one layer of linear attention, then a linear MLP "
    "W₂ᵀW₁ on its tokens (LTB); GD-β: one preconditioned step of gradient descent from a start, "
    "where both preconditioner and start are free.",
    note="Claims are those of the abstract: the paper's text was not available. Formulas are "
    "derived here. Γ is n times the P of the package.",
    unchecked={
        "GPT-2 with and without MLP": "it is trained on losses at every position, which the "
        "package does not have yet"
    },
    settings={"seeds": (5, 10, 20), "dim": 4, "length": 8, "noise": 0.25, "steps": 3000}
    | {"lengths": (0.5, 1.0, 2.0), "bayes": (1, 2, 4), "prompts": 4000, "mean": 1.0},
    quick={},
    full={"seeds": (20,), "lengths": (0.25, 0.5, 1.0, 2.0, 4.0), "steps": 6000},
    paper={"seeds": (20,), "dim": 10, "length": 20, "steps": 20_000},
    small={"dim": 2, "length": 4, "steps": 1500, "prompts": 1000},
)
PLACE = "Abstract"
moments_of = atlas.remembered(theory.task_moments)
best_step = atlas.remembered(theory.best_started_step)


def law(s, rng, mean=None, length=None, noise=None) -> Any:
    """A task with random H and Ψ; `mean` is the length ‖β‖_H of the mean."""
    d = s.dim
    H, Psi = (factor @ factor.T / (8 * d) for factor in rng.normal(size=(2, d, 8 * d)))
    beta = rng.normal(size=(1, d))
    beta *= (s.mean if mean is None else mean) / np.sqrt((beta @ H @ beta.T).item())
    functions = tasks.LinearFunctions(d, covariance=Psi, mean=beta)
    noise = tasks.GaussianNoise(s.noise if noise is None else noise)
    covariates = tasks.Gaussian(d, covariance=H)
    return tasks.RegressionTask(
        covariates, functions, context_length=length or s.length, noise=noise
    )


@STUDY.experiment
def block(s):
    """An LTB trained on the exact risk; each seed draws its own task."""
    structure = {"kind": "linear-block"}
    adam = {"kind": "adam", "learning_rate": 0.02, "b2": 0.999, "clip": 100.0, "schedule": "cosine"}
    return atlas.Experiment(
        task=lambda rng: law(s, rng),
        model={"kind": "linear-transformer", "structure": structure, "init_scale": 0.5},
        optimiser=adam,
        objective="population",
        steps=s.steps,
        batch_size=1,
        counts=atlas.LeftPlateau(
            reference=lambda run: best_step(run.task).risk,
            share=0.8,
        ),
    )


def gd_beta(trained):
    """The best GD-β."""
    best, n = best_step(trained.task), trained.task.context_length
    start = jnp.asarray(best.initial_weights, jnp.float32)
    P = jnp.asarray(n * best.preconditioner.T, jnp.float32)
    return learners.GradientDescent(1.0, preconditioner=P, initial_weights=start)


def from_zero(trained):
    """The same step from zero."""
    return dataclasses.replace(gd_beta(trained), initial_weights=None)


beside = atlas.compared.given(trained=block, reference=gd_beta)
beside_zero = atlas.compared.given(trained=block, reference=from_zero)


@STUDY.claim(PLACE, every_seed_below(1e-9), headline=True, must_fail_on={"noisy": 0})
def gd_beta_optimum(lab, noisy=1):
    """The best GD-β starts from β and has the matrix Ψ ((n+1)/n HΨ + (tr(HΨ) + σ²)/n I)⁻¹.

    Measured: ‖Γ - formula‖_F / ‖formula‖_F + ‖W_0 - β‖ / ‖β‖, from exact moments; random H, Ψ and
    β.
    """
    task = law(lab.settings, lab.rng())
    H, Psi = task.covariates.second_moment(), task.functions.row_covariance()
    n, noise, signal = task.context_length, noisy * task.noise.variance, H @ Psi
    spread = (n + 1) / n * signal + (np.trace(signal) + noise) / n * np.eye(len(H))
    formula, found = Psi @ np.linalg.inv(spread), best_step(task)
    away = np.linalg.norm(n * found.preconditioner - formula) / np.linalg.norm(formula)
    beta = task.functions.weight_mean()
    return away + np.linalg.norm(found.initial_weights - beta) / np.linalg.norm(beta)


@STUDY.claim(PLACE, every_seed_below(1e-9), headline=True, must_fail_on={"start": False})
def gd_beta_certificate(lab, start=True):
    """No LTB, with any number of heads, has less risk than the best GD-β.

    Measured: |R / bound - 1|, with the bound for all predictors that are linear in (S, 1) ⊗
    x_query; both exact.
    """
    task = law(lab.settings, lab.rng())
    return abs(best_step(task).risk / theory.lower_bound(moments_of(task), start=start) - 1)


@STUDY.claim(PLACE, below(0.03), headline=True, must_fail_on={"beside": beside_zero})
def block_is_gd_beta(lab, beside=beside):
    """An LTB that is trained on the exact risk and leaves its plateaus becomes the best GD-β.

    Measured: E‖ŷ - ŷ_GDβ‖ / E‖ŷ_GDβ‖, on fresh prompts; a seed counts if it gains more than 80% of
    what the best GD-β gains over predicting 0.
    """
    return beside.relative_prediction_difference


@STUDY.claim(PLACE, above(0.001), headline=True, must_fail_on={"shrunk": 0.0})
def attention_has_a_gap(lab, shrunk=1.0):
    """Attention alone, with any number of heads, has more risk than the best GD-β if β is not 0.

    Measured: bound / R_GDβ - 1, both exact, for several lengths ‖β‖_H.
    """

    def gap(length):
        task = law(lab.settings, lab.rng(), shrunk * length)
        return theory.lower_bound(moments_of(task)) / best_step(task).risk - 1

    return settings_of(gap, lab.settings.lengths, "length of β")


@STUDY.claim(PLACE, below(2.0), headline=True, must_fail_on={"noise": 0.001, "longer": 20})
def near_bayes(lab, noise=1.0, longer=1):
    """With noise, and no more examples than dimensions, the best GD-β is nearly as good as the
    Bayes predictor: its risk minus the noise variance is at most twice as large.

    Measured: (R - σ²) / (R_Bayes - σ²) for several n; R exact, R_Bayes simulated.
    """

    def ratio(n):
        task = law(lab.settings, lab.rng(), length=longer * n, noise=noise)
        bayes, sigma = theory.bayes_risk(task, key=lab.key(str(n))).value, task.noise.variance
        return (best_step(task).risk - sigma) / (bayes - sigma)

    return settings_of(ratio, lab.settings.bayes, "examples")


@STUDY.claim(PLACE, every_seed_below(1e-6), headline=True, must_fail_on={"until": 0.01})
def flow_converges(lab, until=40.0):
    """Gradient flow on β and Γ reaches the best GD-β, though the risk is not convex.

    Measured: R / R_GDβ - 1 at the end of the flow from Gaussian β and Γ; random tasks, exact risks.
    """
    task = law(lab.settings, lab.rng())

    def step(key):
        structure = functools.partial(models.DescentStep.initialise, start=True)
        options: Any = {"structure": structure, "init_scale": 0.1}
        layer = models.LinearTransformer.initialise(task.dim, **options, key=key)
        W_0 = jax.random.normal(key, (1, task.dim))
        return eqx.tree_at(lambda layer: layer.weights.W_0, layer, W_0)

    flow = training.gradient_flow(step, task, [0.0, until], key=lab.key("start"), rtol=1e-5)
    return float(flow.metrics.risk[0, -1]) / best_step(task).risk - 1


@STUDY.figure(shows=[attention_has_a_gap, gd_beta_optimum])
def price_of_no_mlp(lab):
    """Exact risk against the length of the mean, for one task: with an MLP it does not matter."""
    lengths = np.linspace(0, 2.4, 7)
    drawn = [law(lab.settings, np.random.default_rng(7), mean) for mean in lengths]
    best = [theory.optimal_layer(task, starts=2) for task in drawn]
    lines = {
        "attention alone, best with one head": [each.risk for each in best],
        "attention alone, bound for any heads": [each.certificate.lower_bound for each in best],
        "best GD-β": [best_step(task).risk for task in drawn],
        "Bayes": [theory.bayes_risk(task, key=jax.random.key(0)).value for task in drawn],
    }
    lines = {label: (lengths, values) for label, values in lines.items()}
    return figures.risk_against("length of the mean, ‖β‖_H", lines, {})
