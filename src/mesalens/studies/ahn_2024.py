"""Ahn, Cheng, Song, Yun, Jadbabaie and Sra (2024): why linear transformers are hard to optimise."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
from matplotlib.figure import Figure

from mesalens import analysis, atlas, kinds, tasks, training
from mesalens.atlas import above, below, figures

DIM, UNIT, MAIN = 5, 5**-0.5, "normal, n = 20"
NOISE, SMOOTHNESS = "plot_stochastic_noise", "plot_smoothness_vs_gradnorm"


def setting(covariates, n, sgd_rate, adam_rate, clip=1.0):
    """Task, model and optimisers for a law; initial entries have the variance 0.0375 / 3 d."""
    blocks = {"kind": "sparse", "covariates": True, "labels": False, "examples": n}
    model = {"kind": "linear-transformer", "layers": 3, "init_scale": 0.0375, "structure": blocks}
    return {
        "task": tasks.RegressionTask(covariates, tasks.LinearFunctions(DIM), context_length=n),
        "model": model,
        "start": functools.partial(kinds.build, "learner", model, dim=DIM),
        "SGD": {"kind": "sgd", "learning_rate": sgd_rate, "momentum": 0.9, "clip": clip},
        "Adam": {"kind": "adam", "learning_rate": adam_rate, "b1": 0.9, "b2": 0.9, "clip": clip},
    }


LAWS = {
    "normal, n = 5": setting(tasks.Gaussian(DIM), 5, 0.01, 0.005),
    MAIN: setting(tasks.Gaussian(DIM), 20, 0.02, 0.02),
    "sphere": setting(tasks.Sphere(DIM, UNIT), 20, 5.0, 0.1, clip=0.1),
    "gamma": setting(tasks.GammaDirections(DIM, UNIT, shape=0.1), 20, 0.02, 0.02),
}
STUDY = atlas.Study(
    "ahn-2024",
    title="Linear attention is (maybe) all you need (to understand transformer optimization)",
    citation="Ahn, Cheng, Song, Yun, Jadbabaie and Sra, ICLR 2024, arXiv 2310.01082",
    system="Three layers of linear attention with free P and Q, d = 5, w ~ N(0, I), trained by SGD "
    "with momentum and by Adam.",
    note="All is as in the released code, and places are its notebooks: the paper's text was not "
    "available. But losses are measured on fresh prompts, the same for both optimisers, and the "
    "noise is that of batches of 256 (with 1000, as in `paper`, it is closer to normal).",
    unchecked={
        "practical-transformers": "That they behave alike needs the paper's language models.",
        "more-layers": "The released code trains only three layers.",
        "condition-number of other laws": "Released values are for normal covariates, n = 20.",
    },
    settings={"laws": tuple(LAWS), "steps": 2000, "batch_size": 512, "prompts": 1000, "every": 50}
    | {"hessian_prompts": 300, "hessian_every": 250, "noise_batch_size": 256}
    | {"noise_batches": 1000, "path": 1000, "seeds": (6, 12, 24)},
    quick={"laws": (MAIN, "gamma"), "steps": 750, "batch_size": 256, "seeds": (6, 12)}
    | {"hessian_prompts": 200, "hessian_every": 375, "noise_batches": 500, "path": 300},
    full={},
    paper={"steps": 10_000, "batch_size": 1000, "hessian_prompts": 1000, "path": 2000}
    | {"noise_batch_size": 1000, "noise_batches": 10_000},
    small={"laws": (MAIN, "sphere", "gamma"), "steps": 300, "batch_size": 64, "path": 200}
    | {"hessian_prompts": 50, "hessian_every": 100, "noise_batch_size": 64, "seeds": (4,)},
)


def loss_on(prompts, targets):
    """The loss of a learner on given prompts."""
    return lambda learner: jnp.mean((jax.vmap(learner)(prompts) - targets) ** 2)


def measure(s, law, task, learner, key):
    """What is measured during training: the loss, and R for the main law."""
    found = {"risk": loss_on(*task.sample(key, (s.prompts,)))(learner)}
    if law == MAIN:
        drawn = task.sample(jax.random.fold_in(key, 1), (s.hessian_prompts,))
        found["R"] = analysis.robust_condition_number(loss_on(*drawn), learner)
    return found


@STUDY.experiment
def trained(s, laws=None):
    """By both optimisers on each law."""

    def experiment(kind, law):
        return atlas.Experiment(
            task=LAWS[law]["task"],
            model=LAWS[law]["model"],
            optimiser=LAWS[law][kind],
            steps=s.steps,
            batch_size=s.batch_size,
            every=s.hessian_every if law == MAIN else s.every,
            measure=lambda task: functools.partial(measure, s, law, task),
        )

    return {f"{k}, {law}": experiment(k, law) for law in laws or s.laws for k in ("SGD", "Adam")}


ON_MAIN, REVERSED = trained.given(laws=(MAIN,)), {"order": ("SGD", "Adam")}


def gap(lab, trained, law, order=("Adam", "SGD")):
    """log(L_Adam / L_SGD), the median over the second half of the training."""
    losses = [trained[f"{kind}, {law}"].metrics.risk for kind in order]
    return np.log(losses[0] / losses[1]).sel(step=slice(lab.settings.steps / 2, None)).median()


@STUDY.claim("plot_loss", below(0.0), headline=True, must_fail_on=REVERSED)
def adam_below_sgd(lab, trained=trained, order=("Adam", "SGD")):
    """After equally many steps, Adam has a lower loss than SGD with momentum, for all covariates.

    Measured: log(L_Adam / L_SGD), the median over the second half of the training. For gamma, a
    mean would say the opposite: on some 1000 prompts Adam's loss is above 10⁴, that of SGD below 2.
    """
    return atlas.settings_of(lambda law: gap(lab, trained, law, order), lab.settings.laws, "law")


@STUDY.claim("Ours", below(0.0), must_fail_on={"laws": ("gamma", "sphere")})
def light_tails_keep_the_gap(lab, trained=trained, laws=("sphere", "gamma")):
    """Heavy tails do not cause the gap between them: it is wider on the sphere than for gamma.

    Measured: log(L_Adam / L_SGD), as for adam-below-sgd, on the sphere minus that for gamma.
    """
    return gap(lab, trained, laws[0]) - gap(lab, trained, laws[1])


@STUDY.claim("plot_condition_number", below(0.0), headline=True, must_fail_on=REVERSED)
def condition_number(lab, trained=ON_MAIN, order=("Adam", "SGD")):
    """For normal covariates and n = 20, the robust condition number R is smaller along Adam's path.

    Measured: log(R_Adam / R_SGD), the mean over the training; R = max_i |H_ii| / median_i |H_ii|
    over all entries of P and Q, on fresh prompts. The notebook prints it after 750 and 1250 steps.
    """
    of_adam, of_sgd = (trained[f"{kind}, {MAIN}"].metrics.R[1:] for kind in order)
    return np.log(of_adam / of_sgd).mean()


@STUDY.measurement
def tails(lab, of="noise"):
    """Q(0.99) / Q(0.5) of ‖g - E g‖ over that of a normal vector, at the initial weights."""
    options = {"batch_size": lab.settings.noise_batch_size, "batches": lab.settings.noise_batches}

    def excess(law):
        given = LAWS[law]["start"](key=lab.key("start")), LAWS[law]["task"], lab.key(law)
        found = analysis.gradient_noise(*given, quantiles=(0.5, 0.99), **options)
        growth = found.isel(quantile=1) / found.isel(quantile=0)
        return growth[of] / growth.normal

    return {"excess": atlas.settings_of(excess, lab.settings.laws, "law")}


@STUDY.claim(NOISE, above(1.05), headline=True, must_fail_on={"tails": tails.given(of="normal")})
def noise_has_heavy_tails(lab, tails=tails):
    """For normal and gamma covariates, the noise of gradients has heavier tails than a normal law.

    Measured: Q(0.99) / Q(0.5) of ‖g - E g‖, over that of ‖z‖ for z ~ N(0, Cov g), at the initial
    weights. The sphere, where tails are lightest, is left out.
    """
    return tails.excess.drop_sel(law="sphere", errors="ignore")


@STUDY.claim(NOISE, above(0.0), headline=True, must_fail_on={"heavy": "sphere"})
def heavier_for_gamma(lab, tails=tails, heavy="gamma"):
    """Covariates with heavier tails give noise with heavier tails.

    Measured: the logarithm of the ratio in noise-has-heavy-tails, gamma minus normal, n = 20.
    """
    return np.log(tails.excess.sel(law=heavy, drop=True) / tails.excess.sel(law=MAIN, drop=True))


def at_step(prompts, targets, before, after):
    """The norm of the gradient before a step, and the curvature along it."""
    loss = loss_on(prompts, targets)
    norm = optax.tree.norm(eqx.filter_grad(loss)(before))
    return norm, analysis.directional_smoothness(loss, before, after)


@STUDY.claim(SMOOTHNESS, above(0.3), headline=True, must_fail_on={"ordered": False})
def smoothness_follows_the_gradient(lab, ordered=True):
    """Along Adam's path, the loss L is more curved where its gradient is larger.

    Measured: Spearman's correlation, over the first steps, of ‖∇L(w)‖ and u^T ∇²L(w) u, where u is
    the direction of the step from w and L the loss on fixed prompts; normal covariates, n = 20.
    """
    s, task, adam = lab.settings, LAWS[MAIN]["task"], LAWS[MAIN]["Adam"]
    on = eqx.Partial(at_step, *task.sample(lab.key("prompts"), (s.hessian_prompts,)))
    given = LAWS[MAIN]["start"](key=lab.key("start")), task, adam, on, lab.key("steps")
    norms, curved = training.along_steps(*given, steps=s.path, batch_size=s.batch_size)
    return scipy.stats.spearmanr(norms, curved if ordered else lab.rng().permutation(curved))[0]


@STUDY.figure(shows=[adam_below_sgd, light_tails_keep_the_gap])
def loss(lab, trained=trained):
    """Loss on fresh prompts during training, a line per seed; peaks due to rare prompts are cut."""
    laws = lab.settings.laws
    figure = Figure((figures.WIDE, 1.7 * (len(laws) + 1)), layout="constrained")
    for place, law in enumerate(laws, 1):
        axes = figure.add_subplot(-(-len(laws) // 2), 2, place)
        runs = {kind: trained[f"{kind}, {law}"] for kind in ("SGD", "Adam")}
        figures.risk_over_training(runs, {}, log=True, title=law, axes=axes)
        axes.set_ylim(top=2 * float(trained[f"SGD, {law}"].metrics.risk[:, 0].max()))
    return figure
