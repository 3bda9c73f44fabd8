"""Part `classification`: one layer of linear self-attention trained on cross-entropy, beside one step of descent on the logistic loss.

The paper speaks of it as an extension and shows no figure. From W_0 = 0 one step on the logistic loss is linear in the labels, so that a layer is
that step by construction (`mesalens.theory.logistic_descent_transformer`). Logits count up to a shift that all classes share: sensitivities
are compared after their mean over classes is taken off. The margins were fixed before the models of this study were trained.
"""

from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import scipy.optimize
import xarray as xr
from jaxtyping import Array, Key

from mesalens import plots
from mesalens.analysis import accuracy, cross_entropy, expectation, sensitivity
from mesalens.learners import Learner, LogisticDescent
from mesalens.models import LinearTransformer
from mesalens.prompt import Prompt
from mesalens.studies.criterion import Evidence, above, every_seed_below, within
from mesalens.studies.study import Claim, Figure, Findings, Part
from mesalens.studies.von_oswald_2023.laboratory import Laboratory
from mesalens.studies.von_oswald_2023.runs import for_each_seed, furthest
from mesalens.tasks import ClassificationTask, Gaussian, LinearFunctions
from mesalens.theory import logistic_descent_transformer
from mesalens.training import Training

PLACE = "Section 2 and the appendix on cross-entropy; not shown in the paper"
CLASSES = 3

CLAIMS = (
    Claim(
        "logistic-construction",
        "One layer of linear self-attention can be one step of gradient descent from zero on the logistic loss.",
        PLACE,
        "greatest |ŷ - ŷ_GD| of logits over prompts, over their root mean square",
        every_seed_below(1e-5),
    ),
    Claim(
        "classification-loss",
        "A layer that is trained on cross-entropy has the cross-entropy of one step of gradient descent on the logistic loss with the best step size.",
        PLACE,
        "CE / CE_GD - 1, both on the same fresh prompts",
        within(0.05),
    ),
    Claim(
        "classification-cosine",
        "The sensitivities of centred logits to the query point the same way.",
        PLACE,
        "mean cosine of the two sensitivities",
        above(0.95),
    ),
    Claim(
        "classification-accuracy",
        "Both choose the right class equally often.",
        PLACE,
        "accuracy - accuracy_GD, both on the same fresh prompts",
        within(0.02),
    ),
)


def run(laboratory: Laboratory) -> Findings:
    """Trains layers on cross-entropy, and finds the step size with which descent has the least."""
    budget = laboratory.run("classification")
    dim = budget.dim
    task = ClassificationTask(
        Gaussian(dim), LinearFunctions(dim, CLASSES), context_length=budget.context_length
    )

    def layer(key):
        return LinearTransformer.initialise(dim, CLASSES, init_scale=budget.init_scale, key=key)

    def measure(learner, key):
        return {"cross_entropy": cross_entropy(learner, task, key, prompts=budget.prompts).value}

    layers = laboratory.train("classification", "attention", layer, task, measure, "cross-entropy")
    descent = best_step(task, laboratory.key(9, 2))
    after = for_each_seed(
        layers,
        lambda layer, key: _beside(layer, descent, task, key, budget.prompts),
        laboratory.key(9, 1),
    )
    null = float(np.log(CLASSES))
    left = (null - after["loss"]) / (null - after["reference_loss"]) > 0.5
    return Findings(
        evidence={
            "logistic-construction": Evidence(_construction(laboratory, task)),
            "classification-loss": Evidence(after["loss"] / after["reference_loss"] - 1, left),
            "classification-cosine": Evidence(after["cosine"], left),
            "classification-accuracy": Evidence(
                after["accuracy"] - after["reference_accuracy"], left
            ),
        },
        figures=[_figure(layers, float(after["reference_loss"].mean()), null)],
        datasets={"classification": layers.metrics},
        learners={"classification": layers.learners},
        remarks=[
            f"Classification, {CLASSES} classes, d = {dim}, n = {budget.context_length}: {int(left.sum())} of {left.size} layers left the plateau; "
            f"cross-entropy {', '.join(f'{loss:.4f}' for loss in after['loss'].values)}, one step of size {float(descent.step_size):.2f} on the logistic loss "
            f"{float(after['reference_loss'].mean()):.4f}, all classes alike {null:.4f}; accuracy {float(after['accuracy'].where(left).mean()):.3f} and "
            f"{float(after['reference_accuracy'].mean()):.3f}."
        ],
    )


def best_step(
    task: ClassificationTask, key: Key[Array, ""], *, prompts: int = 20_000
) -> LogisticDescent:
    """One step on the logistic loss, with the step size that has the least cross-entropy on the same fresh prompts."""
    drawn, targets = task.sample(key, (prompts,))

    @jax.jit
    def loss(step_size, drawn, targets):
        logits = jax.vmap(LogisticDescent(step_size))(drawn)
        return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1))

    found = scipy.optimize.minimize_scalar(
        lambda size: float(loss(size, drawn, targets)), bounds=(0, 100), method="bounded"
    )
    return LogisticDescent(jnp.asarray(found.x, jnp.float32))


def _beside(
    layer: Learner, descent: Learner, task: ClassificationTask, key, prompts: int
) -> dict[str, Any]:
    """Cross-entropies, accuracies, and the cosine of sensitivities of centred logits, on the same prompts."""

    def centred(learner):
        return lambda prompt: learner(prompt) - learner(prompt).mean()

    def cosine(prompt: Prompt, _):
        J, J_ref = sensitivity(centred(layer), prompt), sensitivity(centred(descent), prompt)
        lengths = jnp.linalg.norm(J) * jnp.linalg.norm(J_ref)
        return jnp.where(lengths > 0, jnp.sum(J * J_ref) / jnp.where(lengths > 0, lengths, 1), 0)

    return {
        "loss": cross_entropy(layer, task, key, prompts=prompts).value,
        "reference_loss": cross_entropy(descent, task, key, prompts=prompts).value,
        "accuracy": accuracy(layer, task, key, prompts=prompts).value,
        "reference_accuracy": accuracy(descent, task, key, prompts=prompts).value,
        "cosine": expectation(cosine, task, key, prompts=prompts).value,
    }


def _construction(laboratory: Laboratory, task: ClassificationTask) -> xr.DataArray:
    """How far the constructed layer's logits are from those of descent, on prompts of every seed."""
    descent = LogisticDescent(jnp.asarray(2.0))
    layer = logistic_descent_transformer(
        descent, dim=task.dim, outputs=task.outputs, context_length=task.context_length
    )
    return furthest(
        layer, descent, task, laboratory.key(9, 0), laboratory.seeds_of("classification")
    )


def _figure(layers: Training, descent: float, null: float) -> Figure:
    figure, axes = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
    for place, line in enumerate(layers.metrics.cross_entropy):
        label = "trained layers, one line a seed" if place == 0 else None
        axes.plot(line.step, line, color=plots.TRAINED, alpha=0.6, linewidth=1, label=label)
    axes.axhline(
        descent,
        color=plots.REFERENCE,
        linestyle="--",
        label="one step on the logistic loss, best size",
    )
    axes.axhline(null, color=plots.NEUTRAL, linestyle=":", label="all classes alike")
    axes.set(xlabel="training step", ylabel="cross-entropy", ylim=(0, 1.1 * null))
    axes.legend(loc="lower left")
    return Figure(
        "classification",
        "Cross-entropy over training, measured on fresh prompts, of one layer of linear self-attention, beside that of one step of gradient descent on the "
        "logistic loss with the best step size (dashed).",
        figure,
    )


PART = Part("classification", "Classification", CLAIMS, run)
