"""The course of training in one formula.

Dots: the exact risk along gradient flow of a layer with merged keys and queries, from balanced
weights of the sizes b = 0.1, 0.01 and 0.001. Lines: the closed form of `merged_time_course`.
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt

import mesalens as ml

task = ml.tasks.RegressionTask(ml.tasks.Gaussian(4), ml.tasks.LinearFunctions(4), context_length=10)
moments, times, B = ml.theory.task_moments(task), jnp.linspace(0, 0.25, 51), jnp.ones((1, 1, 1, 1))
A, least = jnp.eye(4)[None, None] / 2, ml.theory.best_preconditioner(moments)[1]
with ml.plots.style():
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for b in (0.1, 0.01, 0.001):
        layer = ml.LinearTransformer(ml.models.Sparse(-b * A, b * B), layers=1)
        flow = ml.training.gradient_flow(lambda _, x=layer: x, task, times, key=ml.random.key(0))
        left = 1 - ml.theory.merged_time_course(moments, b**2, times)
        axes.plot(times, least + (4 - least) * left**2, color=ml.plots.REFERENCE)
        axes.plot(times, flow.metrics.risk[0], ".", color=ml.plots.TRAINED)
    axes.set(xlabel="time", ylabel="risk", title="Gradient flow and its formula")
