# %% [markdown]
# # First steps
#
# A *prompt* is a list of labelled examples and a query, $(x_1, y_1), \dots, (x_n, y_n), x_q$. An
# *in-context learner* is a function from a prompt to a prediction of $y_q$. Gradient descent is
# one, ridge regression is one, and a transformer is one. This notebook draws prompts, calls several
# learners, trains one layer of linear self-attention, and compares it with gradient descent.

# %%
import jax
import matplotlib.pyplot as plt

import mesalens as ml

# %% [markdown]
# ## A task and a prompt
#
# A task is a distribution over prompts. In this one each prompt has a function $f(x) = w^\top x$ of
# its own with $w \sim N(0, I)$. Inputs are $x \sim N(0, I)$ in five dimensions, labels have noise
# of variance $\sigma^2 = 0.25$, and there are $n = 12$ examples.

# %%
task = ml.tasks.RegressionTask(
    ml.tasks.Gaussian(5),
    ml.tasks.LinearFunctions(5),
    noise=ml.tasks.GaussianNoise(0.25),
    context_length=12,
)
key = jax.random.key(0)
prompt, target = task.sample(key)
prompt

# %% [markdown]
# The shapes are those of $n$ inputs, $n$ labels and one query. The label of the query is not in the
# prompt: a learner cannot see it.
#
# ## Learners
#
# All learners are called in the same way. The same prompt goes to three of them:

# %%
learners = {
    "predicting 0": ml.learners.ConstantPrediction(0.0),
    "one step of gradient descent": ml.GradientDescent(0.66),
    "ridge regression": ml.Ridge(0.25),
}
print(f"label of the query: {target[0]:.2f}")
for name, learner in learners.items():
    print(f"{name}: {learner(prompt)[0]:.2f}")

# %% [markdown]
# The *risk* is the mean squared error over prompts, $E\|\hat y - y_q\|^2$. It is simulated here,
# and comes with its standard error. With this noise and this prior, ridge regression with penalty
# $\sigma^2$ is the Bayes predictor: no learner has a lower risk.

# %%
for name, learner in learners.items():
    print(f"{name}: {ml.analysis.risk(learner, task, key)}")

# %% [markdown]
# ## One step of gradient descent, exactly
#
# The risk of one step from $W_0 = 0$ is a parabola in the step size $\eta$. For linear functions
# its coefficients are known exactly. For this task the best step size is
# $\eta^* = n / (n + d + 1 + \sigma^2) = 12 / 18.25$.

# %%
one_step = ml.theory.one_step_risk(task)
print(f"best step size {one_step.best_step_size:.4f}, risk {one_step.best_risk:.4f}")

# %% alt="The risk of one step is a parabola with its minimum, 1.96, at a step size of 0.66."
sizes = [0.02 * place for place in range(66)]
with ml.plots.style():
    figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
    axes.plot(sizes, [one_step.at(size) for size in sizes], color=ml.plots.REFERENCE)
    axes.plot(one_step.best_step_size, one_step.best_risk, "o", color=ml.plots.REFERENCE)
    axes.set(xlabel="step size η", ylabel="risk")

# %% [markdown]
# ## Train a layer
#
# A layer of linear self-attention reads the examples as tokens $e_i = (x_i, y_i)$ and has weights
# $W_Q, W_K, W_V, P$. It is trained on fresh prompts at each step, from three seeds. A bar shows the
# progress, and is gone at the end.

# %%
with ml.progress.ProgressReport() as bars:
    training = ml.train(
        lambda key: ml.LinearTransformer.initialise(5, key=key),
        task,
        ml.training.Adam(1e-2, clip=1.0, schedule="cosine"),
        steps=1000,
        batch_size=512,
        seeds=3,
        every=25,
        key=key,
        progress=bars.start("training", 1000),
    )
training

# %% alt="The loss of three layers falls from 5.25 to 1.96, the exact risk of the best step."
loss = training.metrics.loss[:, 1:]
with ml.plots.style():
    figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
    ml.plots.curve(axes, loss, color=ml.plots.TRAINED, label="three layers, mean and range")
    axes.axhline(one_step.null_risk, color=ml.plots.NEUTRAL, ls=":", label="predicting 0, exact")
    axes.axhline(one_step.best_risk, color=ml.plots.REFERENCE, ls="--", label="best step, exact")
    axes.set(xlabel="training step", ylabel="loss")
    axes.legend()

# %% [markdown]
# The layer comes down to the risk of the best step of gradient descent, and not below.
#
# ## Is it the same function?
#
# Two learners with the same risk may still differ. `compare` holds the layer beside references, on
# the same prompts. The sensitivity of a prediction is its derivative with respect to the query; the
# cosine of two sensitivities is 1 if they point in the same direction.

# %%
layer, descent = training.learner(), ml.GradientDescent(one_step.best_step_size)
references = {"gradient descent": descent, "ridge": ml.Ridge(0.25)}
compared = ml.analysis.compare(layer, references, task, key)
measures = ["risk_difference", "relative_difference", "sensitivity_cosine"]
compared.value.sel(measure=measures).to_pandas().round(4)

# %% [markdown]
# The layer predicts what one step of gradient descent predicts, and not what ridge regression does.
# Its weights say the same. A layer takes a step $\hat y = x_q^\top P \sum_i y_i x_i$, and theory
# expects $P = \frac{\eta^*}{n} I$.

# %% alt="The preconditioner of the trained layer and that of theory are the same multiple of I."
learned = ml.analysis.learned_preconditioner(layer)[0]
best = ml.theory.optimal_layer(task).preconditioner
with ml.plots.style():
    figure, panels = plt.subplots(1, 2, figsize=(5, 2.6), layout="constrained")
    for axes, P, title in zip(panels, (learned, best), ("trained", "theory"), strict=True):
        image = ml.plots.heat_map(axes, P, limit=0.06)
        axes.set_title(title)
    figure.colorbar(image, ax=panels, label="entry of P")
