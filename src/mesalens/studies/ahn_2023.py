"""Ahn, Cheng, Daneshmand and Sra (2023): layers that precondition gradient descent."""

import numpy as np

from mesalens import analysis, atlas, learners, tasks, theory
from mesalens.atlas import below, every_seed_below, figures, over, within

STUDY = atlas.Study(
    "ahn-2023",
    title="Transformers learn to implement preconditioned gradient descent for in-context learning",
    citation="Ahn, Cheng, Daneshmand and Sra, NeurIPS 2023, arXiv 2306.00297",
    note="Q is our A_xx and P_x our B_xx, up to signs and a factor n. The entry of P for labels is "
    "trained (the paper has 1), and each step of a reference has its best size (the paper has one "
    "for all). `paper` differs in the schedule (a cosine, not halvings), Adam for AdamW, larger "
    "initial weights, one norm to clip, not one a matrix, fresh prompts at every step, and the "
    "last weights, not the best of several.",
    # With a small clip, stacks for several contexts ignore the rare prompts on which they diverge
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
KINDS = ["descent", "preconditioned descent"]
best_steps = atlas.remembered(theory.best_steps)


def law(sigma, prior, examples, noise=0.0):
    """Prompts with x ~ N(0, Σ) and w ~ N(0, prior)."""
    d, noise = len(sigma), tasks.GaussianNoise(noise)
    factors = tasks.Gaussian(d, covariance=sigma), tasks.LinearFunctions(d, covariance=prior)
    return tasks.RegressionTask(*factors, noise=noise, context_length=examples)


def stack(s, layers, examples, clip, P_x=True):
    """Training on w ~ N(0, Σ⁻¹), where each seed rotates Σ in its own way."""

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
    """With P_x."""
    return {each: stack(s, each, s.examples, s.clip) for each in s.layers}


@STUDY.experiment
def contexts(s):
    """With P_x, for several lengths of the context."""
    return {each: stack(s, s.context_layers, each, s.context_clip) for each in s.contexts}


def descent(run, spectrum, P=None):
    """As many steps as layers; `spectrum` is that of P Σ, on which the best step sizes depend."""
    task = law(np.diag(spectrum), np.diag(1 / np.array(spectrum)), run.task.context_length)
    sizes = best_steps(task, run.learner.layers, shared=False).step_size
    return learners.GradientDescent(sizes, len(sizes), preconditioner=P)


@STUDY.measurement
def risks(lab, trained=full, dimension="layers"):
    """Risks of trained stacks, and of both kinds of descent, on the same prompts."""

    def measure(run):
        P = np.linalg.inv(run.task.task.covariates.covariance)
        every = [run.learner, descent(run, lab.settings.spectrum), descent(run, np.ones(len(P)), P)]
        found = analysis.risks(every, run.task, lab.key(run.name), prompts=lab.settings.prompts)
        return dict(zip(["trained", *KINDS], [each.value for each in found], strict=True))

    return over(trained, measure, dimension)


P0_RISKS = risks.given(trained=p0)
CONTEXT_RISKS = risks.given(trained=contexts, dimension="examples")


def multiples(run, power=0.5):
    """The claimed multiples of I: Σ^½ Q Σ^½ of each layer, and P_x of all but the last."""
    eigenvalues, axes = np.linalg.eigh(run.task.task.covariates.covariance)
    root, weights = axes * eigenvalues**power @ axes.T, run.learner.weights
    found = {"Q": root @ np.asarray(weights.A_xx[:, 0], float) @ root}
    return found if weights.B_xx is None else found | {"P_x": np.asarray(weights.B_xx[:-1, 0])}


def distances(run, power):
    """min_a ‖M - a I‖_F / ‖M‖_F, the largest over the layers."""
    largest = {}
    for name, layers in multiples(run, power).items():
        each = [np.sqrt(1 - np.trace(M) ** 2 / len(M) / np.sum(M**2)) for M in layers]
        largest[name] = max(each, default=0)
    return largest


@STUDY.claim("Theorem 1", every_seed_below(1e-9), headline=True, must_fail_on={"pairs": 0})
def one_layer_optimum(lab, pairs=1):
    """For w ~ N(0, ψ² I) and noise of variance σ² the best layer is a step of gradient descent with
    the preconditioner ((n + 1)/n Σ + (tr Σ + σ²/ψ²)/n I)⁻¹.

    Measured: ‖P* - P‖_F / ‖P‖_F for a random Σ, in every other seed without noise; P* is certified.
    """
    n, noise, prior = lab.settings.examples, 0.5 * (lab.seed % 2), 2.0
    sigma = np.cov(lab.rng().normal(size=(len(lab.settings.spectrum), 20)))
    identity = np.eye(len(sigma))
    P = np.linalg.inv((n + pairs) * sigma + (np.trace(sigma) + noise / prior) * identity)
    best = theory.optimal_lsa(law(sigma, prior * identity, n, noise))
    away = np.linalg.norm(best.descent_preconditioner - P) / np.linalg.norm(P)
    return away if best.certificate.proves_optimality else np.nan


@STUDY.claim("Theorem 3", below(0.1), headline=True, must_fail_on={"power": 0})
def p0_layers(lab, trained=p0, power=0.5):
    """Without P_x every layer learns a Q that is a multiple of Σ⁻¹.

    Measured: min_a ‖M - a I‖_F / ‖M‖_F for M = Σ^½ Q Σ^½, the largest over the layers of a stack.
    """
    return over(trained, lambda run: distances(run, power), "layers").Q


@STUDY.claim("Theorem 4", below(0.1), must_fail_on={"power": 0})
def full_layers(lab, trained=full, power=0.5):
    """With P_x two and three layers learn a Q that is a multiple of Σ⁻¹ and a P_x that is one of I.

    Measured: as for p0-layers, and the same for M = P_x, without the last layer, where it has no
    effect. Four layers have so little risk that they would need many more steps.
    """
    found = over(trained, lambda run: distances(run, power), "layers")
    return found.sel(layers=slice(2, 3)).to_dataarray("matrix")


@STUDY.claim("Section 5", within(0.1), must_fail_on={"reference": "descent"})
def p0_descent(lab, risks=P0_RISKS, reference="preconditioned descent"):
    """Without P_x the risk is that of as many steps of descent, preconditioned by Σ⁻¹.

    Measured: R / R_ref - 1 on the same prompts, with the best step size for each step of R_ref.
    """
    return risks.trained / risks[reference] - 1


@STUDY.claim("Section 5", below(0.0), must_fail_on={"learner": "descent"})
def depth_gains(lab, risks=risks, learner="trained"):
    """With P_x two layers and more have less risk than as many steps of both kinds of descent.

    Measured: R / R_ref - 1 for both references, as for p0-descent.
    """
    gains = risks[learner] / risks[KINDS].to_dataarray("beside") - 1
    return gains.sel(layers=slice(2, None))


@STUDY.claim("Section 5", below(0.0), must_fail_on={"learner": "descent"})
def context_gains(lab, risks=CONTEXT_RISKS, learner="trained"):
    """That holds for all lengths of the context.

    Measured: as for depth-gains.
    """
    return risks[learner] / risks[KINDS].to_dataarray("beside") - 1


@STUDY.figure(shows=[p0_descent, depth_gains])
def risk_by_depth(lab, p0=P0_RISKS, full=risks):
    """Risk by the number of layers or steps, a dot for each seed."""
    lines = {name: (full.layers, full[name].mean("seed")) for name in KINDS}
    points = {"without P_x": p0.trained, "with P_x": full.trained}
    return figures.risk_against("layers", lines, points, yscale="log")


@STUDY.figure(shows=[context_gains])
def risk_by_context(lab, risks=CONTEXT_RISKS):
    """Risk by the number of examples, a dot for each seed."""
    lines = {name: (risks.examples, risks[name].mean("seed")) for name in KINDS}
    return figures.risk_against("examples", lines, {"with P_x": risks.trained}, yscale="log")


@STUDY.figure(shows=[p0_layers, full_layers])
def matrices(lab, p0=p0, full=full):
    """What is claimed to be multiples of I, of the first seed: Σ^½ Q Σ^½ of each layer, and P_x."""
    rows = {}
    for words, family in {"without P_x": p0, "with P_x": full}.items():
        largest = max((n for n in family if n <= 3), default=min(family))
        for name, each in multiples(family[largest].shown[0]).items():
            rows[f"{name}, {words}"] = {f"layer {i}": M for i, M in enumerate(each, 1)}
    return figures.matrices(rows, limits="panel")
