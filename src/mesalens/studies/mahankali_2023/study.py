"""The study: its settings, and what the parts share: tasks, trainings, exact risks."""

import dataclasses

import jax
import numpy as np

from mesalens import analysis, atlas, models, tasks, theory

STUDY = atlas.Study(
    "mahankali-2023",
    title="One Step of Gradient Descent is Provably the Optimal In-Context Learner with One Layer "
    "of Linear Self-Attention",
    citation="Mahankali, Hashimoto, Ma, ICLR 2024, arXiv 2307.03576",
    note="Step sizes are those of ½ Σᵢ (w·xᵢ − yᵢ)², as in the paper. The paper has proofs and no "
    "trainings; layers are trained here on the exact risk or on prompts, from the initial weights "
    "of the released code of von Oswald et al. (2023).",
    settings={
        "seeds": (5, 10, 20),
        "dim": 5,
        "context_length": 10,
        "varied": ((3, 40), (1, 10), (0.5, 2.0)),  # other n, d and σ² of the part isotropic
        "noise": 0.25,  # σ² in the parts covariance and beyond
        "task_seed": 0,  # of the Σ, Λ and prior mean that all trainings of these parts share
        "families": ("relu networks", "sines", "cubic polynomials"),  # the first is trained on
        "population_steps": 3000,
        "sampled_steps": 1500,
        "batch_size": 512,
        "prompts": 40_000,  # for each simulated number and seed
        "relative_error": 0.005,  # of simulated moments
    },
    quick={
        "seeds": (4, 8),
        "varied": ((), (), ()),
        "families": ("relu networks",),
        "population_steps": 1500,
        "sampled_steps": 1000,
        "batch_size": 256,
    },
    full={},
    paper={
        "seeds": (10,),
        "dim": 10,
        "context_length": 20,
        "varied": ((1, 5, 80), (1, 5, 20), (0.1, 0.5, 2.0)),
        "population_steps": 5000,
        "sampled_steps": 10_000,
        "batch_size": 2048,
        "prompts": 2_000_000,
        "relative_error": 0.003,
    },
    small={
        "seeds": (5,),
        "dim": 3,
        "context_length": 6,
        "varied": ((), (), ()),
        "families": ("sines",),
        "population_steps": 2000,
        "sampled_steps": 1000,
        "batch_size": 128,
        "relative_error": 0.03,
    },
)
# Gradients are not clipped: their norms stay far below 100
ADAM = {"kind": "adam", "learning_rate": 0.01, "schedule": "cosine", "b2": 0.999, "clip": 100.0}


def trained_layer(s, task, objective: str, start=0):
    """One layer, trained on the exact risk ("population") or on fresh prompts ("sampled").

    `start` is the number of the initial weights of a seed. A seed counts if its final risk is
    nearer to that of the best step than to that of the best step of rank one, a saddle
    (docs/pages/theory/plateaus.md).
    """
    sampled = objective == "sampled"

    def initialise(key):
        return models.LinearTransformer.initialise(task.dim, key=jax.random.fold_in(key, start))

    def saddle(run):
        moments = moments_of(run.task, s.relative_error)
        # If d = 1, every step has rank one
        return moments.null_risk if task.dim == 1 else theory.best_rank_step(moments, 1)[1]

    def best(run):
        return theory.best_preconditioner(moments_of(run.task, s.relative_error))[1]

    return atlas.Experiment(
        task=task,
        model=initialise,
        optimiser=ADAM,
        objective=objective,
        steps=s.sampled_steps if sampled else s.population_steps,
        batch_size=s.batch_size,
        # In sampled training the risk is the mean loss of the last batches
        counts=atlas.LeftPlateau(saddle, best, metric="loss" if sampled else "risk"),
    )


def linear_task(dim, context_length, noise, covariates=None, **prior):
    """Linear functions with a prior, N(0, I) by default, as are covariates, and noise σ²."""
    laws = covariates or tasks.Gaussian(dim), tasks.LinearFunctions(dim, **prior)
    noise = tasks.GaussianNoise(noise)
    return tasks.RegressionTask(*laws, context_length=context_length, noise=noise)


def random_covariance(rng, dim):
    """A matrix of Wishart's law with 2d degrees of freedom and mean I."""
    factor = rng.normal(size=(dim, 2 * dim))
    return factor @ factor.T / (2 * dim)


@atlas.remembered
def moments_of(task, relative_error=0.005):
    """The moments of a task; simulated ones, with this relative error, are always the same."""
    return theory.task_moments(task, relative_error=relative_error)


def bound(task):
    """The certified bound of all layers."""
    return theory.lower_bound(moments_of(task))


def step_gap(P, task):
    """R_P / bound - 1, with the exact risk of the step of descent that P preconditions."""
    return theory.preconditioned_risk(P, moments_of(task)) / bound(task) - 1


def gap(run, longer=1):
    """R / bound - 1, with the exact risk of a trained layer; `longer` contexts for the bound."""
    longest = dataclasses.replace(run.task, context_length=longer * run.task.context_length)
    return theory.layer_risk(run.learner, moments_of(run.task)) / bound(longest) - 1


def learned(run):
    """P of the step that a trained layer takes."""
    return analysis.learned_preconditioner(run.learner)[0]


def away(P, reference):
    """‖P - P_ref‖_F / ‖P_ref‖_F."""
    return np.linalg.norm(P - reference) / np.linalg.norm(reference)
