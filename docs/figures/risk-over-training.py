"""Five trained layers come to the risk of one step of gradient descent.

Blue: the risk of five layers of linear attention over training, each from its own random weights.
Dashed: the exact risk of one step of gradient descent with the best step size.
"""

import jax
import matplotlib.pyplot as plt

import mesalens as ml

covariates, functions = ml.tasks.Gaussian(5), ml.tasks.LinearFunctions(5)
task = ml.tasks.RegressionTask(covariates, functions, context_length=10)
options = {"steps": 300, "objective": "population", "seeds": 5, "every": 5}
start, adam = ml.LinearTransformer.initialise, {"kind": "adam", "learning_rate": 3e-3}
trained = ml.train(lambda key: start(5, key=key), task, adam, key=jax.random.key(0), **options)
with ml.plots.style():
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    axes.plot(trained.metrics.step, trained.metrics.risk.T, color=ml.plots.TRAINED, lw=1.2)
    axes.axhline(ml.theory.one_step_risk(task).best_risk, color=ml.plots.REFERENCE, ls="--")
    axes.set(xlabel="training step", ylabel="risk", title="Five layers, and one step of descent")
