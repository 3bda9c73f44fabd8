"""Ahn, Cheng, Daneshmand and Sra (2023): layers that precondition gradient descent."""

import numpy as np
import xarray as xr

from mesalens import atlas, learners, tasks, theory
from mesalens.atlas import below, every_seed_below, figures, over, within

STUDY = atlas.Study(
    "ahn-2023",
    title="Transformers learn to implement preconditioned gradient descent for in-context learning",
    citation="Ahn, Cheng, Daneshmand and Sra, NeurIPS 2023, arXiv 2306.00297",
    note="Q is our A_xx and P_x our B_xx, up to signs and a factor n. The entry of P for labels is "
    "trained (it is 1 in the paper), and each step of a reference has its own best size (in the "
    "paper all steps share one). The budget `paper` differs in the schedule (cosine, not halving), "
    "Adam (not AdamW), larger initial weights, clipping of the global norm (not of each matrix), "
    "fresh prompts at every step, and the last weights (not the best of several).",
    # With a small clip, models for several contexts ignore the rare prompts on which they diverge
    settings={"seeds": (5, 10), "spectrum": (1.0, 1.0, 0.25, 0.0625, 1.0), "prompts": 20_000}
    | {"layers": (1, 2, 3, 4), "examples": 20, "clip": 1.0}
    | {"contexts": (2, 5, 10, 20), "context_layers": 3, "context_clip": 100.0}
    | {"b1": 0.9, "b2": 0.98, "steps": 5000, "batch_size": 512},
    quick={"layers": (2,), "steps": 800, "batch_size": 256, "seeds": (4,)},
    full={},
    paper={"contexts": tuple(range(2, 21, 2)), "b1": 0.99, "b2": 0.9, "clip": 0.01}
    | {"context_clip": 0.01, "steps": 20_000, "batch_size": 20_000},
    small={"spectrum": (1.0, 0.0625), "layers": (1, 2), "contexts": (3, 20), "context_layers": 2}
    | {"steps": 400, "batch_size": 128, "prompts": 1000, "seeds": (3,)},
)
best_step_sizes = atlas.remembered(theory.best_step_sizes)


def law(sigma, prior, examples, noise=0.0):
    """Prompts with x ~ N(0, Σ) and w ~ N(0, prior)."""
    d, noise = len(sigma), tasks.GaussianNoise(noise)
    factors = tasks.Gaussian(d, covariance=sigma), tasks.LinearFunctions(d, covariance=prior)
    return tasks.RegressionTask(*factors, noise=noise, context_length=examples)


