"""Part `beyond`: what the paper leaves open: any Σ and Λ, other covariates, priors with a mean."""

from operator import attrgetter
from typing import Any

import jax
import numpy as np

from mesalens import learners, tasks, theory
from mesalens.atlas import above, every_seed_below, figures, over, remembered, settings_of
from mesalens.studies.mahankali_2023 import covariance, study

part = study.STUDY.part("beyond", "Beyond the paper")
PLACE = "a claim of mesalens; the paper leaves it open"
LENGTH = 1.5  # of the prior mean on which layers are trained
optimum = remembered(theory.optimal_layer)


def without_mean(s, rng):
    """Tasks with linear functions whose prior has mean 0, of all kinds, with random covariances."""
    d, size = s.dim, (s.dim, s.context_length, s.noise)
    correlated = 0.8 ** np.abs(np.subtract.outer(np.arange(d), np.arange(d)))
    drawn = {"correlated weights": study.linear_task(*size, covariance=correlated)}
    kinds = {
        "general Σ, Λ": tasks.Gaussian(d, covariance=study.random_covariance(rng, d)),
        "uniform": tasks.Uniform(d),
        "sphere": tasks.Sphere(d),
        "Laplace": tasks.Laplace(d),
        "exponential": tasks.Exponential(d),
        "Student-t, ν=9": tasks.StudentT(d, degrees_of_freedom=9.0),
    }
    for name, covariates in kinds.items():
        prior = study.random_covariance(rng, d)
        drawn[name] = study.linear_task(*size, covariates, covariance=prior)
    return drawn


def with_mean(s, rng, length=None) -> Any:
    """X ~ N(0, I), w ~ N(w̄, I), w̄ of a random direction, of length 1 to 2 by default."""
    direction = rng.normal(size=(1, s.dim))
    length = rng.uniform(1, 2) if length is None else length
    mean = length * direction / np.linalg.norm(direction)
    return study.linear_task(s.dim, s.context_length, s.noise, mean=mean)


def one_with_mean(s, rng):
    """A task that `without_mean` excludes."""
    return {"with a mean": with_mean(s, rng)}


@part.experiment
def general_population(s):
    """Layers trained on the exact risk, for priors with mean 0."""
    drawn = without_mean(s, np.random.default_rng(s.task_seed))
    names = "general Σ, Λ", "exponential"
    return {name: study.trained_layer(s, drawn[name], "population") for name in names}


@part.experiment
def mean_population(s):
    """Layers trained on the exact risk, for a prior with a mean."""
    task = with_mean(s, np.random.default_rng(s.task_seed), LENGTH)
    return study.trained_layer(s, task, "population")


@part.claim(PLACE, every_seed_below(1e-9), must_fail_on={"formula": covariance.claimed})
def general_preconditioner(lab, formula=theory.gaussian_preconditioner):
    """For x ~ N(0, Σ) and w ~ N(0, Λ) with any Σ and Λ, the best preconditioned step of gradient
    descent has the preconditioner ΛΣ[(n + 1)ΣΛΣ + (tr ΣΛ + σ²)Σ]⁻¹.

    Measured: ‖P* - formula‖_F / ‖formula‖_F, with P* from exact moments; random Σ and Λ for each
    seed.
    """
    task = without_mean(lab.settings, lab.rng())["general Σ, Λ"]
    return study.away(theory.best_preconditioner(study.moments_of(task))[0], formula(task))


@part.claim(PLACE, every_seed_below(1e-9), must_fail_on={"kinds": one_with_mean})
def general_certificate(lab, kinds=without_mean):
    """For linear functions whose prior has mean 0, one step of preconditioned gradient descent is
    the best layer: for every Σ and Λ, for correlated weights, and for covariates that are not
    Gaussian.

    Measured: (risk of the best step - certified bound) / bound, for each kind of task; random
    covariances for each seed.
    """
    drawn = kinds(lab.settings, lab.rng())

    def ratio(name):
        return theory.best_preconditioner(study.moments_of(drawn[name]))[1] / study.bound(
            drawn[name]
        )

    return settings_of(ratio, drawn, "task") - 1


