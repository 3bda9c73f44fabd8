"""How much of each direction an algorithm learns.

Along an eigenvector of the context's Gram matrix with the eigenvalue λ a learner finds the share
λ g(λ) of what least squares finds. Small eigenvalues are learned last.
"""

import matplotlib.pyplot as plt
import numpy as np

import mesalens as ml

eigenvalues = np.linspace(0, 2, 200)
learners = {"one step": ml.GradientDescent(0.6), "eight steps": ml.GradientDescent(0.6, 8)}
learners["GD++, three steps"] = ml.GradientDescent(0.6, 3, data_correction=0.3)
learners["Newton, four steps"] = ml.learners.NewtonSchulz(4)
learners["Chebyshev, four steps"] = ml.learners.ChebyshevDescent(4, 0.1, 2.0)
learners |= {"ridge": ml.Ridge(2.0)}
with ml.plots.style():
    figure, axes = plt.subplots(figsize=(5, 3.6), layout="constrained")
    for name, each in learners.items():
        axes.plot(eigenvalues, eigenvalues * each.spectral_filter(eigenvalues, 10), label=name)
    axes.set(xlabel="eigenvalue λ of $X^T X/n$", ylabel="λ g(λ)", title="Spectral filters")
    axes.legend()
