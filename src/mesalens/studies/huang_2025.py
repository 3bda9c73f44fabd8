"""Huang and Ge (2025): tokens that state the mean of a prompt's inputs."""

from typing import Any

import numpy as np
import xarray as xr

from mesalens import atlas, tasks, theory
from mesalens.atlas import below, every_seed_below, figures, settings_of, within

STUDY = atlas.Study(
    "huang-2025",
    title="Task Descriptors Help Transformers Learn Linear Models In-Context",
    citation="Huang and Ge, ICLR 2025",
    system="x ~ N(μ, I), μ ~ N(0, τI) drawn for each prompt, w ~ N(0, I), no noise; one layer of "
    "linear attention on tokens (x, y), or (x, μ, y) with the descriptor μ.",
    note="Claims are those of the abstract: the paper's text was not available. Formulas are "
    "derived here.",
    unchecked={
        "the start of the theorem": "gradient flow is proved to converge from initial weights that "
        "are not known to us; trainings here start from random ones"
    },
    settings={"seeds": (5, 10, 20), "dim": 3, "lengths": (2, 5, 10, 20, 50), "length": 20}
    | {"steps": 4000, "deep_steps": 3000, "batch_size": 512, "prompts": 20_000, "layers": 2},
    quick={"dim": 2, "steps": 2500, "deep_steps": 1200, "batch_size": 256, "seeds": (4, 8)},
    full={},
    paper={"dim": 5, "batch_size": 4096, "deep_steps": 20_000, "steps": 20_000},
    small={"dim": 1, "steps": 1500, "deep_steps": 600, "batch_size": 128, "prompts": 4000},
)
PLACE = "Abstract"
moments_of = atlas.remembered(theory.task_moments)
optimum = atlas.remembered(theory.optimal_layer)


def law(d, length, variance=1.0, descriptor=True):
    """Inputs around a mean, which tokens may contain; functions depend on x alone."""
    width = d * (1 + descriptor)
    covariates = tasks.RandomMean(width, mean_variance=variance, descriptor=descriptor)
    reads = np.diag([1.0] * d + [0.0] * (width - d))
    return tasks.RegressionTask(
        covariates, tasks.LinearFunctions(width, covariance=reads), context_length=length
    )


def drawn(lab):
    """A random variance of the means, from 0.5 to 2."""
    return float(lab.rng("variance").uniform(0.5, 2))


@STUDY.experiment
def layer(s, descriptor=True):
    """A layer trained on the exact risk."""
    adam = {"kind": "adam", "learning_rate": 0.01, "b2": 0.999, "clip": 100.0, "schedule": "cosine"}
    return atlas.Experiment(
        task=law(s.dim, s.length, descriptor=descriptor),
        model={"kind": "linear-transformer", "structure": "sparse", "init_scale": 0.1},
        optimiser=adam,
        objective="population",
        steps=s.steps,
        batch_size=1,
    )


@STUDY.experiment
def deep(s, descriptor=True):
    """Several layers, trained on prompts."""
    model = {"kind": "linear-transformer", "layers": s.layers, "init_scale": 0.02}
    adam = {"kind": "adam", "learning_rate": 3e-3, "clip": 1.0, "schedule": "cosine"}
    return atlas.Experiment(
        task=law(s.dim, s.length, descriptor=descriptor),
        model=model,
        optimiser=adam,
        steps=s.deep_steps,
        batch_size=s.batch_size,
    )


@STUDY.claim(PLACE, every_seed_below(1e-4), headline=True, must_fail_on={"length": 100})
def limit_without(lab, length=10**6):
    """Without the descriptor, the risk d(1+τ) - c₂²/c₃ remains as contexts grow, where
    c_k = d - 1 + E(1 + τχ²_d)^k; no layer, with any number of heads, has less.

    Measured: |bound / formula - 1| for n = 10⁶ and a random τ, with the exact certified bound.
    """
    d, variance = lab.settings.dim, drawn(lab)
    bound = theory.lower_bound(moments_of(law(d, length, variance, descriptor=False)))
    return abs(bound / theory.no_descriptor_limit(d, variance) - 1)


