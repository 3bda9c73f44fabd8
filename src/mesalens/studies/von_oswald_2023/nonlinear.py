"""Parts `sine` and `teachers`: nonlinear functions, learned by an MLP under one attention layer.

The model is a token projection, an MLP with a residual and a layer of linear self-attention. It is
compared with the same projection and MLP under one step of gradient descent (`FeatureDescent`),
both trained by the same call from the same initial weights, seed by seed. As they share these, the
steps themselves are compared: Δ is ŷ after the step minus ŷ before it. Without an MLP, no weights
of one attention layer have a risk below the bound of `mesalens.theory.optimal_layer`. The margins
were fixed before the models of this study were trained. Initial weights: see `nonlinear_models`.
"""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

from mesalens import analysis, atlas, plots, tasks, theory
from mesalens.atlas import Experiment, above, below, beside, figures, within
from mesalens.prompt import Prompt
from mesalens.simulation import expectation
from mesalens.studies.von_oswald_2023 import nonlinear_models
from mesalens.studies.von_oswald_2023.study import STUDY, training

sine = STUDY.part("sine", "Sine waves", looks="sine_seeds")
teachers = STUDY.part("teachers", "Random networks with several outputs", looks="teachers_seeds")
SECTION = 'Section 4, "Transformers solve nonlinear regression tasks", and Figure 4'


@atlas.remembered
def bounds(task):
    """The least risks without an MLP, minus two standard errors, and without the context."""
    best = theory.optimal_layer(task, relative_error=0.01)
    error = best.certificate.standard_errors.get("lower_bound", 0.0)
    blind = theory.context_blind_risk(task, best.null_risk)
    return {"bound": best.certificate.lower_bound - 2 * error, "blind": blind}


LEARNED = atlas.LeftPlateau(
    null=lambda run: bounds(run.task)["blind"],
    reference=lambda run: 0.0,
    share=0.0,
    words="learned in context: they have a lower risk than any function of the query alone",
)


def risk_on(task):
    """What is measured during training."""
    return lambda learner, key: {"risk": analysis.risk(learner, task, key, prompts=2000).value}


def under(s, laws, step, start):
    """The training of an MLP under a layer of attention, or under a step of gradient descent."""
    task = tasks.RegressionTask(*laws, context_length=s.context_length)
    initialise = {"attention": nonlinear_models.attention, "descent": nonlinear_models.descent}
    model = partial(initialise[step], s, task, start or s.start)
    return Experiment(task=task, model=model, measure=risk_on, counts=LEARNED, **training(s))


@sine.experiment
def on_sine(s, step, start=None):
    """On sine waves of amplitude U(0.1, 0.5) and phase U(0, π) on [-5, 5]."""
    return under(s.of("sine"), (tasks.Uniform(1, 5.0), tasks.SineWaves(1)), step, start)


@teachers.experiment
def on_teachers(s, step, start=None):
    """On random networks with one hidden layer and two outputs, and Gaussian inputs."""
    s = s.of("teachers")
    laws = tasks.Gaussian(s.dim), tasks.TwoLayerNetworks(s.dim, 2)
    return under(s, laws, step, start)


@STUDY.measurement
def steps(lab, model, descent):
    """The difference of risks, and the similarity of the steps of both."""
    prompts = lab.settings.prompts
    return steps_beside(model.learner, descent.learner, model.task, lab.key(), prompts)


@eqx.filter_jit  # takes seconds on all prompts, unless it is compiled well
def steps_beside(model, descent, task, key, prompts):
    """Compares on the same prompts what the steps add to the predictions of the MLPs."""

    def step(learner):
        return lambda prompt: learner(prompt) - learner.iterates(prompt)[0]

    def errors(prompt, target):
        return [jnp.sum((learner(prompt) - target) ** 2) for learner in (model, descent)]

    alike = beside(step(model), step(descent), task, key, prompts=prompts)
    risk, reference = (mean.value for mean in expectation(errors, task, key, prompts=prompts))
    return alike | {"relative_risk_difference": risk / reference - 1}


