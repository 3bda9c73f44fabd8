"""Learners that are close on a task part where its inputs are scaled.

Risk over the scale α of the inputs, in units of that of predicting 0. One step of gradient descent
is at its best at the scale that its step size is made for. Noise has the variance 1/4.
"""

import jax
import matplotlib.pyplot as plt
import numpy as np

import mesalens as ml

factors, noise = (ml.tasks.Gaussian(5), ml.tasks.LinearFunctions(5)), ml.tasks.GaussianNoise(0.25)
task = ml.tasks.RegressionTask(*factors, context_length=10, noise=noise)
zero, step = ml.GradientDescent(0.0), ml.GradientDescent(ml.theory.best_step_size(task))
learners = [zero, step, ml.Ridge(0.25), ml.LeastSquares(), ml.learners.KNearestNeighbours(3)]
alphas, scaled = np.linspace(0.2, 2.2, 21), ml.analysis.scaled_inputs(task)
none, *risks = ml.analysis.risks_under_shift(learners, scaled, alphas, jax.random.key(0))
with ml.plots.style():
    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
    axes.semilogy(alphas, np.transpose([risk.value / none.value for risk in risks]))
    axes.set(ylim=(0.02, 40), xlabel="scale α of the inputs", ylabel="risk / risk of predicting 0")
    axes.legend(["one step of descent", "ridge", "least squares", "three nearest neighbours"])