def stack(s, layers, examples, clip, P_x=True):
    """Training on w ~ N(0, Σ⁻¹), where each seed rotates Σ at random."""

    def task(rng):
        axes = np.linalg.qr(rng.normal(size=(len(s.spectrum), len(s.spectrum))))[0]
        sigma = axes * s.spectrum @ axes.T
        return tasks.CondensedTask(law(sigma, np.linalg.inv(sigma), examples))

    structure = {"kind": "sparse", "covariates": P_x}
    model = {"kind": "linear-transformer", "layers": layers, "structure": structure}
    adam = {"kind": "adam", "learning_rate": 0.01, "b1": s.b1, "b2": s.b2, "clip": clip}
    adam |= {"schedule": "cosine", "warmup": s.steps // 20}
    training = {"optimiser": adam, "steps": s.steps, "batch_size": s.batch_size}
    return atlas.Experiment(task=task, model=model, **training)


@STUDY.experiment
def p0(s):
    """Without P_x."""
    return {each: stack(s, each, s.examples, s.clip, P_x=False) for each in s.layers}


@STUDY.experiment
def full(s):
    """With P_x, which a single layer does not use."""
    return {each: stack(s, each, s.examples, s.clip) for each in s.layers if each > 1}


@STUDY.experiment
def contexts(s):
    """With P_x, for several context lengths."""
    return {each: stack(s, s.context_layers, each, s.context_clip) for each in s.contexts}


def descent(run, spectrum=None, P=None):
    """As many steps as layers, with the best sizes, which depend on the spectrum of PΣ alone."""
    spectrum = np.array(run.settings.spectrum if spectrum is None else spectrum)
    task = law(np.diag(spectrum), np.diag(1 / spectrum), run.task.context_length)
    sizes = best_step_sizes(task, run.learner.layers, shared=False).step_size
    return learners.GradientDescent(sizes, len(sizes), preconditioner=P)


def preconditioned(run):
    """The same, preconditioned by Σ⁻¹."""
    P = np.linalg.inv(run.task.task.covariates.covariance)
    return descent(run, np.ones(len(P)), P)


KINDS = {"descent": descent, "preconditioned": preconditioned}
beside = atlas.compared_with_each.given(references=KINDS, dimension="layers")
p0_beside, full_beside = beside.given(trained=p0), beside.given(trained=full)
contexts_beside = beside.given(trained=contexts, dimension="examples")


def multiples(run, power=0.5):
    """The matrices claimed to be multiples of I: Σ^½ Q Σ^½, and P_x of all layers but the last."""
    eigenvalues, axes = np.linalg.eigh(run.task.task.covariates.covariance)
    root, weights = axes * eigenvalues**power @ axes.T, run.learner.weights
    found = {"Q": root @ np.asarray(weights.A_xx[:, 0], float) @ root}
    return found if weights.B_xx is None else found | {"P_x": np.asarray(weights.B_xx[:-1, 0])}


def distances(family, power):
    """min_a ‖M - a I‖_F / ‖M‖_F, the largest over the layers of each model."""

    def largest(layers):
        return max(np.sqrt(1 - np.trace(M) ** 2 / len(M) / np.sum(M**2)) for M in layers)

    return over(family, lambda r: {n: largest(M) for n, M in multiples(r, power).items()}, "layers")


@STUDY.claim("Theorem 1", every_seed_below(1e-9), headline=True, must_fail_on={"pairs": 0})
def one_layer_optimum(lab, pairs=1):
    """For w ~ N(0, ψ² I) and noise of variance σ², the best layer is one step of gradient descent
    with the preconditioner ((n + 1)/n Σ + (tr Σ + σ²/ψ²)/n I)⁻¹.

    Measured: ‖P* - P‖_F / ‖P‖_F for a random Σ, without noise in every other seed; P* is certified.
    """
    n, noise, prior = lab.settings.examples, 0.5 * (lab.seed % 2), 2.0
    sigma = np.cov(lab.rng().normal(size=(len(lab.settings.spectrum), 20)))
    identity = np.eye(len(sigma))
    P = np.linalg.inv((n + pairs) * sigma + (np.trace(sigma) + noise / prior) * identity)
    best = theory.optimal_layer(law(sigma, prior * identity, n, noise))
    away = np.linalg.norm(best.descent_preconditioner - P) / np.linalg.norm(P)
    return away if best.certificate.proves_optimality else np.nan


@STUDY.claim("Theorem 3", below(0.1), headline=True, must_fail_on={"power": 0})
def p0_layers(lab, trained=p0, power=0.5):
    """Without P_x, every layer learns a Q that is a multiple of Σ⁻¹.

    Measured: min_a ‖M - a I‖_F / ‖M‖_F for M = Σ^½ Q Σ^½, the largest over the layers of a model.
    """
    return distances(trained, power).Q


@STUDY.claim("Theorem 4", below(0.1), must_fail_on={"power": 0})
def full_layers(lab, trained=full, power=0.5):
    """With P_x two and three layers learn a Q that is a multiple of Σ⁻¹ and a P_x that is one of I.

    Measured: as for p0-layers, and the same for M = P_x, except in the last layer, where it has no
    effect. Four layers have so little risk that they would need many more steps.
    """
    return distances(trained, power).sel(layers=slice(2, 3)).to_dataarray("matrix")


ALIKE = "layers without P_x", "as many steps of descent, preconditioned by Σ⁻¹"
alike = atlas.Alike(STUDY, p0_beside, *ALIKE, name="preconditioned_")
p0_descent = alike("p0-descent", "risk", "Section 5", within(0.1))


def declare(name, beside, layers):
    """The claim that P_x helps, for several models."""

    @STUDY.claim("Section 5", below(0.0), must_fail_on="untrained", name=name, layers=layers)
    def gains(lab, beside=beside):
        """With P_x, {layers} have less risk than as many steps of plain and preconditioned descent.

        Measured: R / R_ref - 1 for both references, on the same prompts.
        """
        kinds = xr.DataArray(list(KINDS), dims="beside", name="beside")
        return xr.concat([beside[f"{kind}_relative_risk_difference"] for kind in KINDS], kinds)

    return gains


depth_gains = declare("depth-gains", full_beside, "two and more layers")
context_gains = declare("context-gains", contexts_beside, "three layers, at all context lengths,")


def draw(xlabel, beside, **points):
    """Risks of both kinds of descent as lines, of trained models as dots."""
    risks = [beside[f"{kind}_reference_risk"].mean("seed") for kind in KINDS]
    names = "gradient descent", "preconditioned descent"
    lines = {name: (risk[xlabel], risk) for name, risk in zip(names, risks, strict=True)}
    return figures.risk_against(xlabel, lines, points, yscale="log")


@STUDY.figure(shows=[p0_descent, depth_gains])
def risk_by_depth(lab, p0=p0_beside, full=full_beside):
    """Risk against the number of layers or steps, a dot for each seed."""
    return draw("layers", p0, **{"without P_x": p0.risk, "with P_x": full.risk})


@STUDY.figure(shows=[context_gains])
def risk_by_context(lab, beside=contexts_beside):
    """Risk against the number of examples, a dot for each seed."""
    return draw("examples", beside, **{"with P_x": beside.risk})


@STUDY.figure(shows=[p0_layers, full_layers])
def matrices(lab, p0=p0, full=full):
    """The matrices that should be multiples of I: Σ^½ Q Σ^½ of each layer, and P_x; first seed."""
    rows = {}
    for words, family in {"without P_x": p0, "with P_x": full}.items():
        largest = max((n for n in family if n <= 3), default=min(family))
        for name, each in multiples(family[largest].shown[0]).items():
            rows[f"{name}, {words}"] = {f"layer {i}": M for i, M in enumerate(each, 1)}
    return figures.matrices(rows, limits="panel")
