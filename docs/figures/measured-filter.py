"""The spectral filter of a black box, measured by asking it for predictions.

The black box is a function of NumPy arrays that runs ridge regression. The points are what
`identify` measures; the line is the filter of the family that it names.
"""

import matplotlib.pyplot as plt
import numpy as np

import mesalens as ml

task = ml.tasks.RegressionTask(ml.tasks.Gaussian(4), ml.tasks.LinearFunctions(4), context_length=10)


def black_box(xs, ys, query):
    weights = np.linalg.solve(xs.mT @ xs + 2 * np.eye(4), xs.mT @ ys)
    return np.einsum("bdm,bd->bm", weights, query)


report = ml.identify(black_box, task, prompts=1024)
with ml.plots.style():
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    axes.plot(report.filter.eigenvalues, report.filter.values[0], "o", label="black box, measured")
    for name in report.names:
        axes.plot(report.filter.eigenvalues, report.candidate_filters[name], label=name)
    axes.set(xlabel="eigenvalue λ of $X^T X/n$", ylabel="g(λ)", title=str(report).splitlines()[0])
    axes.legend()
