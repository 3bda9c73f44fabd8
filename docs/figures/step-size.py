"""One layer of linear attention is one step of gradient descent.

The curve is the exact risk of a step of size η. The points are the simulated risks of the attention
layers whose weights make them that step.
"""

import jax
import matplotlib.pyplot as plt
import numpy as np

import mesalens as ml

uniform, functions = ml.tasks.Uniform(10), ml.tasks.LinearFunctions(10)
task, key = ml.tasks.RegressionTask(uniform, functions, context_length=10), jax.random.key(1)
construct, sizes = ml.theory.gradient_descent_transformer, np.linspace(0, 2.4, 49)
layers = [construct(ml.GradientDescent(size), dim=10, context_length=10) for size in sizes[::8]]
risks = [risk.value for risk in ml.analysis.risks(layers, task, key, prompts=50_000)]
with ml.plots.style():
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    axes.plot(sizes, ml.theory.one_step_risk(task).at(sizes), ml.plots.REFERENCE, label="one step")
    axes.plot(sizes[::8], risks, "o", color=ml.plots.TRAINED, label="attention layer")
    axes.set(xlabel="step size η", ylabel="risk", title="One layer is one step")
    axes.legend()
