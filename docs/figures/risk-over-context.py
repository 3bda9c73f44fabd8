"""How far one layer is from the best there is, over the length of the context.

Five inputs, noise of variance 1/4, and functions with a mean, which a step of descent from zero
does not use. The bound is for layers with any number of heads, Bayes for all learners.
"""

import matplotlib.pyplot as plt
import numpy as np

import mesalens as ml

factors = ml.tasks.Gaussian(5), ml.tasks.LinearFunctions(5, mean=np.ones((1, 5)))
noise, lengths = ml.tasks.GaussianNoise(0.25), (2, 5, 10, 20, 40)
tasks = [ml.tasks.RegressionTask(*factors, context_length=n, noise=noise) for n in lengths]
best = [ml.theory.optimal_layer(task) for task in tasks]
with ml.plots.style():
    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
    axes.plot(lengths, [each.descent_risk for each in best], "s-", label="one step of descent")
    axes.plot(lengths, [each.risk for each in best], "o-", label="best layer with one head")
    axes.plot(lengths, [each.certificate.lower_bound for each in best], "--", label="bound")
    axes.plot(lengths, [ml.theory.bayes_risk(task).value for task in tasks], ":", label="Bayes")
    axes.set(xlabel="examples n", ylabel="risk", title="Risk over the length of the context")
    axes.legend()