@part.claim(PLACE, every_seed_below(1e-6), must_fail_on={"longer": 2})
def general_trained(lab, trained=general_population, longer=1):
    """Layers trained on the population loss reach the bound for these tasks too, unless they stay
    where the prediction is near a step of rank one.

    Measured: R / bound - 1 after training on the exact risk, for each kind of task.
    """
    return over(trained, lambda run: {"gap": study.gap(run, longer)}, "task").gap


@part.claim(PLACE, above(0.01), must_fail_on={"length": 0.0})
def mean_not_descent(lab, length=None):
    """If the prior of the weights has a mean, the best layer is not a step of gradient descent from
    zero: another layer has at least 1% less risk than every such step.

    Measured: R_step / R_layer - 1, for the best such step and the best layer found; a random mean
    of length 1 to 2 for each seed.
    """
    best = optimum(with_mean(lab.settings, lab.rng(), length))
    return best.descent_risk / best.risk - 1


@part.claim(PLACE, every_seed_below(1e-6), count_all_seeds=True, must_fail_on="untrained")
def mean_trained(lab, trained=mean_population):
    """Layers trained on the population loss reach the risk of the layer that the search found.

    Measured: R / R_layer - 1 after training on the exact risk.
    """
    return float(trained.last.risk) / optimum(trained.task).risk - 1


@part.claim(PLACE, above(0.0), must_fail_on={"bound": "descent_risk"})
def mean_one_head(lab, bound="certificate.lower_bound"):
    """If the prior has a mean, one head does not reach the certified bound.

    Measured: R_layer / bound - 1, for the best layer with one head found; a random mean for each
    seed.
    """
    best = optimum(with_mean(lab.settings, lab.rng()))
    return best.risk / attrgetter(bound)(best) - 1


@part.claim(PLACE, every_seed_below(1e-9), must_fail_on={"share": 0.5})
def descent_from_mean(lab, share=1.0):
    """If the query token has the prior mean as W_0, one step of gradient descent from it is the
    best layer again.

    Measured: the risk of this layer, by construction, over the certified bound for layers with this
    W_0, minus 1; a random mean for each seed.
    """
    task = with_mean(lab.settings, lab.rng())
    W_0 = share * task.functions.weight_mean()
    with jax.enable_x64(True):
        descent = learners.GradientDescent(theory.best_step_size(task, W_0), initial_weights=W_0)
        layer = theory.gradient_descent_transformer(descent, **task.sizes)
    # Subtracting W_0 x from labels is a linear map of S: the bound is that of a mean of 0
    centred = with_mean(lab.settings, lab.rng(), length=0.0)
    return theory.layer_risk(layer, study.moments_of(task)) / study.bound(centred) - 1


@part.figure(shows=[mean_not_descent, mean_trained, mean_one_head, descent_from_mean])
def mean(lab, trained=mean_population):
    """Risk against the length of the prior mean of the weights. At 0, the best layer is one step of
    gradient descent and lies on the certified bound. With a mean, the best layer with one head
    (dots: trained layers, one per seed) is better than every preconditioned step from zero, and
    above the bound for more heads. The risk of a layer whose W_0 is the prior mean does not depend
    on it.
    """
    lengths, s = np.linspace(0, 3, 13), lab.settings
    drawn = [with_mean(s, np.random.default_rng(s.task_seed), length) for length in lengths]
    best = [optimum(task) for task in drawn]
    from_mean = [theory.one_step_risk(task, task.functions.weight_mean()) for task in drawn]
    risks = {
        "best preconditioned step from 0": [each.descent_risk for each in best],
        "predicting 0": [each.null_risk for each in best],
        "certified bound, any number of heads": [each.certificate.lower_bound for each in best],
        "best layer with one head": [each.risk for each in best],
        "one step from the prior mean": [each.best_risk for each in from_mean],
    }
    lines = {label: (lengths, along) for label, along in risks.items()}
    points = {"trained layers": trained.metrics.risk.isel(step=-1).expand_dims(length=[LENGTH])}
    figure = figures.risk_against("length of the prior mean of w", lines, points)
    figure.axes[0].set_ylim(0, 2.4 * best[0].null_risk)  # not all of predicting 0
    return figure


@part.remark
def not_the_papers(lab):
    """The source of these claims."""
    return "The claims of the part beyond are not the paper's; they are about what it leaves open."
