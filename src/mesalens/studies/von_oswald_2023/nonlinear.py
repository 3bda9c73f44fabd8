"""Parts `sine` and `teachers`: nonlinear functions, learned by an MLP under one layer of linear self-attention.

The model is a token projection, an MLP with a residual and one attention layer; it is compared with the same projection and MLP under one step
of gradient descent (`FeatureDescent`), both trained by the same call from the same first weights, seed by seed. Without an MLP no weights of one
attention layer have a risk below the bound of `mesalens.theory.optimal_lsa`. The margins were fixed before the models of this study were trained;
rates and steps of the budget `quick` were found with another seed. Both models share their first weights and so the first MLP: what is compared
is therefore the step, Δ = ŷ - ŷ before it, and a claim of its own counts the seeds that learned in context.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from mesalens import plots
from mesalens.analysis import risk
from mesalens.checks import InputError
from mesalens.learners import GradientDescent
from mesalens.models import FeatureDescent, LinearAttention, Transformer
from mesalens.prompt import Prompt
from mesalens.studies.criterion import Evidence, above, below, within
from mesalens.studies.study import Claim, Figure, Findings, Part
from mesalens.studies.von_oswald_2023.laboratory import Laboratory
from mesalens.studies.von_oswald_2023.runs import Run, beside, for_each_seed, risk_over_training
from mesalens.tasks import Gaussian, RegressionTask, SineWaves, TwoLayerNetworks, Uniform
from mesalens.theory import optimal_lsa
from mesalens.training import Training

EMBEDDING, WIDENING = 40, 4
STEP_SIZE = 0.1
"""η before training, on the mean over the context. Source: the released code."""
SECTION = 'Section 4, "Transformers solve nonlinear regression tasks", and Figure 4'
OUTPUTS = 2
"""Of a teacher network."""


def _claims(part: str, place: str, functions: str) -> tuple[Claim, ...]:
    return (
        Claim(
            f"{part}-in-context",
            f"On {functions}, an MLP under one layer of linear self-attention learns in context: it has a lower risk than any function of the query "
            "alone. Every seed counts.",
            place,
            "R / R_blind - 1, R_blind the risk of E[y | x], exact",
            below(0.0),
        ),
        Claim(
            f"{part}-risk",
            f"On {functions}, an MLP under one layer of linear self-attention has the risk of the same MLP under one step of gradient descent.",
            place,
            "R / R_GD - 1, both trained from the same first weights and measured on the same fresh prompts; seeds that learned in context",
            within(0.1),
        ),
        Claim(
            f"{part}-prediction-difference",
            "The two steps change predictions alike.",
            place,
            "E‖Δ - Δ_GD‖ / E‖Δ_GD‖, Δ what the attention layer or the step of descent adds to a prediction; seeds that learned in context",
            below(0.25),
        ),
        Claim(
            f"{part}-cosine",
            "The sensitivities ∂Δ/∂x_query of the two steps point the same way.",
            place,
            f"mean cosine of the two sensitivities{' (for d = 1 the mean product of signs)' * (part == 'sine')}; seeds that learned in context",
            above(0.9),
        ),
        Claim(
            f"{part}-needs-mlp",
            f"On {functions}, the MLP is needed: no weights of one layer of linear self-attention alone come as low. Every seed counts.",
            f"{place}; the bound is our own",
            "R / R_LSA - 1, R_LSA the certified lower bound of one layer without MLP, less two standard errors",
            below(0.0),
        ),
    )


def sine_task(run: Run) -> RegressionTask:
    """Sine waves of amplitude U(0.1, 0.5) and phase U(0, π) on [-5, 5]."""
    return RegressionTask(Uniform(1, 5.0), SineWaves(1), context_length=run.context_length)


def teacher_task(run: Run) -> RegressionTask:
    """Random networks with one hidden layer and two outputs on Gaussian inputs."""
    return RegressionTask(
        Gaussian(run.dim), TwoLayerNetworks(run.dim, OUTPUTS), context_length=run.context_length
    )


def context_blind_risk(task: RegressionTask, null_risk: float) -> float:
    """The risk of E[y | x], the best function of the query alone; `null_risk` is that of predicting 0.

    Where f and -f are equally likely the two are the same. For a sin(x + φ) with the mean amplitude α and φ ~ U(0, π) independent of
    it, E[y | x] = (2/π) α cos x.

    Raises `ValueError` for other functions.
    """
    functions = task.functions
    if functions.sign_symmetric:
        return null_risk
    if (
        not isinstance(functions, SineWaves)
        or functions.phase != (0.0, np.pi)
        or task.noise.variance  # pyright: ignore
    ):
        raise InputError(
            f"E[y | x] of {type(functions).__name__} is not known here; give functions that are as likely as their negatives."
        )
    low, high = functions.amplitude
    reach = float(task.covariates.scale)
    power = (
        (low**2 + low * high + high**2) / 3 / 2
    )  # E[a²] E[sin²], the phase being uniform over half a turn
    prior = (2 / np.pi * (low + high) / 2) ** 2 * (0.5 + np.sin(2 * reach) / (4 * reach))
    return float(functions.scale**2 * (power - prior))


def _experiment(
    part: str, task_of: Callable[[Run], RegressionTask]
) -> Callable[[Laboratory], Findings]:
    def run(laboratory: Laboratory) -> Findings:
        budget = laboratory.run(part)
        task = task_of(budget)

        def transformer(key):
            return Transformer.initialise(
                task.dim,
                task.outputs,
                attention=LinearAttention(),
                embedding_size=EMBEDDING,
                input_mlp_widening=WIDENING,
                init_scale=budget.init_scale,
                key=key,
            )

        def descent(key):
            return FeatureDescent(
                transformer(key).embedding, GradientDescent(jnp.asarray(STEP_SIZE)), task.outputs
            )

        def measure(learner, key):
            return {"risk": risk(learner, task, key, prompts=budget.prompts).value}

        models = laboratory.train(part, "attention", transformer, task, measure)
        references = laboratory.train(part, "descent", descent, task, measure)
        both = replace(models, learners=(models.learners, references.learners))
        after = for_each_seed(
            both,
            lambda pair, key: _beside(pair[0], pair[1], task, key, budget.prompts),
            laboratory.key(8, 1 + (part == "teachers")),
        )
        best = optimal_lsa(task, relative_error=0.01)
        linear = best.certificate.lower_bound - 2 * best.certificate.standard_errors.get(
            "lower_bound", 0.0
        )
        blind = context_blind_risk(task, best.null_risk)
        learned = (after["risk"] < blind) & (after["reference_risk"] < blind)
        figures = [_risk_figure(part, models, references, linear, blind)]
        if task.dim == 1:
            figures.append(_curves_figure(models, references, task, laboratory))
        numbers = {
            name: ", ".join(f"{value:.5f}" for value in after[name].values)
            for name in ("risk", "reference_risk")
        }
        return Findings(
            evidence={
                f"{part}-in-context": Evidence(after["risk"] / blind - 1),
                f"{part}-risk": Evidence(after["risk_difference"], learned),
                f"{part}-prediction-difference": Evidence(after["prediction_difference"], learned),
                f"{part}-cosine": Evidence(after["cosine"], learned),
                f"{part}-needs-mlp": Evidence(after["risk"] / linear - 1),
            },
            figures=figures,
            datasets={f"{part}-attention": models.metrics, f"{part}-descent": references.metrics},
            learners={f"{part}-attention": models.learners, f"{part}-descent": references.learners},
            remarks=[
                f"{part}: risk {numbers['risk']} with attention, {numbers['reference_risk']} with one step of gradient descent, both on trained "
                f"features, where the best function of the query alone has {blind:.5f} and no attention layer without MLP less than {linear:.5f}."
            ],
        )

    return run


def _beside(model, reference, task: RegressionTask, key, prompts: int) -> dict[str, jax.Array]:
    """Risks on the same prompts, and how alike the steps are: what each adds to the prediction of its MLP."""

    def step(learner):
        return lambda prompt: learner(prompt) - learner.iterates(prompt)[0]

    alike = beside(step(model), step(reference), task, key, prompts)
    return beside(model, reference, task, key, prompts) | {
        name: alike[name] for name in ("prediction_difference", "cosine", "sensitivity_difference")
    }


def _risk_figure(
    part: str, models: Training, references: Training, linear: float, blind: float
) -> Figure:
    figure, axes = plt.subplots(figsize=(9, 3.8), layout="constrained")
    risk_over_training(
        axes, models.metrics, color=plots.TRAINED, label="MLP and attention, one line a seed"
    )
    risk_over_training(
        axes,
        references.metrics,
        color=plots.REFERENCE,
        label="MLP and one GD step, one line a seed",
    )
    axes.axhline(
        linear, color=plots.NEUTRAL, linestyle=":", label="bound for attention without MLP"
    )
    axes.axhline(
        blind, color=plots.NEUTRAL, linestyle="-.", linewidth=1, label="best function of x alone"
    )
    axes.set(xlabel="training step", ylabel="risk  E(ŷ − y)²", yscale="log")
    figure.legend(loc="outside right center")
    return Figure(
        f"{part}-risk",
        "Risk over training, measured on fresh prompts, of an MLP under one layer of linear self-attention and of the same MLP under one step of gradient "
        "descent on its features, from the same first weights. No attention layer without an MLP is below the dotted line, nothing that does not use the "
        "context below the dash-dotted one.",
        figure,
    )


def _curves_figure(
    models: Training, references: Training, task: RegressionTask, laboratory: Laboratory
) -> Figure:
    """The functions before and after the step, beside the context and the wave that it was drawn from."""
    key = laboratory.key(8, 0)
    xs = jnp.linspace(-5, 5, 201)[:, None]
    figure, row = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", sharey=True)
    for axes, each in zip(row, jax.random.split(key, 2), strict=True):
        covariate_key, function_key = jax.random.split(each)
        inputs = task.covariates.sample(covariate_key, (task.context_length,))
        ys = task.functions(function_key, jnp.concatenate([inputs, xs]))
        context, wave = ys[: task.context_length], ys[task.context_length :]
        axes.plot(xs, wave, color="black", linestyle="--", linewidth=1, label="the wave")
        axes.plot(
            inputs, context, "o", color=plots.NEUTRAL, markersize=5, label="context", zorder=5
        )
        for training, color, words in (
            (models, plots.TRAINED, "attention"),
            (references, plots.REFERENCE, "gradient descent"),
        ):
            learner = training.learner(0)
            before, after = jax.vmap(
                lambda x, learner=learner, inputs=inputs, context=context: learner.iterates(
                    Prompt(inputs, context, x)
                )
            )(xs)[:, :, 0].T
            axes.plot(
                xs,
                before,
                color=color,
                alpha=0.5,
                linewidth=1,
                linestyle=":",
                label=f"{words}, before",
            )
            axes.plot(xs, after, color=color, label=f"{words}, after")
        axes.set(xlabel="x")
    row[0].set_ylabel("y")
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside right center")
    return Figure(
        "sine-functions",
        "What is predicted at every query x for two prompts (dots), before the step, where only the MLP speaks (dotted), and after it: an MLP under "
        "one attention layer and under one step of gradient descent, seed 0 of both. Dashed: the sine wave from which the context comes.",
        figure,
    )


SINE = Part(
    "sine", "Sine waves", _claims("sine", SECTION, "sine waves"), _experiment("sine", sine_task)
)
TEACHERS = Part(
    "teachers",
    "Random networks with several outputs",
    _claims(
        "teachers", f"{SECTION}; not shown in the paper", "random networks with several outputs"
    ),
    _experiment("teachers", teacher_task),
)
