"""What a layer loses on new tasks falls like one over the number of tasks it was made for.

The best step for a pool of M tasks, for three pools of each size: its risk on new tasks over that
of the best step for all tasks, less 1. Four inputs, twenty examples; all risks are exact.
"""

import matplotlib.pyplot as plt
import numpy as np

import mesalens as ml


def moments(functions):
    task = ml.tasks.RegressionTask(ml.tasks.Gaussian(4), functions, context_length=20)
    return ml.theory.task_moments(task)


every, sizes = moments(ml.tasks.LinearFunctions(4)), 4 ** np.arange(1, 7)
pool, best = ml.tasks.FinitePool, ml.theory.best_preconditioner
pools = [moments(pool(4, size=int(M), pool_seed=seed)) for M in sizes for seed in range(3)]
risks = [ml.theory.preconditioned_risk(best(each)[0], every) for each in pools]
with ml.plots.style():
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    excess = np.reshape(risks, (-1, 3)) / best(every)[1] - 1
    axes.loglog(sizes, excess, "C0o", sizes, 1 / sizes, "k:")
    axes.set(xlabel="tasks M in the pool (dotted: 1/M)", ylabel="excess", title="Loss on new tasks")
