"""A softmax layer that puts each label beside its input.

Attention in the first layer of `theory.copying_transformer` on the tokens x₁, y₁, x₂, y₂, …, and
the query. Odd rows are those of inputs: each reads the label behind it. The last two rows have none
behind them, and what they read has no effect.
"""

import jax
import matplotlib.pyplot as plt

import mesalens as ml

task = ml.tasks.RegressionTask(ml.tasks.Gaussian(3), ml.tasks.LinearFunctions(3), context_length=5)
positions = ml.models.Sinusoidal(10)
weights = {"dim": 3, "context_length": 5, "positions": positions, "sharpness": 8.0}
model = ml.theory.copying_transformer(ml.GradientDescent(0.5), **weights)
prompt, _ = task.sample(jax.random.key(0))
with ml.plots.style():
    figure, axes = plt.subplots(figsize=(4.2, 4), layout="constrained")
    ml.plots.attention_map(axes, model.attention_weights(prompt)[0, 0], every=1)
    axes.set(title="Attention of the copying layer")
