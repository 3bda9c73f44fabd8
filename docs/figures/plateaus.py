"""The risk falls from plateau to plateau, one direction at a time.

Blue: gradient flow of one layer with eight heads of rank 1, from small weights. Dotted: the exact
risks of the best steps whose preconditioners have the ranks 0 to 4.
"""

import jax
import matplotlib.pyplot as plt
import numpy as np

import mesalens as ml

covariates = ml.tasks.Gaussian(4, covariance=np.diag([0.4, 0.3, 0.2, 0.1]))
task = ml.tasks.RegressionTask(covariates, ml.tasks.LinearFunctions(4), context_length=31)
heads = {"heads": 8, "structure": ml.models.LowRank.initialise, "init_scale": 1e-4}
start, times = ml.LinearTransformer.initialise, np.geomspace(1, 1e3, 200)
flow, key = ml.training.gradient_flow, jax.random.key(0)
risk = flow(lambda key: start(4, key=key, **heads), task, times, key=key).metrics.risk[0]
with ml.plots.style():
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    axes.hlines(ml.theory.plateau_risks(ml.theory.task_moments(task)), 1, 1e3, "black", ":", lw=1)
    axes.semilogx(times, risk, color=ml.plots.TRAINED)
    axes.set(xlabel="time", ylabel="risk", title="Five plateaus")
