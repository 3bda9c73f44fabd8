"""Part `classification`: a layer trained on cross-entropy, and one step on the logistic loss.

The paper mentions it as an extension and shows no figure. From W_0 = 0, one step on the logistic
loss is linear in the labels, so a layer of linear self-attention is that step by construction
(`mesalens.theory.logistic_descent_transformer`). Adding a number to all logits changes nothing, so
sensitivities are compared after subtracting the mean over classes. The margins were fixed before
the models of this study were trained.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from mesalens import analysis, atlas, learners, random, tasks, theory
from mesalens.atlas import Experiment, above, beside, every_seed_below, figures, within
from mesalens.studies.von_oswald_2023.study import STUDY, training

part = STUDY.part("classification", "Classification", looks="classification_seeds")
PLACE = "Section 2 and the appendix on cross-entropy; not shown in the paper"
CLASSES = 3


def task_of(s):
    """The class of an input is the largest of three linear functions of it."""
    s = s.of("classification")
    laws = tasks.Gaussian(s.dim), tasks.LinearFunctions(s.dim, CLASSES)
    return tasks.ClassificationTask(*laws, context_length=s.context_length)


@atlas.remembered
def best_step(task):
    """The best step on the logistic loss, and its cross-entropy: the same for all seeds."""
    step = theory.best_logistic_step(task, random.measurement_key(0))
    return step, float(analysis.cross_entropy(step, task, random.measurement_key(1)).value)


def loss_on(task):
    """What is measured during training."""
    measure = analysis.cross_entropy
    return lambda layer, key: {"cross_entropy": measure(layer, task, key, prompts=2000).value}


@part.experiment
def classifier(s):
    """One layer of linear self-attention, trained on cross-entropy."""
    s = s.of("classification")
    return Experiment(
        task=task_of(s),
        model={"kind": "linear-transformer", "init_scale": s.init_scale},
        objective="cross-entropy",
        measure=loss_on,
        counts=atlas.LeftPlateau(
            null=lambda run: np.log(CLASSES),
            reference=lambda run: best_step(run.task)[1],
            metric="cross_entropy",
        ),
        **training(s),
    )


@part.measurement
def classified(lab, trained=classifier):
    """Compares the layer with one step on the logistic loss, on the same prompts."""
    step, _ = best_step(trained.task)
    return on_classes(trained.learner, step, trained.task, lab.key(), lab.settings.prompts)


@atlas.compiled_once
def on_classes(layer, step, task, key, prompts):
    """The differences of two classifiers, and the cosine of their sensitivities."""

    def mean(measure, learner):
        return measure(learner, task, key, prompts=prompts).value

    def centred(learner):
        return lambda prompt: learner(prompt) - learner(prompt).mean()

    losses, accuracies = (
        [mean(measure, each) for each in (layer, step)]
        for measure in (analysis.cross_entropy, analysis.accuracy)
    )
    return {
        "loss_difference": losses[0] / losses[1] - 1,
        "accuracy_difference": accuracies[0] - accuracies[1],
        "cosine": beside(centred(layer), centred(step), task, key, prompts=prompts)["cosine"],
    }


def least_squares(descent, **sizes):
    """A wrong construction: a step on squared errors, without subtracting the mean of labels."""
    step = learners.GradientDescent(descent.step_size)
    return theory.gradient_descent_transformer(step, **sizes)


@part.claim(PLACE, every_seed_below(1e-5), must_fail_on={"construct": least_squares})
def logistic_construction(lab, construct=theory.logistic_descent_transformer):
    """One layer of linear self-attention can be one step of gradient descent from zero on the
    logistic loss.

    Measured: the largest |ŷ - ŷ_GD| of logits over prompts, divided by their root mean square.
    """
    task, descent = task_of(lab.settings), learners.LogisticDescent(jnp.asarray(2.0))
    return atlas.largest_difference(construct(descent, **task.sizes), descent, task, lab.key())


@part.claim(PLACE, within(0.05), must_fail_on="untrained")
def classification_loss(lab, classified=classified):
    """A layer trained on cross-entropy has the cross-entropy of one step of gradient descent on the
    logistic loss with the best step size.

    Measured: CE / CE_GD - 1, both on the same fresh prompts.
    """
    return classified.loss_difference


@part.claim(PLACE, above(0.95), must_fail_on="untrained")
def classification_cosine(lab, classified=classified):
    """The sensitivities of centred logits to the query have the same direction.

    Measured: mean cosine of the two sensitivities.
    """
    return classified.cosine


@part.claim(PLACE, within(0.02), must_fail_on="untrained")
def classification_accuracy(lab, classified=classified):
    """The layer and the step have the same accuracy.

    Measured: accuracy - accuracy_GD, both on the same fresh prompts.
    """
    return classified.accuracy_difference


@part.figure
def classification(lab, trained=classifier):
    """Cross-entropy during training, measured on fresh prompts, of one layer of linear
    self-attention, and that of one step of gradient descent on the logistic loss with the best step
    size, {size}.
    """
    step, loss = best_step(trained[0].task)
    lines = {"one step on the logistic loss": loss, "all classes alike": np.log(CLASSES)}
    look: Any = {"metric": "cross_entropy", "ylabel": "cross-entropy"}
    figure = figures.risk_over_training({"trained layers": trained}, lines, **look)
    return figure, {"size": f"{float(step.step_size):.2f}"}
