"""Two softmax heads of opposite sign come near a step of descent; one head does not.

Simulated risks over the scale κ of the logits, at the best gain for each. One head is a kernel
smoother. Dotted: the exact risk of a step on centred inputs, the limit of two heads for small κ.
"""

import jax
import matplotlib.pyplot as plt

import mesalens as ml

task = ml.tasks.RegressionTask(ml.tasks.Gaussian(5), ml.tasks.LinearFunctions(5), context_length=10)
scales, key = jax.numpy.geomspace(0.03, 3, 9), jax.random.key(0)


def products(prompt, y):
    head = jax.vmap(lambda scale: ml.learners.SoftmaxHead(scale)(prompt))
    return [(each * y, each**2) for each in (head(scales), head(scales) - head(-scales))]


risks = [5 - g.value**2 / c.value for g, c in ml.analysis.expectation(products, task, key)]
with ml.plots.style():
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    axes.semilogx(scales, risks[0], "o-", scales, risks[1], "s-")
    axes.axhline(ml.theory.centred_step_risk(task).best_risk, color=ml.plots.NEUTRAL, ls=":")
    axes.set(xlabel="scale κ of the logits", ylabel="risk", title="Softmax attention")
    axes.legend(["one head", "two heads"])
