"""A study of a few claims at sizes that take a second."""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from mesalens.atlas import (
    Experiment,
    LeftPlateau,
    Study,
    above,
    below,
    compared,
    every_seed_below,
    within,
)
from mesalens.learners import GradientDescent
from mesalens.tasks import Gaussian, LinearFunctions, RegressionTask, Uniform
from mesalens.theory import best_step_size

STUDY = Study(
    "small-2026",
    title="A <small> study",
    citation="Nobody, 2026",
    note="Nothing is meant.",
    settings={"dim": 2, "steps": 60, "prompts": 256, "seeds": (2, 4), "spread": 0.02},
    quick={},
    full={"steps": 80},
    small={"steps": 40},
)


def best_preconditioner(trained):
    """One step with the best step size."""
    return GradientDescent(jnp.asarray(best_step_size(trained.task), jnp.float32))


def doubled_descent(trained):
    """One step that is twice as long."""
    return GradientDescent(jnp.asarray(2 * best_step_size(trained.task), jnp.float32))


@STUDY.experiment
def one_layer(s, rate=1e-2):
    task = RegressionTask(Uniform(s.dim, 0.5), LinearFunctions(s.dim), context_length=3)
    optimiser = {"kind": "adam", "learning_rate": rate, "clip": 1.0}
    return Experiment(
        task=task,
        optimiser=optimiser,
        steps=s.steps,
        batch_size=64,
        every=20,
        counts=LeftPlateau(
            share=-1.0, metric="loss", words="are near the risk of predicting 0 at least"
        ),
    )


@STUDY.experiment
def own_tasks(s):
    """Every seed has a covariance of its own."""

    def task(rng):
        covariance = np.diag(rng.uniform(0.5, 2.0, s.dim))
        return RegressionTask(
            Gaussian(s.dim, covariance=covariance), LinearFunctions(s.dim), context_length=3
        )

    return Experiment(task=task, steps=20, batch_size=32, every=20)


BESIDE = compared.given(trained=one_layer, reference=best_preconditioner)


@STUDY.claim("Section 1", below(30.0), headline=True)
def risk(lab, compared=BESIDE):
    """The risk is not far above that of descent.

    Measured: R / R_GD - 1.
    """
    return compared.relative_risk_difference


@STUDY.claim("Section 2", every_seed_below(1e-9), must_fail_on={"shift": 1.0})
def exact(lab, shift=0.0):
    """Nothing is added to nothing.

    Measured: the sum, for two settings.
    """
    return xr.DataArray([shift, shift / 2], {"case": ["all", "half"]}, ("case",))


@STUDY.claim("Section 3", within(0.05), count_all_seeds=True)
def noisy(lab):
    """Noise has mean zero.

    Measured: the first seeds are far apart, so that more are needed.
    """
    return lab.rng("noise").normal() * lab.settings.spread * (3 if lab.seed < 2 else 1)


@STUDY.claim("Section 4", above(0.0))
def tasks_differ(lab, trained=own_tasks):
    """Each seed has its own task.

    Measured: the trace of the covariance.
    """
    return float(np.trace(trained.task.covariates.second_moment()))


@STUDY.figure(shows=[risk])
def loss(lab, trained=one_layer):
    """The loss of {n} seeds, <b>not bold</b>."""
    figure, axes = plt.subplots()
    axes.plot(trained.metrics.step, trained.metrics.loss.T)
    return figure, {"n": str(len(trained))}


@STUDY.remark
def words(lab, trained=one_layer):
    return f"There are {len(trained)} seeds."