def declare(part, place, experiment, functions, headline):
    """The claims for one kind of functions; returns the trainings of both models."""
    model, descent = (experiment.given(step=step) for step in ("attention", "descent"))
    pair = steps.given(model=model, descent=descent)
    # Before training the risk of other initial weights varies too much for an interval
    before = model.given(start="published").untrained

    def claim(name, place, criterion, fails: Any = None, count_all_seeds=False):
        fails = fails or {"trained": before}
        options = {"headline": headline, "count_all_seeds": count_all_seeds, "functions": functions}
        return part.claim(
            place, criterion, name=f"{part.name}-{name}", must_fail_on=fails, **options
        )

    @claim("in-context", place, below(0.0), count_all_seeds=True)
    def in_context(lab, trained=model):
        """On {functions}, an MLP under one layer of linear self-attention learns in context: it has
        less risk than any function of the query alone. Every seed counts.

        Measured: R / R_blind - 1, with R_blind the risk of E[y | x].
        """
        return fresh_risk(lab, trained) / bounds(trained.task)["blind"] - 1

    # Compared with the trained descent, for any seeds
    fails = {"steps": pair.given(model=before, descent=descent.but(counts=None))}

    @claim("risk", place, within(0.1), fails)
    def same_risk(lab, steps=pair):
        """On {functions}, an MLP under one layer of linear self-attention has the risk of the same
        MLP under one step of gradient descent.

        Measured: R / R_GD - 1, both trained from the same initial weights and measured on the same
        fresh prompts; for seeds that learned in context.
        """
        return steps.relative_risk_difference

    @claim("prediction-difference", place, below(0.25), fails)
    def prediction_difference(lab, steps=pair):
        """The two steps change predictions in the same way.

        Measured: E‖Δ - Δ_GD‖ / E‖Δ_GD‖, where Δ is what the attention layer or the step of descent
        adds to a prediction; for seeds that learned in context.
        """
        return steps.relative_prediction_difference

    @claim("cosine", place, above(0.9), fails)
    def cosine(lab, steps=pair):
        """The sensitivities ∂Δ/∂x_query of the two steps have the same direction.

        Measured: mean cosine of the two sensitivities (for d = 1 the mean product of signs); for
        seeds that learned in context.
        """
        return steps.cosine

    @claim("needs-mlp", f"{place}; the bound is our own", below(0.0), count_all_seeds=True)
    def needs_mlp(lab, trained=model):
        """On {functions}, the MLP is needed: no weights of one layer of linear self-attention alone
        have so little risk. Every seed counts.

        Measured: R / R_LSA - 1, with R_LSA the certified lower bound for one layer without an MLP,
        minus two standard errors.
        """
        return fresh_risk(lab, trained) / bounds(trained.task)["bound"] - 1

    return model, descent


def fresh_risk(lab, trained):
    """The risk of a trained learner on fresh prompts."""
    prompts = lab.settings.prompts
    return float(analysis.risk(trained.learner, trained.task, lab.key(), prompts=prompts).value)


def draw_risks(model, descent):
    """Draws the risks of both during training; also returns words for the caption."""
    least = bounds(model[0].task)
    lines = {"bound without an MLP": least["bound"], "best function of x alone": least["blind"]}
    groups = {"MLP and attention": model, "MLP and one step of gradient descent": descent}
    figure = figures.risk_over_training(groups, lines, log=True)
    return figure, {name: f"{risk:.4f}" for name, risk in least.items()}


attention, descent = declare(sine, SECTION, on_sine, "sine waves", False)
NETWORKS, NOT_SHOWN = "random networks with several outputs", f"{SECTION}; not shown in the paper"
networks_attention, networks_descent = declare(teachers, NOT_SHOWN, on_teachers, NETWORKS, True)


@sine.figure
def sine_risk(lab, model=attention, descent=descent):
    """Risk during training, measured on fresh prompts, of an MLP under one layer of linear
    self-attention and of the same MLP under one step of gradient descent on its features, from the
    same initial weights. No attention layer without an MLP has less risk than {bound}, and no
    function of the query alone less than {blind}.
    """
    return draw_risks(model, descent)


@teachers.figure
def teachers_risk(lab, model=networks_attention, descent=networks_descent):
    """As for sine waves: risk during training of an MLP under one layer of linear self-attention
    and under one step of gradient descent. No attention layer without an MLP has less risk than
    {bound}, and no function of the query alone less than {blind}.
    """
    return draw_risks(model, descent)


@sine.figure
def sine_functions(lab, model=attention, descent=descent):
    """Predictions at every query x for two prompts (dots), before the step, by the MLP alone
    (dotted), and after it: an MLP under one attention layer and under one step of gradient descent,
    seed {seed} of both. Dashed: the sine wave from which the context comes.
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