@STUDY.claim(PLACE, below(1e-3), headline=True, must_fail_on={"descriptor": False})
def reads_to_zero(lab, descriptor=True):
    """With the descriptor, the risk of the best layer goes to 0 as contexts grow.

    Measured: R / R_0 at n = 10⁵, R_0 the risk of predicting 0; exact, for a random τ.
    """
    best = optimum(law(lab.settings.dim, 10**5, drawn(lab), descriptor))
    return best.risk / best.null_risk


@STUDY.claim(PLACE, below(-0.01), headline=True, must_fail_on={"beside": False})
def helps_at_every_length(lab, beside=True):
    """At every context length, the best layer with the descriptor has less risk than the best one
    without.

    Measured: R_with / R_without - 1, both exact and certified, for a random τ.
    """
    d, variance = lab.settings.dim, drawn(lab)

    def gain(n):
        risks = (optimum(law(d, n, variance, with_mean)).risk for with_mean in (beside, False))
        return next(risks) / next(risks) - 1

    return settings_of(gain, lab.settings.lengths, "examples")


@STUDY.claim(
    PLACE, every_seed_below(1e-4), headline=True, must_fail_on={"trained": layer.untrained}
)
def training_reaches_the_optimum(lab, trained=layer):
    """A layer whose keys read inputs and whose values read labels, trained on the exact risk,
    reaches the best layer from random initial weights.

    Measured: R / R* - 1 after training, both exact; R* is certified.
    """
    return float(trained.last.risk) / optimum(trained.task).risk - 1


@STUDY.claim(PLACE, within(0.02), headline=True, must_fail_on={"length": 5})
def subtracts_the_mean(lab, length=10**4):
    """For long contexts, the best layer subtracts the mean: it predicts from Σ yᵢ(xᵢ - μ) alone.

    Measured: P_xμ / P_xx + 1, and the norm of the rows of P that read the query's μ over that of
    the other rows, where P is the preconditioner, for a random τ.
    """
    d = lab.settings.dim
    P = optimum(law(d, length, drawn(lab))).descent_preconditioner
    ratio = np.trace(P[:d, d:]) / np.trace(P[:d, :d]) + 1
    others = np.linalg.norm(P[d:]) / np.linalg.norm(P[:d])
    return xr.DataArray([ratio, others], {"of": ["μ over x", "rows of μ"]}, ("of",))


WITHOUT = deep.given(descriptor=False)


@STUDY.claim(PLACE, below(-0.05), headline=True, must_fail_on={"reads": WITHOUT})
def deeper_layers_gain(lab, reads=deep, lacks=WITHOUT):
    """Several layers, too, have less risk with the descriptor.

    Measured: L_with / L_without - 1, with mean losses of the last hundred batches.
    """
    return float(reads.last.loss) / float(lacks.last.loss) - 1


@STUDY.figure(shows=[limit_without, helps_at_every_length])
def risk_over_length(lab, trained=layer):
    """Exact risk of the best layer against the context length, for τ = 1, with and without the
    descriptor; without it, the risk does not fall below the limit. Dots: trained layers.
    """
    d, lengths = lab.settings.dim, np.unique(np.geomspace(1, 1000, 13).astype(int))
    lines: dict[str, Any] = {
        label: (lengths, [optimum(law(d, int(n), descriptor=reads)).risk for n in lengths])
        for label, reads in {"without descriptor": False, "with descriptor": True}.items()
    }
    lines["limit without"] = lengths, np.full(len(lengths), theory.no_descriptor_limit(d, 1.0))
    last = trained.metrics.risk.isel(step=-1).expand_dims(n=[lab.settings.length])
    options: Any = {"xscale": "log", "yscale": "log"}
    return figures.risk_against("examples", lines, {"trained on the risk": last}, **options)
