"""GD++ brings the eigenvalues of the data together.

The spectrum of the prompt's inputs, and of what each layer of GD++ makes of them. The numbers κ are
geometric means of condition numbers.
"""

import jax
import matplotlib.pyplot as plt

import mesalens as ml

covariates, functions = ml.tasks.Gaussian(5), ml.tasks.LinearFunctions(5)
task = ml.tasks.RegressionTask(covariates, functions, context_length=20)
descent = ml.GradientDescent(0.5, 3, data_correction=0.2)
model = ml.theory.gradient_descent_transformer(descent, dim=5, context_length=20)
found = ml.analysis.input_spectra(model, task, jax.random.key(0))
with ml.plots.style():
    figure, axes = plt.subplots(figsize=(5, 3.8), layout="constrained")
    ml.plots.spectra(axes, found, color=ml.plots.TRAINED, decades=2.5)
    axes.set(title="Spectra of GD++, layer by layer")
