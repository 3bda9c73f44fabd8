# %% [markdown]
# # Your own task and its optimum
#
# What is the best that one layer of linear self-attention can do on a task of yours? A layer sees
# the context only through $S = \sum_i e_i e_i^\top$ with $e_i = (x_i, y_i)$, so the answer depends
# on a few moments of $S$. This notebook defines inputs of its own, computes the best layer with a
# certificate that no layer is better, and trains a layer to it.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import mesalens as ml

# %% [markdown]
# ## Inputs of your own
#
# Each coordinate of $x$ is $+1$ or $-1$, like the toss of a coin. A class for independent
# coordinates needs two methods: one draws inputs, the other gives the mean and the central moments
# $c_2, c_3, c_4$ of a coordinate. All moments of $S$ follow from these.


# %%
class Signs(ml.tasks.IndependentCovariates):
    def sample(self, key, shape=()):
        return self.scale * jax.random.rademacher(key, (*shape, self.dim), dtype=float)

    def central_moments(self):
        return 0.0, self.scale**2, 0.0, self.scale**4


d, n, noise = 4, 8, 0.5
task = ml.tasks.RegressionTask(
    Signs(d), ml.tasks.LinearFunctions(d), noise=ml.tasks.GaussianNoise(noise), context_length=n
)
task

# %% [markdown]
# Moments that are stated wrongly would give a wrong optimum, so mesalens compares them with draws
# when the class is built, and refuses what they contradict. By hand: the moment that matters is
# $E[\|x\|^2 x x^\top]$. It is $d\,I$ here; for Gaussian inputs it would be $(d + 2)\,I$.

# %%
xs = np.asarray(task.covariates.sample(jax.random.key(1), (100_000,)))
simulated = np.einsum("ki,ka,kb->ab", xs**2, xs, xs) / len(xs)
print("stated\n", task.covariates.fourth_moment(np.eye(d)))
print("simulated\n", simulated.round(2))

# %% [markdown]
# ## The optimum
#
# The best preconditioned step from zero is
# $\hat y = x_q^\top P \sum_i y_i x_i$ with
# $P = E[x x^\top]^{-1}\, E[x_q y_q s^\top]\, E[s s^\top]^{-1}$ and $s = \sum_i y_i x_i$.
# For $w \sim N(0, I)$ it is $E[x_q y_q s^\top] = n I$ and
#
# $$E[s s^\top] = n (n - 1)\, I + n\, \big(E[\|x\|^2 x x^\top] + \sigma^2 I\big)
# = n (n - 1 + d + \sigma^2)\, I,$$
#
# hence
#
# $$P = \frac{1}{n + d - 1 + \sigma^2}\, I.$$
#
# `optimal_layer` finds the same, and more.

# %%
best = ml.theory.optimal_layer(task)
print(f"it is {best.implements}")
print(f"step size {best.step_size:.6f}, formula {n / (n + d - 1 + noise):.6f}")
print(f"risk {best.risk:.6f}, predicting 0: {best.null_risk:.6f}")

# %% [markdown]
# ## The certificate
#
# Is a better layer possible, with other weights or more heads? Every layer is linear in
# $S \otimes x_q$, and the best predictor that is linear in all of $S \otimes x_q$ is a problem of
# least squares. Its risk is a lower bound for all layers. Here the bound is the risk of the step:

# %%
print(f"lower bound {best.certificate.lower_bound:.6f}, gap {best.certificate.gap:.1e}")
print(best.certificate.meaning)

# %% [markdown]
# ## Train a layer to it
#
# The same moments give the exact risk of any layer, as a polynomial in its weights. Training on it
# (`objective="population"`) has no noise of samples. The rule `near-optimum` stops a run when its
# risk is as near to the optimum as asked.

# %%
training = ml.train(
    lambda key: ml.LinearTransformer.initialise(d, key=key),
    task,
    ml.training.Adam(1e-2, schedule="cosine", clip=100.0),
    steps=1500,
    seeds=3,
    every=25,
    objective="population",
    stop={"kind": "near-optimum", "tolerance": 1e-8},
    key=jax.random.key(2),
)
for seed in range(3):
    excess = ml.theory.layer_risk(training.learner(seed), ml.theory.task_moments(task)) / best.risk
    steps = int(training.metrics.steps_taken[seed])
    print(f"seed {seed}: relative gap {excess - 1:.0e} after {steps} steps")

# %% alt="The relative gap of all three layers falls below 1e-8, where their training stops."
with ml.plots.style():
    figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
    axes.plot(training.metrics.step, training.metrics.excess_risk.T, color=ml.plots.TRAINED)
    axes.axhline(1e-8, color=ml.plots.NEUTRAL, ls=":")
    axes.set(xlabel="training step", ylabel="risk / optimum − 1", yscale="log")

# %% [markdown]
# The trained layer computes the step that theory predicts:

# %%
P = ml.analysis.learned_preconditioner(training.learner())[0]
print((P * (n + d - 1 + noise)).round(4))

# %% [markdown]
# ## Where one step is not the best
#
# The optimum depends on the task. If the coefficients have a mean, $w \sim N(\mu, I)$, then labels
# have a mean that depends on the query, and a layer from $W_0 = 0$ does better with other weights
# than those of a descent step. The certificate says what is known: the layer below was found by a
# search, and the bound says how much a better one could still gain.

# %%
shifted = ml.tasks.RegressionTask(
    Signs(d),
    ml.tasks.LinearFunctions(d, mean=np.ones((1, d))),
    noise=ml.tasks.GaussianNoise(noise),
    context_length=n,
)
other = ml.theory.optimal_layer(shifted)
print(f"{other.implements}: risk {other.risk:.4f}, best step {other.descent_risk:.4f}")
print(other.certificate.meaning)
