"""Transformers of several layers, and what they are compared with: gradient descent and GD++.

As in the paper, GD++ is trained, starting from plain gradient descent, in a separate experiment:
each seed of a transformer is compared with the GD++ of that seed. The best GD++ with separate rates
for each of five steps is something else (docs/pages/theory/several-layers.md).
"""

import functools
from typing import Any

import equinox as eqx
import jax
import numpy as np

from mesalens import analysis
from mesalens.atlas import Experiment, LeftPlateau, beside, remembered
from mesalens.learners import GradientDescent, Learner
from mesalens.studies.von_oswald_2023.study import regression, training
from mesalens.theory import best_step_sizes, gradient_descent_transformer


def name_of(kind):
    """In words: number of layers, "looped" or "unshared", d, n and m."""
    layers, sharing, dim, context_length, outputs = kind
    vectors = f", m = {outputs}" if outputs > 1 else ""
    return f"{layers} {sharing} layers, d = {dim}, n = {context_length}{vectors}"


@remembered
def best_rates(task, layers, *, shared, prompts, data_correction=False):
    """The best rates of gradient descent, or GD++, of a depth: `best_step_sizes` with fewer digits.

    The last digits depend on the machine, and trainings start from these rates.
    """
    options = {"shared": shared, "prompts": prompts, "data_correction": data_correction}
    best = best_step_sizes(task, layers, **options)
    correction = None if best.data_correction is None else np.round(best.data_correction, 3)
    return best._replace(step_size=np.round(best.step_size, 2), data_correction=correction)


def best_descent(trained):
    """The best gradient descent of a transformer's depth."""
    model, prompts = trained.learner, trained.settings.prompts_for_rates
    return best_rates(trained.task, model.layers, shared=model.looped, prompts=prompts)


def descent(trained):
    """Its steps."""
    return best_descent(trained).learner


# Nearer in risk to gradient descent of their depth than to predicting 0
PLATEAU = LeftPlateau(reference=lambda run: float(best_descent(run).risk.value))


def transformer(s, kind):
    """The training of layers of linear self-attention.

    As in the released code, activations are clipped to ±10 for more than three layers, and learning
    rates and the clipping of gradients depend on the number of layers.
    """
    layers, sharing, *sizes = kind
    rates = {"learning_rate": s.deep_rates[layers > 3], "clip": s.deep_clips[layers > 2]}
    steps = s.deep_steps[sharing == "unshared"]
    return Experiment(
        task=regression(*sizes),
        model={
            "kind": "linear-transformer",
            "layers": layers,
            "looped": sharing == "looped",
            "init_scale": s.deep_init_scale,
            "activation_clip": 10.0 if layers > 3 else None,
        },
        measure=functools.partial(measures, kind, s.prompts_for_rates),
        counts=PLATEAU,
        **training(s, steps=steps, batch_size=s.deep_batch_size, **rates),
    )


def measures(kind, prompts, task):
    """Comparisons of a transformer with gradient descent and GD++, measured during training.

    GD++ is here the best one with shared rates: it needs no training, and the best one with
    separate rates diverges on rare prompts. It is left out for more than five layers, for which the
    search takes minutes.
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


class AsTransformer(Learner):
    """A descent that computes batches by its equivalent transformer, which is faster."""

    descent: GradientDescent
    context_length: int = eqx.field(static=True)

    def __call__(self, prompt):
        return self.descent(prompt)

    def batch(self, prompts):
        sizes = {"dim": prompts.dim, "outputs": prompts.outputs}
        sizes["context_length"] = self.context_length
        return gradient_descent_transformer(self.descent, **sizes).batch(prompts)


def plus_plus(s, kind):
    """The training of GD++ of a depth, starting from gradient descent with the best rates.

    Adam's learning rate is for η/n and γ/n, the numbers in a transformer's weights.
    """
    layers, sharing, *sizes = kind
    task = regression(*sizes)
    steps = s.plus_plus_steps[sharing == "unshared"]
    rate = s.plus_plus_rates[layers > 3] * task.context_length

    def start(key):
        with jax.ensure_compile_time_eval():  # JAX traces this function, not the search for rates
            options = {"shared": sharing == "looped", "prompts": s.prompts_for_rates}
            rates: Any = best_rates(task, layers, **options).step_size
        descent = GradientDescent(rates, layers, data_correction=0 * rates)
        return AsTransformer(descent, task.context_length)

    def measure(task):
        return lambda learner, key: {"risk": analysis.risk(learner, task, key, prompts=2000).value}

    common = {"task": task, "model": start, "measure": measure}
    return Experiment(**common, **training(s, steps=steps, batch_size=512, learning_rate=rate))
