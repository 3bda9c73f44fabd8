"""Sixteen seeds at each of six learning rates, in one compiled program.

The risk of each layer after 300 steps. Dotted: the exact risks of the best step of descent, and of
the best step along a single direction, the saddle where some seeds stay at every rate.
"""

import jax
import matplotlib.pyplot as plt

import mesalens as ml

task = ml.tasks.RegressionTask(ml.tasks.Gaussian(3), ml.tasks.LinearFunctions(3), context_length=10)
start, rates = ml.LinearTransformer.initialise, [3e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2]
options = {"steps": 300, "seeds": 16, "objective": "population", "key": jax.random.key(0)}


def adam(rate):
    return ml.training.Adam(rate, clip=10.0)


trained = ml.train(lambda key: start(3, key=key), task, adam, vary={"rate": rates}, **options)
with ml.plots.style():
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    axes.semilogx(rates, trained.metrics.risk[..., -1], "o", alpha=0.4, color=ml.plots.TRAINED)
    for risk in ml.theory.plateau_risks(ml.theory.task_moments(task))[[1, 3]]:
        axes.axhline(risk, color=ml.plots.NEUTRAL, ls=":")
    axes.set(xlabel="learning rate", ylabel="risk", title="Ninety-six trainings")
