"""Part `classification`: a layer trained on cross-entropy, beside a step on the logistic loss.

The paper speaks of it as an extension and shows no figure. From W_0 = 0 one step on the logistic
loss is linear in the labels, so that a layer of linear self-attention is that step by construction
(`mesalens.theory.logistic_descent_transformer`). A number added to all logits changes nothing:
sensitivities are compared after the mean over classes is taken off. The margins were fixed before
the models of this study were trained.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from mesalens import random
from mesalens.analysis import accuracy, cross_entropy
from mesalens.atlas import (
    Experiment,
    LeftPlateau,
    above,
    beside,
    every_seed_below,
    figures,
    remembered,
    within,
)
from mesalens.learners import GradientDescent, LogisticDescent
from mesalens.studies.von_oswald_2023.beyond_settings import training
from mesalens.studies.von_oswald_2023.copying import largest_difference
from mesalens.studies.von_oswald_2023.study import STUDY
from mesalens.tasks import ClassificationTask, Gaussian, LinearFunctions
from mesalens.theory import (
    best_logistic_step,
    gradient_descent_transformer,
    logistic_descent_transformer,
)

part = STUDY.part("classification", "Classification", looks="classification_seeds")
PLACE = "Section 2 and the appendix on cross-entropy; not shown in the paper"
CLASSES = 3


def task_of(s):
    """The class of an input is the largest of three linear functions of it."""
    laws = Gaussian(s.classification_dim), LinearFunctions(s.classification_dim, CLASSES)
    return ClassificationTask(*laws, context_length=s.classification_context_length)


@remembered
def best_step(task):
    """The best step on the logistic loss, and its cross-entropy: the same for all seeds."""
    step = best_logistic_step(task, random.measurement_key(0))
    return step, float(cross_entropy(step, task, random.measurement_key(1)).value)


PLATEAU = LeftPlateau(
    null=lambda run: np.log(CLASSES),
    reference=lambda run: best_step(run.task)[1],
    metric="cross_entropy",
)


def loss_on(task):
    """What is measured during training."""
    return lambda layer, key: {"cross_entropy": cross_entropy(layer, task, key, prompts=2000).value}


@part.experiment
def classifier(s, trained=True):
    """One layer of linear self-attention, trained on cross-entropy."""
    return Experiment(
        task=task_of(s),
        model={"kind": "linear-transformer", "init_scale": s.classification_init_scale},
        objective="cross-entropy",
        measure=loss_on,
        counts=PLATEAU if trained else None,
        **training(s, "classification", trained),
    )


@part.measurement
def classified(lab, trained=classifier):
    """The layer beside one step on the logistic loss, on the same prompts."""
    step, _ = best_step(trained.task)
    return on_classes(trained.learner, step, trained.task, lab.key(), lab.settings.prompts)


@eqx.filter_jit
def on_classes(layer, step, task, key, prompts):
    """The differences of two classifiers, and the cosine of their sensitivities."""

    def mean(measure, learner):
        return measure(learner, task, key, prompts=prompts).value

    def centred(learner):
        return lambda prompt: learner(prompt) - learner(prompt).mean()

    return {
        "loss_difference": mean(cross_entropy, layer) / mean(cross_entropy, step) - 1,
        "accuracy_difference": mean(accuracy, layer) - mean(accuracy, step),
        "cosine": beside(centred(layer), centred(step), task, key, prompts=prompts)["cosine"],
    }


def least_squares(descent, **sizes):
    """A wrong construction: a step on squared errors, of labels whose mean is not taken off."""
    return gradient_descent_transformer(GradientDescent(descent.step_size), **sizes)


@part.claim(PLACE, every_seed_below(1e-5), must_fail_on={"construct": least_squares})
def logistic_construction(lab, construct=logistic_descent_transformer):
    """One layer of linear self-attention can be one step of gradient descent from zero on the
    logistic loss.

    Measured: greatest |ŷ - ŷ_GD| of logits over prompts, over their root mean square.
    """
    task, descent = task_of(lab.settings), LogisticDescent(jnp.asarray(2.0))
    sizes = {"dim": task.dim, "outputs": task.outputs, "context_length": task.context_length}
    return largest_difference(construct(descent, **sizes), descent, task, lab.key())


UNTRAINED = {"classified": classified.given(trained=classifier.given(trained=False))}


@part.claim(PLACE, within(0.05), must_fail_on=UNTRAINED)
def classification_loss(lab, classified=classified):
    """A layer that is trained on cross-entropy has the cross-entropy of one step of gradient
    descent on the logistic loss with the best step size.

    Measured: CE / CE_GD - 1, both on the same fresh prompts.
    """
    return classified.loss_difference


@part.claim(PLACE, above(0.95), must_fail_on=UNTRAINED)
def classification_cosine(lab, classified=classified):
    """The sensitivities of centred logits to the query point the same way.

    Measured: mean cosine of the two sensitivities.
    """
    return classified.cosine


@part.claim(PLACE, within(0.02), must_fail_on=UNTRAINED)
def classification_accuracy(lab, classified=classified):
    """Both choose the right class equally often.

    Measured: accuracy - accuracy_GD, both on the same fresh prompts.
    """
    return classified.accuracy_difference


@part.figure
def classification(lab, trained=classifier):
    """Cross-entropy over training, measured on fresh prompts, of one layer of linear
    self-attention, beside that of one step of gradient descent on the logistic loss with the best
    step size, {size}.
    """
    step, loss = best_step(trained[0].task)
    lines = {"one step on the logistic loss": loss, "all classes alike": np.log(CLASSES)}
    figure = figures.risk_over_training(
        {"trained layers": trained}, lines, metric="cross_entropy", ylabel="cross-entropy"
    )
    return figure, {"size": f"{float(step.step_size):.2f}"}
