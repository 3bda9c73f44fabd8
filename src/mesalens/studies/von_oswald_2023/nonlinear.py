"""Parts `sine` and `teachers`: nonlinear functions, learned by an MLP under one attention layer.

The model is a token projection, an MLP with a residual and a layer of linear self-attention. It is
compared with the same projection and MLP under one step of gradient descent (`FeatureDescent`),
both trained by the same call from the same first weights, seed by seed. As they share these, what
is compared is the step itself: Δ = ŷ - ŷ before it. Without an MLP no weights of one attention
layer have a risk below the bound of `mesalens.theory.optimal_lsa`. The margins were fixed before
the models of this study were trained.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

from mesalens import analysis, plots
from mesalens.atlas import (
    Experiment,
    LeftPlateau,
    above,
    below,
    beside,
    figures,
    remembered,
    within,
)
from mesalens.learners import GradientDescent
from mesalens.models import FeatureDescent, LinearAttention, Transformer
from mesalens.prompt import Prompt
from mesalens.studies.von_oswald_2023.beyond_settings import training
from mesalens.studies.von_oswald_2023.study import STUDY
from mesalens.tasks import Gaussian, RegressionTask, SineWaves, TwoLayerNetworks, Uniform
from mesalens.theory import context_blind_risk, optimal_lsa

sine = STUDY.part("sine", "Sine waves", looks="sine_seeds")
teachers = STUDY.part("teachers", "Random networks with several outputs", looks="teachers_seeds")
SECTION = 'Section 4, "Transformers solve nonlinear regression tasks", and Figure 4'

STEP_SIZE = 0.1
"""η before training, on the mean over the context. Source: the released code."""


def task_of(s, part):
    """Sine waves of amplitude U(0.1, 0.5) and phase U(0, π) on [-5, 5], or random networks with one
    hidden layer and two outputs on Gaussian inputs.
    """
    if part == "sine":
        laws = Uniform(1, 5.0), SineWaves(1)
    else:
        laws = Gaussian(s.teachers_dim), TwoLayerNetworks(s.teachers_dim, 2)
    return RegressionTask(*laws, context_length=s[f"{part}_context_length"])


@remembered
def bounds(task):
    """The least risks without an MLP, less two standard errors, and without the context."""
    best = optimal_lsa(task, relative_error=0.01)
    error = best.certificate.standard_errors.get("lower_bound", 0.0)
    blind = context_blind_risk(task, best.null_risk)
    return {"bound": best.certificate.lower_bound - 2 * error, "blind": blind}


LEARNED = LeftPlateau(
    null=lambda run: bounds(run.task)["blind"],
    reference=lambda run: 0.0,
    share=0.0,
    words="learned in context: they have a lower risk than any function of the query alone",
)


def risk_on(task):
    """What is measured during training."""
    return lambda learner, key: {"risk": analysis.risk(learner, task, key, prompts=2000).value}


@STUDY.experiment
def mlp_under(s, step, part, trained=True, counted=True):
    """An MLP under a layer of attention, or under a step of gradient descent."""
    task = task_of(s, part)

    def transformer(key):
        return Transformer.initialise(
            task.dim,
            task.outputs,
            attention=LinearAttention(),
            embedding_size=s[f"{part}_embedding_size"],
            input_mlp_widening=s[f"{part}_widening"],
            init_scale=s[f"{part}_init_scale"],
            key=key,
        )

    def descent(key):
        features = transformer(key).embedding
        return FeatureDescent(features, GradientDescent(jnp.asarray(STEP_SIZE)), task.outputs)

    return Experiment(
        task=task,
        model={"attention": transformer, "descent": descent}[step],
        measure=risk_on,
        counts=LEARNED if trained and counted else None,
        **training(s, part, trained),
    )


@STUDY.measurement
def steps(lab, model, descent):
    """The difference of risks, and how alike the steps of both are."""
    prompts = lab.settings.prompts
    return steps_beside(model.learner, descent.learner, model.task, lab.key(), prompts)


@eqx.filter_jit
def steps_beside(model, descent, task, key, prompts):
    """Both on the same prompts: what their steps add to the predictions of their MLPs."""

    def step(learner):
        return lambda prompt: learner(prompt) - learner.iterates(prompt)[0]

    alike = beside(step(model), step(descent), task, key, prompts=prompts)
    risks = beside(model, descent, task, key, prompts=prompts)
    return alike | {"risk_difference": risks["risk_difference"]}


def declare(part, place, functions, headline):
    """The claims for one kind of functions; returns the experiments."""
    name = part.name
    claim = functools.partial(part.claim, headline=headline, functions=functions)
    model, descent = (mlp_under.given(step=step, part=name) for step in ("attention", "descent"))
    pair = steps.given(model=model, descent=descent)
    new = model.given(trained=False)
    untrained = {"trained": new}
    wrong = {"steps": steps.given(model=new, descent=descent.given(counted=False))}

    @claim(place, below(0.0), name=f"{name}-in-context", every_seed=True, must_fail_on=untrained)
    def in_context(lab, trained=model):
        """On {functions}, an MLP under one layer of linear self-attention learns in context: it has
        a lower risk than any function of the query alone. Every seed counts.

        Measured: R / R_blind - 1, R_blind the risk of E[y | x].
        """
        return fresh_risk(lab, trained) / bounds(trained.task)["blind"] - 1

    @claim(place, within(0.1), name=f"{name}-risk", must_fail_on=wrong)
    def same_risk(lab, steps=pair):
        """On {functions}, an MLP under one layer of linear self-attention has the risk of the same
        MLP under one step of gradient descent.

        Measured: R / R_GD - 1, both trained from the same first weights and measured on the same
        fresh prompts; seeds that learned in context.
        """
        return steps.risk_difference

    @claim(place, below(0.25), name=f"{name}-prediction-difference", must_fail_on=wrong)
    def prediction_difference(lab, steps=pair):
        """The two steps change predictions alike.

        Measured: E‖Δ - Δ_GD‖ / E‖Δ_GD‖, Δ what the attention layer or the step of descent adds to a
        prediction; seeds that learned in context.
        """
        return steps.prediction_difference

    @claim(place, above(0.9), name=f"{name}-cosine", must_fail_on=wrong)
    def cosine(lab, steps=pair):
        """The sensitivities ∂Δ/∂x_query of the two steps point the same way.

        Measured: mean cosine of the two sensitivities (for d = 1 the mean product of signs); seeds
        that learned in context.
        """
        return steps.cosine

    ours = f"{place}; the bound is our own"

    @claim(ours, below(0.0), name=f"{name}-needs-mlp", every_seed=True, must_fail_on=untrained)
    def needs_mlp(lab, trained=model):
        """On {functions}, the MLP is needed: no weights of one layer of linear self-attention alone
        come as low. Every seed counts.

        Measured: R / R_LSA - 1, R_LSA the certified lower bound of one layer without MLP, less two
        standard errors.
        """
        return fresh_risk(lab, trained) / bounds(trained.task)["bound"] - 1

    return model, descent


def fresh_risk(lab, trained):
    """The risk of a trained learner on fresh prompts."""
    prompts = lab.settings.prompts
    return float(analysis.risk(trained.learner, trained.task, lab.key(), prompts=prompts).value)


sine_attention, sine_descent = declare(sine, SECTION, "sine waves", False)
teachers_attention, teachers_descent = declare(
    teachers, f"{SECTION}; not shown in the paper", "random networks with several outputs", True
)


@sine.figure
def sine_risk(lab, model=sine_attention, descent=sine_descent):
    """Risk over training, measured on fresh prompts, of an MLP under one layer of linear
    self-attention and of the same MLP under one step of gradient descent on its features, from the
    same first weights. No attention layer without an MLP has less than {bound}, and nothing that
    does not use the context less than {blind}.
    """
    return risk_figure(model, descent)


@teachers.figure
def teachers_risk(lab, model=teachers_attention, descent=teachers_descent):
    """As for sine waves: risk over training of an MLP under one layer of linear self-attention and
    under one step of gradient descent. No attention layer without an MLP has less than {bound}, and
    nothing that does not use the context less than {blind}.
    """
    return risk_figure(model, descent)


def risk_figure(model, descent):
    """The risks of both over training, and the words for the caption."""
    least = bounds(model[0].task)
    lines = {"bound without an MLP": least["bound"], "best function of x alone": least["blind"]}
    groups = {"MLP and attention": model, "MLP and one step of gradient descent": descent}
    figure = figures.risk_over_training(groups, lines, log=True)
    return figure, {name: f"{risk:.4f}" for name, risk in least.items()}


@sine.figure
def sine_functions(lab, model=sine_attention, descent=sine_descent):
    """What is predicted at every query x for two prompts (dots), before the step, where only the
    MLP speaks (dotted), and after it: an MLP under one attention layer and under one step of
    gradient descent, seed {seed} of both. Dashed: the sine wave from which the context comes.
    """
    run, task = model.shown[0], model[0].task
    learners = {"attention": run.learner, "gradient descent": descent[run.seed].learner}
    queries, colors = jnp.linspace(-5, 5, 201)[:, None], (plots.TRAINED, plots.REFERENCE)
    figure = Figure((figures.WIDE, 3.8), layout="constrained")
    row = figure.subplots(1, 2, sharey=True)
    for axes, key in zip(row, jax.random.split(lab.key(), 2), strict=True):
        input_key, wave_key = jax.random.split(key)
        xs = task.covariates.sample(input_key, (task.context_length,))
        labels = task.functions(wave_key, jnp.concatenate([xs, queries]))
        ys, wave = jnp.split(labels, [task.context_length])
        axes.plot(queries, wave, color="black", linestyle="--", linewidth=1, label="the wave")
        axes.plot(xs, ys, "o", color=plots.NEUTRAL, markersize=5, label="context")
        for (label, learner), color in zip(learners.items(), colors, strict=True):
            before, *_, after = predicted(learner, xs, ys, queries)
            axes.plot(queries, before, color=color, linestyle=":", label=f"{label}, before")
            axes.plot(queries, after, color=color, label=f"{label}, after")
        axes.set(xlabel="x")
    row[0].set_ylabel("y")
    return figures.legend_below(row[0]), {"seed": str(run.seed)}


def predicted(learner, xs, ys, queries):
    """The iterates at each query, by step."""
    return jax.vmap(lambda query: learner.iterates(Prompt(xs, ys, query)), out_axes=1)(queries)
