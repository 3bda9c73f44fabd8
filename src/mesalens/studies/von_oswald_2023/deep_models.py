"""Transformers of several layers, and what they are compared with: gradient descent and GD++.

GD++ is trained, as in the paper, from plain gradient descent on, in an experiment of its own: each
seed of a transformer is compared with the GD++ of its seed. The best GD++ with rates of its own for
each of five steps is a different matter (docs/deep.md).
"""

import functools
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from mesalens.analysis import risk
from mesalens.atlas import Experiment, LeftPlateau, Trained, beside, remembered
from mesalens.atlas.study import Values
from mesalens.learners import GradientDescent, Learner
from mesalens.models import LinearTransformer
from mesalens.prompt import AnyPrompt
from mesalens.studies.von_oswald_2023.construction import Construct, construct_on, regression
from mesalens.tasks import RegressionTask
from mesalens.theory import best_steps, gradient_descent_transformer
from mesalens.theory.many_steps import DescentSteps

Kind = tuple[int, str, int, int, int]
"""The number of layers, whether they are "looped" or "unshared", d, n and m."""


def name_of(kind: Kind) -> str:
    """In words, as verdicts and figures show it."""
    layers, sharing, dim, context_length, outputs = kind
    vectors = f", m = {outputs}" if outputs > 1 else ""
    return f"{layers} {sharing} layers, d = {dim}, n = {context_length}{vectors}"


def transformer(s: Values, kind: Kind, trained: bool = True) -> Experiment:
    """Layers of linear self-attention, trained or not.

    As in the released code, activations are clipped to ±10 above three layers, and rates and limits
    of gradients depend on the number of layers. Claims count seeds that are closer in risk to
    gradient descent of their depth than to predicting 0.
    """
    layers, sharing, *sizes = kind
    steps = s.deep_steps[sharing == "unshared"] if trained else 1
    limits = {"clip": s.deep_clips[layers > 2], "epsilon": s.epsilon, "schedule": s.schedule}
    plateau = LeftPlateau(reference=lambda run: float(descent_of(run, s).risk.value))
    return Experiment(
        task=regression(*sizes),
        model={
            "kind": "linear-transformer",
            "layers": layers,
            "looped": sharing == "looped",
            "init_scale": s.deep_init_scale,
            "activation_clip": 10.0 if layers > 3 else None,
        },
        optimiser={"kind": "adam", "learning_rate": s.deep_rates[layers > 3], **limits},
        steps=steps,
        batch_size=s.deep_batch_size,
        every=max(steps // 20, 1),
        measure=functools.partial(measures, kind, s.prompts_for_rates),
        counts=plateau if trained else None,
    )


def measures(kind: Kind, prompts: int, task: RegressionTask):
    """What is measured of a transformer during training, beside gradient descent and GD++.

    GD++ is here the best one whose steps share their rates: it needs no training, and the best one
    with rates for each step diverges on rare prompts. It is left out for more than five layers,
    where the search takes minutes.
    """
    layers, sharing, *_ = kind
    rates = functools.partial(best_rates, task, layers, prompts=prompts)
    references = {"descent_": rates(shared=sharing == "looped").learner}
    if layers <= 5:
        references["plus_plus_"] = rates(shared=True, data_correction=True).learner

    def measure(learner, key):
        found = {}
        for prefix, reference in references.items():
            found |= beside(learner, reference, task, key, prompts=2000, prefix=prefix)
        return found

    return measure


@remembered
def best_rates(
    task: RegressionTask, layers: int, *, shared: bool, prompts: int, data_correction: bool = False
) -> DescentSteps:
    """The best rates of gradient descent, or GD++, of a depth: `best_steps` with fewer digits.

    The last digits depend on the machine, and trainings begin with these rates.
    """
    options = {"shared": shared, "prompts": prompts, "data_correction": data_correction}
    best = best_steps(task, layers, **options)
    correction = None if best.data_correction is None else np.round(best.data_correction, 3)
    return best._replace(step_size=np.round(best.step_size, 2), data_correction=correction)


def descent_of(trained: Trained, s: Values) -> DescentSteps:
    """The best gradient descent of a transformer's depth."""
    model, prompts = trained.learner, s.prompts_for_rates
    return best_rates(trained.task, model.layers, shared=model.looped, prompts=prompts)


class AsTransformer(Learner):
    """A descent whose batches go through its constructed transformer: the same, but faster."""

    descent: GradientDescent
    context_length: int = eqx.field(static=True)

    def __call__(self, prompt: AnyPrompt) -> Float[Array, " m"]:
        return self.descent(prompt)

    def batch(self, prompts: AnyPrompt) -> Float[Array, "batch m"]:
        sizes = {"dim": prompts.dim, "outputs": prompts.outputs}
        sizes["context_length"] = self.context_length
        return gradient_descent_transformer(self.descent, **sizes).batch(prompts)


def trained_plus_plus(s: Values, kind: Kind) -> Experiment:
    """GD++ of a depth, trained from gradient descent with the best rates on.

    Adam's rate is that of η/n and γ/n, the numbers in a transformer's weights.
    """
    layers, sharing, *sizes = kind
    task = regression(*sizes)
    steps = s.plus_plus_steps[sharing == "unshared"]
    rate = s.plus_plus_rates[layers > 3] * task.context_length
    limits = {"clip": s.clip, "epsilon": s.epsilon, "schedule": s.schedule}

    def start(key) -> AsTransformer:
        with jax.ensure_compile_time_eval():  # JAX traces this function, not the search for rates
            options = {"shared": sharing == "looped", "prompts": s.prompts_for_rates}
            rates: Any = best_rates(task, layers, **options).step_size
        descent = GradientDescent(rates, layers, data_correction=0 * rates)
        return AsTransformer(descent, task.context_length)

    def measure(task):
        return lambda learner, key: {"risk": risk(learner, task, key, prompts=2000).value}

    return Experiment(
        task=task,
        model=start,
        optimiser={"kind": "adam", "learning_rate": rate, **limits},
        steps=steps,
        batch_size=512,
        every=max(steps // 20, 1),
        measure=measure,
    )


def constructed(
    plus_plus: Trained, construct: Construct = gradient_descent_transformer
) -> LinearTransformer:
    """The transformer that is a trained GD++ by construction."""
    return construct_on(plus_plus.task, plus_plus.learner.descent, construct)
