"""Gradient descent on the features sin x and cos x fits a sine wave.

Ten examples (dots) of the dotted wave, and what one, three and ten steps predict. One step is a
layer of linear attention behind an MLP that computes the features.
"""

import jax
import matplotlib.pyplot as plt
import numpy as np

import mesalens as ml

grid, xs = np.linspace(-5, 5, 200)[:, None], np.random.default_rng(3).uniform(-5, 5, (10, 1))


def features(x):
    return np.concatenate([np.sin(x), np.cos(x)], axis=-1)


learner, context = ml.GradientDescent(1.0, 10), (features(xs), np.sin(xs + 1))
steps = jax.vmap(lambda query: learner.iterates(ml.Prompt(*context, query)))(features(grid))
with ml.plots.style():
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    axes.plot(grid, steps[:, [1, 3, 10], 0], label=["one step", "three steps", "ten steps"])
    axes.plot(grid, np.sin(grid + 1), "k:", xs, context[1], "ko")
    axes.set(xlabel="x", ylabel="y", title="A sine wave from ten examples")
    axes.legend()
